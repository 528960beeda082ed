"""Triton's own compilation of the draw, on torch tensors, against the NumPy reference."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from gpu.cases import Cases, differing
from gpu.equality import CUT, PLAIN, vocabularies_of
from gpu.machine import Machine
from gpu.report import Report
from smalti_kernels.checks import Draw, Request
from smalti_kernels.impl import reference
from smalti_kernels.impl.abi import LOGITS, VARIANTS


def missing(machine: Machine) -> str:
    """Why Triton cannot compile for this device; empty if it can."""
    if machine.kind != "gpu":
        return "Triton compiles for GPUs only; the tests interpret its kernels"
    for name in ("torch", "triton"):
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken installation raises anything
            return f"{name} cannot be imported: {error}"
    if not importlib.import_module("torch").cuda.is_available():
        return "torch sees no GPU"
    return ""


def compare(report: Report, machine: Machine) -> None:
    """Draw with every variant, without flags and with all of them."""
    if reason := missing(machine):
        report.skip("impl=triton", reason)
        return
    torch, cases = importlib.import_module("torch"), Cases(1 << 20)
    report.found["triton"] = importlib.import_module("triton").__version__
    for kind in LOGITS:
        wrong = draws = 0
        for variant in (variant for variant in VARIANTS if variant.logits == kind):
            sets = CUT if variant.held else PLAIN
            for options in (next(iter(sets.values())), [*sets.values()][-1]):
                if machine.left < 5:
                    report.skip(f"{variant.name}, {options}", "no time was left")
                    continue
                (vocabulary,) = vocabularies_of(variant, 1)
                request = cases.request(kind, machine.sizes.rows, vocabulary, **options)
                try:
                    wrong += differing(on_tensors(torch, request), reference.draw(request))
                    draws += machine.sizes.rows
                except Exception as error:  # its compiler raises anything
                    report.fail(variant.name, f"{type(error).__name__}: {str(error)[:300]}")
        if draws:
            report.compared(f"Triton, {kind}", wrong, draws, note=f"Triton {report.found['triton']}")


def on_tensors(torch: Any, request: Request) -> Draw:
    """Draw a request of NumPy arrays as tensors; the result in NumPy."""
    launch = importlib.import_module("smalti_kernels.impl.triton.launch")

    def tensor(array: Any) -> Any:
        if array is None:
            return None
        if request.kind == "bf16":
            return torch.from_numpy(array.view(np.int16)).cuda().view(torch.bfloat16)
        return torch.from_numpy(array).cuda()

    there = request._replace(
        logits=tensor(request.logits),
        uncond=tensor(request.uncond),
        tokens=torch.from_numpy(np.ascontiguousarray(request.tokens)).cuda(),
    )
    drawn = launch.draw(there)
    return Draw(*(None if part is None else part.cpu().numpy() for part in drawn))
