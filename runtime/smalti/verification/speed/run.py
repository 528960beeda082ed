"""One call of ``smalti bench``: load, first picture, steady runs, memory, sweeps, and a comparison with a baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from smalti.drawing.generator import Generator
from smalti.errors import UsageError
from smalti.families.settings import Options
from smalti.verification.speed.baseline import (
    Baseline,
    Compared,
    baseline_of,
    changes,
    check_comparable,
    compare,
)
from smalti.verification.speed.measure import Kind, Measured, first_picture, measure_each
from smalti.verification.speed.memory import memory
from smalti.verification.speed.report import Report
from smalti.verification.speed.sweeps import Sweep, sweep, unsuited
from smalti.verification.speed.unit import open_unit, score_of
from smalti.verification.speed.versions import processor, processor_told, versions

Load = Callable[[int | None], Generator]
"""Loads the bundle to draw with a number of threads; None is the number that was asked for."""


@dataclass(frozen=True)
class Asked:
    """What is to be measured."""

    count: int = 1
    """Images per batch."""
    steps: int | None = None
    """None is the bundle's own, as with ``resolution``."""
    resolution: int | None = None
    repeats: int = 5
    """Timed runs of each kind of draw."""
    scored: bool = False
    """Whether draws are timed in turns with the fixed product."""
    sweeps: Mapping[str, tuple[int, ...] | None] = field(default_factory=dict[str, tuple[int, ...] | None])
    """Names and values; None are the usual values."""
    leaves_out: bool = False
    """Whether sweeps that the bundle or the provider does not allow are left out; else they are refused."""


def run(asked: Asked, load: Load, before: Baseline | None = None) -> Report:
    """Measure all that is asked for. With a baseline, a regression is told when two measurements show it.

    Raises UsageError for a value out of range, a sweep that is impossible, and a baseline of something else;
    ProviderUnavailable where the fixed product has no ONNX Runtime; and what loading and drawing raise.
    """
    if asked.repeats < 1:
        raise UsageError(f"repeats {asked.repeats}: at least 1 is needed")
    options = Options(steps=asked.steps, resolution=asked.resolution)
    generator, loading, first = first_picture(lambda: load(None), options)
    kind, here, told = Kind(generator, asked.count, options), processor(), versions(generator.report)
    if asked.count > 1:  # a batch of one was drawn already
        generator.generate(asked.count, 0, **options)

    def measured() -> tuple[Measured, Baseline | None]:
        unit = open_unit(generator.backend.threads, first * asked.count) if asked.scored else None
        found = measure_each([kind], asked.repeats, unit, warm=False)[0]
        if unit is None:
            return found, None
        score = score_of(found.seconds["total"], found.units)
        return found, baseline_of(found, score, asked.resolution, told, processor_told(here))

    steady, now = measured()
    most, compared = memory(generator.backend), None
    if before is not None and now is not None:
        check_comparable(before, now)
        if compare(before.score, now.score).regression:  # noise passes, and a regression stays
            again = measured()
            steady, now = min((steady, now), again, key=lambda one: one[1].score.median if one[1] else 0.0)
        assert now is not None
        compared = Compared(before, compare(before.score, now.score), tuple(changes(before, now)))
    sweeps = _swept(asked, kind, steady, load)
    return Report(steady, loading, first, most, told, here, sweeps, now, compared)


def _swept(asked: Asked, kind: Kind, base: Measured, load: Load) -> Sequence[Sweep]:
    refused = {name: why for name in asked.sweeps if (why := unsuited(name, base, kind.generator))}
    for name, why in refused.items():
        if not asked.leaves_out:
            raise UsageError(f"sweep {name}: {why}")
    wanted = {name: values for name, values in asked.sweeps.items() if name not in refused}
    return [sweep(name, values, kind, base, load, asked.repeats) for name, values in wanted.items()]
