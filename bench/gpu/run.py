"""Everything that wants a GPU, in one command of at most 8 minutes: ``python bench/gpu/run.py``.

From a bare checkout, or the thin tree of ``python bench/gpu/thin.py OUT``: smalti need not be installed, and nothing is
fetched. Needs Python 3.11, NumPy and an NVIDIA driver. What else is missing is named, and costs only its own steps:

    msgspec, Pillow, ONNX Runtime    the device loop, seconds per megapixel (with its CUDA provider: all of both)
    torch, Triton                    Triton's own compilation, what the kernels are timed beside
    pytest                           tests/kernels/test_cuda.py

Each step is a process of its own. Results go to the folder $OUT names, by default gpu-results: gpu.json, and gpu.md to
read. ``--stub`` does all of it on a CPU that plays the device (tests/helpers): it proves the command, and measures
nothing. The exit code is 0 where something ran and nothing failed. A target that is not met is no failure.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parents[2]
PATHS = [str(ROOT / name) for name in ("bench", "kernels", "runtime", "tests")]
sys.path[:0] = [path for path in PATHS if path not in sys.path]

if TYPE_CHECKING:
    from gpu.machine import Machine
    from gpu.report import Report

STEPS = {
    "environment": 60,
    "cubin": 75,
    "ptx": 75,
    "small-kernels": 40,
    "triton": 60,
    "memory-checks": 90,
    "kernel-speed": 100,
    "loop": 100,
    "seconds": 90,
    "tests": 75,
}
"""The steps in order, and the most seconds of each. Most take far less."""
TOTAL = 450
GRACE = 15
"""Seconds that a step may run on after its time, before it is stopped."""


def do(step: str, report: Report, machine: Machine) -> None:
    """Run one step. A step imports what it needs, since a package may be missing."""
    if step == "environment":
        from gpu import environment

        environment.look(report, machine)
    elif step in ("cubin", "ptx"):
        from gpu import equality
        from gpu.machine import PTX

        equality.compare(report, machine, machine.loaded_as(PTX) if step == "ptx" else machine.kernels)
    elif step == "small-kernels":
        from gpu import small_kernels
        from gpu.machine import PTX

        own, large = machine.kernels, machine.kind == "gpu"
        for kernels in [own] if own.target == PTX else [own, machine.loaded_as(PTX)]:
            small_kernels.compare(report, kernels, large=large)
    elif step == "triton":
        from gpu import triton_jit

        triton_jit.compare(report, machine)
    elif step == "memory-checks":
        from gpu import memory_checks

        memory_checks.check(report, machine)
    elif step == "kernel-speed":
        from gpu import kernel_speed

        kernel_speed.measure(report, machine)
    elif step == "loop":
        from gpu import loop

        loop.check(report, machine)
    elif step == "seconds":
        from gpu import seconds

        seconds.measure(report, machine)
    else:
        from gpu import gpu_tests

        gpu_tests.run(report, machine)


def one_step(step: str, path: Path, seconds: float, *, stub: bool) -> int:
    """What the process of a step does; its report is in its file at any time."""
    from gpu.report import Report

    report = Report(step, "stub" if stub else "gpu", path)
    started = time.monotonic()
    try:
        from gpu.machine import open_gpu, open_stub

        do(step, report, (open_stub if stub else open_gpu)(seconds))
    except ImportError as error:
        report.skip(step, f"{error}; it is not on this machine")
    except Exception as error:  # the step is over, whatever it is
        report.found["trace"] = traceback.format_exc()[-3000:]
        report.fail(step, f"{type(error).__name__}: {str(error)[:500]}")
    report.seconds, report.finished = time.monotonic() - started, True
    report.write()
    return 0


def run_step(step: str, seconds: float, *, stub: bool, folder: Path) -> dict[str, Any]:
    """Run a step in a process of its own, and return its report, as far as it came."""
    from gpu.report import Report

    path = folder / f"{step}.json"
    Report(step, "stub" if stub else "gpu", path).write()
    command = [sys.executable, __file__, "--step", step, "--report", str(path), "--seconds", f"{seconds:.0f}"]
    started = time.monotonic()
    reason = ""
    try:
        done = subprocess.run([*command, *(["--stub"] if stub else [])], cwd=ROOT, timeout=seconds + GRACE)
        if done.returncode:
            reason = f"its process ended with exit code {done.returncode}"
    except subprocess.TimeoutExpired:
        reason = f"it was stopped after {seconds + GRACE:.0f} s"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if not content["finished"]:
        content["failed"][step] = reason or "its process ended early"
        content["status"] = "failed"
    content["seconds"] = time.monotonic() - started
    return content


def missing() -> str:
    """Why nothing can run on a GPU here; empty if it can."""
    try:
        from smalti_kernels.errors import KernelError
        from smalti_kernels.impl.cuda.driver import driver
        from smalti_kernels.impl.cuda.targets import target_for
    except ImportError as error:
        return f"{error}: pip install numpy"
    try:
        device = driver().device(0)
    except KernelError as error:
        return str(error)
    if target_for(device.capability, driver().version) is None:
        return f"no kernel was built for {device.name}, compute capability {device.capability / 10:.1f}"
    return ""


REFUSAL = """nothing was run: {reason}

