"""Everything here that wants a GPU, in one command: ``python3 bench/speed/gpu.py [-- arguments of kernel.py]``.

Runs the tests of the prebuilt kernels (tests/kernels/test_cuda.py), then times them (bench/speed/kernel.py), from a
bare checkout: smalti need not be installed, nothing is fetched. Needs Python 3.11, NumPy and pytest; with torch,
Triton and ONNX Runtime it compares with them too. Logs go to the folder $OUT names, by default gpu-results:

    environment.json  device, driver, versions
    test_cuda.log     the tests, with the reason of every one that was skipped
    kernel.log        the timings

The exit code is 0 if all of it ran and passed. Without a GPU the first step says what is missing and nothing is run.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("numpy", "torch", "triton", "onnxruntime", "onnxruntime-gpu", "onnx", "pytest")


def environment() -> dict[str, object]:
    """What the figures hold for; raises what the launcher raises where there is no GPU to run on."""
    from smalti_kernels.impl.cuda.launch import load_kernels

    kernels = load_kernels(0)
    versions: dict[str, str] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "device": dataclasses.asdict(kernels.device),
        "cuda_of_driver": kernels.driver.version,
        "runs": kernels.target.name,
        "platform": platform.platform(),
        "versions": versions,
    }


def run(name: str, log: Path, arguments: list[str]) -> bool:
    """Run one step; its output goes to the terminal and to its log. Returns whether it passed."""
    started = time.perf_counter()
    print(f"+ {' '.join(arguments)}", flush=True)
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            print(line, end="", flush=True)
    print(f"{name}: exit code {process.returncode} after {time.perf_counter() - started:.1f} s", flush=True)
    return process.returncode == 0


def main() -> int:
    """Run every step, also after one that failed."""
    paths = [str(ROOT / "kernels"), str(ROOT / "runtime")]
    sys.path[:0] = paths
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
    from smalti_kernels.errors import SmaltiError

    try:
        found = environment()
    except SmaltiError as error:
        print(f"nothing was run: {error}", file=sys.stderr)
        return 1
    out = Path(os.environ.get("OUT") or ROOT / "gpu-results")
    out.mkdir(parents=True, exist_ok=True)
    (out / "environment.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found), flush=True)
    extra = sys.argv[2:] if sys.argv[1:2] == ["--"] else sys.argv[1:]
    tests = ["-m", "pytest", "tests/kernels/test_cuda.py", "-q", "-rs", "-p", "no:cacheprovider", "--durations=5"]
    passed = [
        run("tests", out / "test_cuda.log", [sys.executable, *tests]),
        run("timings", out / "kernel.log", [sys.executable, "bench/speed/kernel.py", *extra]),
    ]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
