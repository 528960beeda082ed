"""The tests of the prebuilt kernels on a GPU: streams, threads, torch's memory, graphs, ONNX Runtime's pointers."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from gpu.machine import Machine
from gpu.report import Report

ROOT = Path(__file__).parents[2]
TESTS = "tests/kernels/test_cuda.py"
SLOW = "not million"
"""The steps `cubin` and `ptx` draw as many."""


def run(report: Report, machine: Machine) -> None:
    """Run them with pytest, in a process of its own, without the configuration of the repository."""
    if machine.kind != "gpu":
        report.skip(TESTS, "they need a GPU; the tests on the stub are in tests/kernels and tests/runtime")
        return
    if importlib.util.find_spec("pytest") is None:
        report.skip(TESTS, "pytest is not installed")
        return
    paths = [str(ROOT / name) for name in ("kernels", "runtime", "tests")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    arguments = [TESTS, "-c", os.devnull, "--rootdir", str(ROOT), "--noconftest", "--import-mode=importlib"]
    arguments += ["-q", "-rs", "-k", SLOW, "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *arguments]
    limit = max(10.0, machine.left - 3)
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        report.skip(TESTS, f"it did not end in {limit:.0f} s")
        return
    text = done.stdout + done.stderr
    report.found["pytest"] = text[-6000:]
    counts = {kind: int(count) for count, kind in re.findall(r"(\d+) (passed|failed|error|skipped)", text)}
    passed, bad = counts.get("passed", 0), counts.get("failed", 0) + counts.get("error", 0)
    for where, reason in re.findall(r"^SKIPPED \[\d+\] (\S+?): (.*)$", text, re.MULTILINE)[:6]:
        report.skip(where, reason)
    if passed or bad:
        report.compared(TESTS, bad, passed + bad, "tests that fail", text[-300:] if bad else "")
    elif done.returncode and not counts.get("skipped"):
        report.fail(TESTS, text[-500:])