On a machine with an NVIDIA GPU and its driver:
    python bench/gpu/run.py
A tree of under 60 MiB that has all it needs, to copy there:
    python bench/gpu/thin.py OUT
Without a GPU, the same steps on a CPU that plays one, which measure nothing:
    python bench/gpu/run.py --stub"""


def everything(names: list[str], out: Path, total: float, *, stub: bool) -> int:
    """Run the steps, and write what they found."""
    from gpu.report import NOT_MEASURED, markdown

    if stub:
        print(NOT_MEASURED.replace("**", ""), flush=True)
    out.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "schema": 1,
        "measured": not stub,
        "ran_on": "stub" if stub else "gpu",
        "date": datetime.date.today().isoformat(),
        "command": "python bench/gpu/run.py" + (" --stub" if stub else ""),
        "seconds": 0.0,
        "device": {},
        "versions": {},
        "steps": {},
    }
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            print(f"+ {name}", flush=True)
            left = total - (time.monotonic() - started)
            if left < GRACE:
                skipped = {name: "no time was left"}
                content["steps"][name] = {"status": "skipped", "step": name, "figures": [], "skipped": skipped}
                content["steps"][name] |= {"failed": {}, "found": {}, "seconds": 0.0}
            else:
                step = run_step(name, min(STEPS[name], left), stub=stub, folder=Path(folder))
                content["steps"][name] = step
                print(f"{name}: {step['status']} after {step['seconds']:.1f} s", flush=True)
            if name == "environment":
                content |= {key: content["steps"][name]["found"].get(key, {}) for key in ("device", "versions")}
            content["seconds"] = time.monotonic() - started
            (out / "gpu.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            (out / "gpu.md").write_text(markdown(content), encoding="utf-8")
    print("\n" + markdown(content), flush=True)
    states = [step["status"] for step in content["steps"].values()]
    return 1 if "failed" in states or "passed" not in states else 0


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stub", action="store_true", help="run on a CPU that plays the device; nothing is measured")
    parser.add_argument(
        "--only", nargs="+", choices=list(STEPS), default=list(STEPS), metavar="STEP", help="some steps"
    )
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or ROOT / "gpu-results"))
    parser.add_argument("--seconds", type=float, default=TOTAL, help=f"for all steps together (default {TOTAL})")
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--few-launches", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.few_launches:
        from gpu.machine import open_gpu, open_stub
        from gpu.memory_checks import few_launches

        print(f"few launches: {few_launches((open_stub if options.stub else open_gpu)(60))}", flush=True)
        return 0
    if options.step:
        return one_step(options.step, options.report, options.seconds, stub=options.stub)
    if not options.stub and (reason := missing()):
        print(REFUSAL.format(reason=reason), file=sys.stderr)
        return 1
    return everything([name for name in STEPS if name in options.only], options.out, options.seconds, stub=options.stub)


if __name__ == "__main__":
    sys.exit(main())
