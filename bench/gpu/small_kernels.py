"""The small kernels (move, widen, note, mix, mixture, posteriors) against the specification, between guard zones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gpu.guarded import ZONE, Guarded
from gpu.report import Report
from helpers.step_cases import OPTIONS, Case, mixed, mixture_of, moved, noted, posterior_of, widened
from smalti_kernels.errors import KernelError
from smalti_kernels.impl.cuda.launch import Kernels
from smalti_kernels.impl.cuda.modules import packed


class Found(NamedTuple):
    """What one launch gave."""

    differing: int
    elements: int
    spoiled: list[str]


def compare(report: Report, kernels: Kernels, zone: int = ZONE, *, large: bool) -> None:
    """Compare every small kernel; one that breaks is noted, and the next one is tried."""
    for name, cases in cases_of(np.random.default_rng(5), large=large).items():
        try:
            found = [launch(case, kernels, zone) for case in cases]
        except (KernelError, MemoryError) as error:
            report.fail(name, str(error))
            continue
        wrong, elements = sum(one.differing for one in found), sum(one.elements for one in found)
        report.compared(name, wrong, elements, "elements that differ", f"{len(found)} launches; {kernels.target.name}")
        if zone:
            spoiled = [part for one in found for part in one.spoiled]
            note = ", ".join(spoiled[:4])
            report.compared(f"{name}: guard zones", len(spoiled), len(found), "zones or inputs changed", note)


def cases_of(rng: np.random.Generator, *, large: bool) -> dict[str, Iterator[Case]]:
    """Launches of each kernel with rows of all sorts; `large` ones where no interpreter runs them."""
    rows, sizes = (60, (70, 1000, 8192)) if large else (15, (70, 600))
    held = (1000, 4000, 8000, 16000) if large else (70, 1100)
    plain = [one for one in OPTIONS.values() if not one.flags & 2]
    truncated = [one for one in OPTIONS.values() if one.flags & 2]
    errors = np.zeros(3000, np.int32)
    errors[[1500, 2999]] = 4, 8
    return {
        "move": (moved(rng, count) for count in (1, 255, 256, 1000)),
        "widen": (widened(rng, rows, size, more) for size in sizes for more in (0, 1)),
        "note": (
            noted(array, before, 2) for array in (errors, 0 * errors, errors[:1]) for before in ((0, 0, 0), (1, 7, 1))
        ),
        "mix": (mixed(rng, rows, size, fresh=fresh) for size in sizes for fresh in (True, False)),
        "mixture": (mixture_of(rng, rows, size) for size in sizes),
        "posterior": (posterior_of(rng, rows, size, one) for size in sizes for one in plain),
        "posterior, truncated": (posterior_of(rng, rows, size, one) for size in held for one in truncated),
    }


def launch(case: Case, kernels: Kernels, zone: int) -> Found:
    """Launch with every array in an allocation of its own."""
    with Guarded(kernels, case.arrays, zone) as held:
        addresses = dict(held.address)
        addresses.setdefault("uncond", addresses.get("logits", 0))  # what is not read gets a valid address
        loaded = kernels.load(case.form.name)
        kernels.queue(loaded, case.grid, packed(case.form.arguments, {**case.numbers, **addresses}), 0)
        wrong = case.differing({name: held.read(name) for name in case.expected})
        elements = sum(array.size for array in case.expected.values())
        return Found(sum(wrong.values()), elements, held.spoiled(tuple(case.expected)) if zone else [])
