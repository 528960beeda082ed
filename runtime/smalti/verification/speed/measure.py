"""Seconds of draws, stage by stage: runs of one kind, or of several kinds in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from smalti.bundle.manifest import PRIOR_ROLES
from smalti.drawing.generator import Generator
from smalti.drawing.result import Result
from smalti.errors import UsageError
from smalti.families.settings import Options

STAGES: Final = ("network", "draw", "decoder", "host", "total")
PERCENTILES: Final = (20, 50, 80)
"""The 50th is the median; the others tell how much runs differ, without the few that other programs disturbed."""
FIRST_SEED: Final = 1000


@dataclass(frozen=True)
class Kind:
    """One kind of draw."""

    generator: Generator
    count: int = 1
    """Images per batch."""
    options: Options = field(default_factory=Options)


@dataclass(frozen=True)
class Measured:
    """What runs of one kind of draw took."""

    bundle: str
    digest: str
    count: int
    """Images per batch."""
    width: int
    """Pixels, as ``height``."""
    height: int
    steps: int | None
    """None in a family that has no steps."""
    calls: int
    """Network calls of a batch."""
    precision: Mapping[str, str]
    """Precision of each component, by role."""
    prior: str
    """Role of the prior."""
    provider: Mapping[str, Any]
    """As ``ProviderReport.to_dict`` gives it."""
    seconds: Mapping[str, tuple[float, ...]]
    """Seconds of each run, for a whole batch, by the names in STAGES."""
    units: tuple[float, ...] = ()
    """Seconds of the fixed product before the first run and after each; empty where none was timed."""

    @property
    def repeats(self) -> int:
        """Number of runs."""
        return len(self.seconds["total"])

    @property
    def megapixels(self) -> float:
        """10^6 pixels of a whole batch."""
        return self.count * self.width * self.height / 1e6

    def at(self, stage: str, percent: float = 50) -> float:
        """Return a percentile of the seconds of a stage, for a whole batch; by default the median."""
        return float(np.percentile(self.seconds[stage], percent))

    @property
    def images_per_second(self) -> float:
        """Images per second at the median."""
        return self.count / self.at("total")


def measure(
    generator: Generator,
    count: int = 1,
    steps: int | None = None,
    repeats: int = 5,
    resolution: int | None = None,
) -> Measured:
    """Generate ``count`` images ``repeats`` times after one untimed run.

    Raises UsageError for ``repeats`` below 1, and as :meth:`smalti.Generator.generate` does.
    """
    return measure_each([Kind(generator, count, Options(steps=steps, resolution=resolution))], repeats)[0]


def measure_each(
    kinds: Sequence[Kind], repeats: int, unit: Callable[[], float] | None = None, *, warm: bool = True
) -> list[Measured]:
    """Draw each kind in turns, ``repeats`` times, so that a machine that slows down meanwhile slows all alike.

    Every run draws other seeds, so no result can be remembered. With ``warm`` each kind is drawn once before, untimed.
    ``unit`` is called before the first run and after each; it returns seconds.

    Raises UsageError for ``repeats`` below 1, and as :meth:`smalti.Generator.generate` does.
    """
    if repeats < 1:
        raise UsageError(f"repeats {repeats}: at least 1 is needed")
    seed = FIRST_SEED
    for kind in kinds if warm else ():
        kind.generator.generate(kind.count, 0, **kind.options)
    results: list[list[Result]] = [[] for _ in kinds]
    units: list[list[float]] = [[] for _ in kinds]
    for _ in range(repeats):
        for place, kind in enumerate(kinds):
            if unit is not None and not units[place]:
                units[place].append(unit())
            results[place].append(kind.generator.generate(kind.count, seed, **kind.options))
            if unit is not None:
                units[place].append(unit())
            seed += kind.count
    return [_measured(*one) for one in zip(kinds, results, units)]


def first_picture(opened: Callable[[], Generator], options: Options) -> tuple[Generator, float, float]:
    """Load a bundle and draw one picture; return the generator, seconds of loading and seconds of that draw.

    Libraries that are imported already, and verdicts on providers that are kept, are not part of it.
    """
    started = time.perf_counter()
    generator = opened()
    loaded = time.perf_counter()
    generator.generate(1, 0, **options)
    return generator, loaded - started, time.perf_counter() - loaded


def _measured(kind: Kind, results: Sequence[Result], units: Sequence[float]) -> Measured:
    generator, last = kind.generator, results[-1]
    width, height = last.images[0].size
    return Measured(
        bundle=generator.manifest.name,
        digest=generator.bundle.digest,
        count=kind.count,
        width=width,
        height=height,
        steps=last.settings.value("steps"),
        calls=last.timings.calls,
        precision=dict(generator.report.precision),
        prior=PRIOR_ROLES[generator.manifest.family],
        provider=generator.report.to_dict(),
        seconds={stage: tuple(getattr(result.timings, stage) for result in results) for stage in STAGES},
        units=tuple(units),
    )
