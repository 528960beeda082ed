"""The draw's kernels against the NumPy reference, bit for bit: one of the files that the device can run."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from gpu.cases import Cases, differing
from gpu.machine import Machine
from gpu.report import Report
from smalti_kernels.checks import Request
from smalti_kernels.errors import KernelError, SamplingError
from smalti_kernels.impl import reference
from smalti_kernels.impl.abi import FLAG_TRUNCATED, LOGITS, VARIANTS, Variant, variant_for
from smalti_kernels.impl.cuda import draw as cuda
from smalti_kernels.impl.cuda.launch import Kernels

PLAIN: dict[str, dict[str, Any]] = {
    "no flags": {},
    "guided": {"guided": True},
    "log-probability": {"logprob": True},
    "guided, log-probability": {"guided": True, "logprob": True},
}
CUT: dict[str, dict[str, Any]] = {
    "top-k": {"top_k": 50},
    "top-p, log-probability": {"top_p": 0.9, "logprob": True},
    "guided, top-k": {"guided": True, "top_k": 20},
    "all": {"guided": True, "top_k": 200, "top_p": 0.8, "logprob": True},
}
UNFILLED = (784, 1000, 2032)
"""Vocabularies that do not fill the last chunk: bfloat16 was wrong there once."""
MOST_ELEMENTS = 1 << 26
"""Logits of one draw at most."""


def compare(report: Report, machine: Machine, kernels: Kernels) -> None:
    """Compare everything; a part that breaks is noted, and the next one is tried."""
    cases = Cases(machine.sizes.pool)
    report.found["file"] = kernels.target.name
    for part in (every_variant, unfilled_vocabularies, many_draws, rows_without_an_answer, ties_and_extremes):
        try:
            part(report, machine, kernels, cases)
        except (KernelError, MemoryError) as error:
            report.fail(part.__name__.replace("_", " "), str(error))


def count_differing(request: Request, kernels: Kernels) -> int:
    """Draw on the device and in NumPy. A row that only the kernel refuses counts as one that differs."""
    try:
        drawn = cuda.draw(request, kernels)
    except SamplingError as error:
        print(f"  refused: {error}", flush=True)
        return len(request.logits)
    return differing(drawn, reference.draw(request))


def vocabularies_of(variant: Variant, most: int) -> list[int]:
    """The greatest, the smallest and a middle vocabulary that a variant is chosen for; ``most`` of them."""
    smaller = [other.vocabulary for other in VARIANTS if bool(other.held) == bool(variant.held)]
    least = max((v for v in smaller if v < variant.vocabulary), default=0) + 1
    chosen = [(least + variant.vocabulary) // 2, variant.vocabulary, least]
    assert all(variant_for(variant.logits, v, FLAG_TRUNCATED if variant.held else 0) == variant for v in chosen)
    return chosen[:most]


def every_variant(report: Report, machine: Machine, kernels: Kernels, cases: Cases) -> None:
    """All variants with all flags."""
    sizes = machine.sizes
    for kind in LOGITS:
        wrong = draws = runs = 0
        names: list[str] = []
        for variant in (variant for variant in VARIANTS if variant.logits == kind):
            for options in (CUT if variant.held else PLAIN).values():
                for vocabulary in vocabularies_of(variant, sizes.vocabularies):
                    found = count_differing(cases.request(kind, sizes.rows, vocabulary, **options), kernels)
                    wrong, draws, runs = wrong + found, draws + sizes.rows, runs + 1
                    if found:
                        names.append(f"{variant.name} at V = {vocabulary}, {options}")
        note = f"{runs} draws of {sizes.rows} rows: 7 variants x 4 sets of flags x {sizes.vocabularies} vocabularies"
        report.compared(
            f"every variant, {kind}", wrong, draws, note="; ".join(names[:5]) or f"{note}; {kernels.target.name}"
        )


def unfilled_vocabularies(report: Report, machine: Machine, kernels: Kernels, cases: Cases) -> None:
    """Vocabularies that do not fill the last chunk, in every type."""
    rows = 16 * machine.sizes.rows if machine.kind == "gpu" else machine.sizes.rows
    for kind, vocabulary in itertools.product(("bf16", "fp16", "fp32"), UNFILLED):
        wrong = sum(
            count_differing(cases.request(kind, rows, vocabulary, **options), kernels)
            for options in ({"logprob": True}, {"guided": True}, {"top_k": 30})
        )
        report.compared(f"{kind} at V = {vocabulary}", wrong, 3 * rows, note=kernels.target.name)


def many_draws(report: Report, machine: Machine, kernels: Kernels, cases: Cases) -> None:
    """Hundreds of thousands of draws, as long as there is time; half of it stays for what follows."""
    total = {kind: [0, 0] for kind in LOGITS}
    for (vocabulary, wanted), kind in itertools.product(machine.sizes.draws.items(), LOGITS):
        done = 0
        while done < wanted and machine.left > 10:
            rows = min(wanted - done, 50_000, MOST_ELEMENTS // vocabulary)
            total[kind][0] += count_differing(cases.request(kind, rows, vocabulary), kernels)
            total[kind][1] += rows
            done += rows
        if done < wanted:
            report.skip(f"{wanted - done} draws, {kind} at V = {vocabulary}", "no time was left")
    for kind, (wrong, draws) in total.items():
        vocabularies = ", ".join(map(str, machine.sizes.draws))
        report.compared(f"many draws, {kind}", wrong, draws, note=f"V = {vocabularies}; {kernels.target.name}")


def rows_without_an_answer(report: Report, machine: Machine, kernels: Kernels, cases: Cases) -> None:
    """NaN, infinities and scores out of range: the reference's own message."""
    wrong = count = 0
    for fill in (np.nan, np.inf, -np.inf, 60_000.0):
        for options in ({}, {"guided": True}, {"top_k": 5}):
            request = cases.request("fp32", machine.sizes.rows, 300, **options)
            request.logits[-2:] = fill
            texts = [_refusal(reference.draw, request), _refusal(cuda.draw, request, kernels)]
            wrong, count = wrong + (texts[0] != texts[1] or not texts[0]), count + 1
    report.compared("rows without an answer", wrong, count, "messages that differ", kernels.target.name)


def _refusal(draw: Callable[..., object], *arguments: Any) -> str:
    try:
        draw(*arguments)
    except SamplingError as error:
        return str(error)
    return ""


def ties_and_extremes(report: Report, machine: Machine, kernels: Kernels, cases: Cases) -> None:
    """Equal logits, the edges of the range, and one token that has it all."""
    wrong = count = 0
    for vocabulary, fill in itertools.product((70, 1024), (0.0, -700.0, 700.0)):
        request = cases.request("fp32", machine.sizes.rows, vocabulary)
        request.logits[:] = fill
        wrong, count = wrong + count_differing(request, kernels), count + machine.sizes.rows
    request = cases.request("fp32", machine.sizes.rows, 1024)
    request.logits[:, 1::2] = -np.inf
    request.logits[:, 900] = 1000
    hot = request._replace(scale=np.full_like(request.scale, 65536))
    wrong, count = wrong + count_differing(hot, kernels), count + machine.sizes.rows
    report.compared("ties and extremes", wrong, count, note=kernels.target.name)
