"""Measure the figures of a bundle's certificate again, with its golden inputs, on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalti.backends.base import Backend
from smalti.backends.signatures import mismatches
from smalti.bundle.manifest import AGAIN, PRIOR_ROLES, ROUNDED, Measure, Precision, Role, missed
from smalti.bundle.reader import Bundle
from smalti.drawing.generator import Generator
from smalti.errors import BundleError, SamplingError, UsageError
from smalti.verification.comparison import compare_runs, run_labels
from smalti.verification.golden import Golden, compare_golden, read_golden

Say = Callable[[str], None]


@dataclass(frozen=True)
class Remeasured:
    """Figures of one variant on this machine, with those of its certificate."""

    component: Role
    precision: Precision
    provider: str
    figures: dict[str, float]
    certified: dict[str, float]
    tolerances: dict[str, float]
    missed: tuple[str, ...]
    """Figures out of tolerance, as text; empty when all are within."""


def remeasure(bundle: Bundle, backend: Backend, say: Say = lambda line: None) -> list[Remeasured]:
    """Measure the certificate's figures again on a backend, with the bundle's golden inputs.

    ``say`` is told what is measured now: component and precision, and which of the golden cases, or which step.

    Raises UsageError when the bundle has none, ProviderUnavailable when the backend cannot run it, BundleError when a
    file is damaged or does not fit.
    """
    golden = read_golden(bundle)
    if golden is None:
        raise UsageError(
            f"{bundle.path} has no golden inputs to measure with: export it again, or verify "
            "its files and graphs alone, without --run"
        )
    if missing := sorted(set(bundle.manifest.components) - set(golden.cases)):
        raise BundleError(f"{bundle.path}: the golden inputs have none of the {missing[0]}. {AGAIN}")
    found: list[Remeasured] = []
    for measure in bundle.manifest.certificate:
        if not backend.has(bundle, measure.component, measure.precision):
            continue
        figures = _figures(bundle, measure, golden, backend, say)
        again = {name for name in measure.tolerances if not name.startswith(ROUNDED)}
        if lacking := sorted(again - figures.keys()):
            raise BundleError(
                f"{bundle.path}: the golden inputs of the {measure.component} do not tell its {', '.join(lacking)}, "
                f"for which there is a bound. {AGAIN}"
            )
        wrong = tuple(missed(figures, measure.tolerances))
        found.append(
            Remeasured(
                measure.component, measure.precision, backend.name, figures, measure.figures, measure.tolerances, wrong
            )
        )
    return found


def _figures(bundle: Bundle, measure: Measure, golden: Golden, backend: Backend, say: Say) -> dict[str, float]:
    role, precision = measure.component, measure.precision
    what, cases, number = f"{role} {precision}", golden.cases[role], count(1)
    say(what)
    session = backend.open(bundle, role, precision)
    if wrong := mismatches(bundle, role, precision, session.inputs, session.outputs):
        raise BundleError("; ".join(wrong))

    def graph(inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        say(f"{what}: golden case {next(number)} of {len(cases)}")
        try:
            return session(inputs)
        except BundleError as error:
            raise BundleError(f"the golden inputs of the {role} do not fit its graph: {error}") from error

    figures = compare_golden(bundle, role, cases, graph)
    if golden.runs is not None and role == PRIOR_ROLES[bundle.manifest.family]:
        runs = len(golden.runs)
        generator = Generator(bundle, backend, precision)
        labels, tokens = run_labels(bundle.manifest.classes, runs), golden.runs
        try:
            for step in generator.stream(seeds=range(runs), label=labels):
                say(f"{what}: step {step.index + 1} of {step.total} of {runs} pictures")
                tokens = step.tokens
        except SamplingError:  # invalid logits, such as NaN
            tokens = np.full_like(golden.runs, -1)
        figures |= compare_runs(tokens, golden.runs)
    return figures
