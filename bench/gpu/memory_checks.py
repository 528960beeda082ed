"""Whether the kernels touch what is not theirs: guard zones around every array, and compute-sanitizer where it is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from gpu import small_kernels
from gpu.cases import Cases
from gpu.equality import CUT, PLAIN, vocabularies_of
from gpu.guarded import ZONE, Guarded
from gpu.machine import Machine
from gpu.report import Report
from smalti_kernels.checks import Request
from smalti_kernels.errors import KernelError
from smalti_kernels.impl import reference
from smalti_kernels.impl.abi import VARIANTS
from smalti_kernels.impl.cuda.draw import host_arrays
from smalti_kernels.impl.cuda.launch import Kernels, Pointers

WRITTEN = ("tokens", "changed", "errors", "logprob")
TOOLS = ("memcheck", "racecheck", "synccheck")
FOLDERS = (
    "/usr/local/cuda*/bin",
    "/usr/local/cuda*/compute-sanitizer",
    "/opt/cuda*/bin",
    "/opt/nvidia/*/compute-sanitizer",
)
SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:errors?|hazards?)")


def check(report: Report, machine: Machine) -> None:
    """Guard zones first, which run everywhere; then the checker."""
    between_zones(report, machine)
    if machine.kind != "gpu":
        report.skip("compute-sanitizer", "it needs a GPU; here the interpreter of PTX checks every address")
        return
    sanitizer, looked = find_sanitizer()
    if sanitizer is None:
        report.skip("compute-sanitizer", f"it is not on this machine; looked in {looked}")
        return
    report.found["compute-sanitizer"] = sanitizer
    for tool in TOOLS:
        if machine.left < 15:
            report.skip(f"compute-sanitizer {tool}", "no time was left")
            continue
        sanitize(report, sanitizer, tool, min(60.0, machine.left - 5))


def find_sanitizer() -> tuple[str | None, str]:
    """The checker's path, or None; and where it was looked for."""
    name = "compute-sanitizer"
    roots = [os.environ[key] for key in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(key)]
    places = [*(f"{root}/bin" for root in roots), *FOLDERS]
    found = shutil.which(name)
    for place in places:
        top = Path(place)
        pattern = str(top.relative_to("/")) if top.is_absolute() else place
        found = found or next((str(path) for path in sorted(Path("/").glob(f"{pattern}/{name}"))), None)
    return found, ", ".join(["PATH", *places])


def sanitize(report: Report, sanitizer: str, tool: str, seconds: float) -> None:
    """Run `few_launches` in a process under one tool of the checker."""
    command = [sanitizer, "--tool", tool, sys.executable, str(Path(__file__).with_name("run.py")), "--few-launches"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired) as error:
        report.skip(f"compute-sanitizer {tool}", f"it did not end: {error}")
        return
    text = done.stdout + done.stderr
    report.found[tool] = text[-4000:]
    summary = SUMMARY.search(text)
    launches = re.search(r"few launches: (\d+)", text)
    if summary and int(summary[1]) and "Device not supported" not in text:
        report.add(f"compute-sanitizer {tool}", int(summary[1]), "errors", 1, "failed", text[-300:])
    elif summary and launches and done.returncode == 0:
        report.compared(f"compute-sanitizer {tool}", 0, int(launches[1]), "errors", "each array its own allocation")
    else:
        report.skip(f"compute-sanitizer {tool}", f"it did not work here: {text[-300:]}")


def between_zones(report: Report, machine: Machine) -> None:
    """Every variant with all its flags, its arrays between guard zones; the small kernels are so in their own step."""
    cases, launches, wrong, spoiled = Cases(1 << 18), 0, 0, list[str]()
    for variant in VARIANTS:
        sets = [*(CUT if variant.held else PLAIN).values()]
        for options in sets if machine.kind == "gpu" else sets[-1:]:
            (vocabulary,) = vocabularies_of(variant, 1)
            request = cases.request(variant.logits, machine.sizes.rows, vocabulary, **options)
            try:
                differs, changed = launch(request, machine.kernels, ZONE)
            except (KernelError, MemoryError) as error:
                report.fail(variant.name, str(error))
                continue
            launches, wrong, spoiled = launches + 1, wrong + differs, [*spoiled, *changed]
    note = f"{ZONE} bytes of 0xFF before and after each array; {', '.join(spoiled[:4])}"
    report.compared("guard zones of the draw", len(spoiled), launches, "zones or inputs changed", note)
    report.compared("draws between guard zones", wrong, launches * machine.sizes.rows)


def launch(request: Request, kernels: Kernels, zone: int) -> tuple[int, list[str]]:
    """Draw with every array in an allocation of its own: how many results differ, and what was spoiled."""
    arrays, shape, flags = host_arrays(request)
    expected = reference.draw(request)
    with Guarded(kernels, arrays, zone) as held:
        kernels.draw(Pointers(**held.address), shape, guidance=float(request.guidance), flags=flags)
        differs = int((held.read("tokens") != expected.tokens).sum()) + int((held.read("errors") != 0).sum())
        differs += int((held.read("changed").view(np.bool_) != expected.changed).sum())
        if expected.logprob is not None:
            differs += int((held.read("logprob") != expected.logprob).sum())
        return differs, held.spoiled(WRITTEN) if zone else []


def few_launches(machine: Machine) -> int:
    """What a memory checker watches: draws without zones, so that each allocation ends where its array does."""
    cases, count = Cases(1 << 17), 0
    for variant in VARIANTS:
        options: dict[str, Any] = [*(CUT if variant.held else PLAIN).values()][-1]
        (vocabulary,) = vocabularies_of(variant, 1)
        launch(cases.request(variant.logits, 9, vocabulary, **options), machine.kernels, 0)
        count += 1
    silent = Report("few launches", machine.kind)
    small_kernels.compare(silent, machine.kernels, 0, large=False)
    if silent.failed:
        raise MemoryError(str(silent.failed))
    return count + len(silent.figures)
