"""A baseline: the score of a kind of draw, kept in a file, that a later score is compared with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from smalti.errors import UsageError
from smalti.system.files import write_whole
from smalti.system.platform import reachable
from smalti.verification.speed.measure import Measured
from smalti.verification.speed.unit import Score

FORMAT: Final = 1
ALLOWED: Final = 0.10
"""How much worse a score may be, as a share of the baseline's."""


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, and how."""

    format: int = FORMAT
    bundle: str
    digest: str
    """Of the bundle."""
    provider: str
    asked_precision: str
    """As ``--precision`` took it."""
    precision: dict[str, str]
    """Of each component, by role."""
    threads: int
    count: int
    steps: int | None
    """Those that were drawn with; None in a family that has none."""
    resolution: int | None
    """As ``--resolution`` took it."""
    width: int
    height: int
    repeats: int
    score: Score
    seconds_per_megapixel: float
    """The median, for people: it is not what is compared."""
    versions: dict[str, str]
    processor: str


@dataclass(frozen=True)
class Verdict:
    """How a score compares with a baseline's."""

    change: float
    """The score by the baseline's, less 1: 0.1 is 10 % slower."""
    spread: float
    """What two such scores may differ by where nothing changed, as a share of the baseline's."""

    @property
    def regression(self) -> bool:
        """Whether the score is worse than allowed, and by more than chance explains."""
        return self.change > ALLOWED and self.change > self.spread


@dataclass(frozen=True)
class Compared:
    """A baseline, and what came of the comparison with it."""

    baseline: Baseline
    verdict: Verdict
    changes: tuple[str, ...]
    """What else is not as it was."""


def baseline_of(
    measured: Measured, score: Score, resolution: int | None, versions: dict[str, str], processor: str
) -> Baseline:
    """Return what is kept of a measurement."""
    return Baseline(
        bundle=measured.bundle,
        digest=measured.digest,
        provider=measured.provider["actual"],
        asked_precision=measured.provider["requested_precision"],
        precision=dict(measured.precision),
        threads=measured.provider["threads"],
        count=measured.count,
        steps=measured.steps,
        resolution=resolution,
        width=measured.width,
        height=measured.height,
        repeats=measured.repeats,
        score=score,
        seconds_per_megapixel=measured.at("total") / measured.megapixels,
        versions=versions,
        processor=processor,
    )


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write a baseline as JSON. Raises OutputError when it cannot be written."""
    write_whole(path, msgspec.json.format(msgspec.json.encode(baseline), indent=2) + b"\n")


def read_baseline(path: Path) -> Baseline:
    """Read a baseline. Raises UsageError for a file that is missing or none."""
    try:
        content = reachable(path).read_bytes()
    except OSError as error:
        raise UsageError(f"baseline {path} cannot be read: {error.strerror or error}") from error
    try:
        found = msgspec.json.decode(content, type=Baseline)
    except msgspec.MsgspecError as error:
        raise UsageError(f"{path} is no baseline of smalti bench ({error}); --save-baseline writes one") from error
    if found.format != FORMAT or not (math.isfinite(found.score.median) and found.score.median > 0):
        raise UsageError(f"{path} is no baseline that this version compares with; --save-baseline writes a new one")
    return found


def differences(baseline: Baseline, now: Baseline) -> list[str]:
    """Say what makes two scores incomparable: the bundle, the provider, and the settings of the draw."""
    names = ("bundle", "digest", "provider", "precision", "threads", "count", "steps", "width", "height")
    pairs = [(name, getattr(baseline, name), getattr(now, name)) for name in names]
    return [f"{name} {_short(after)} in place of {_short(before)}" for name, before, after in pairs if before != after]


def changes(baseline: Baseline, now: Baseline) -> list[str]:
    """Say what else is not as it was: versions and processor, which may be what a comparison is about."""
    names = sorted({*baseline.versions, *now.versions})
    pairs = [(name, baseline.versions.get(name, "none"), now.versions.get(name, "none")) for name in names]
    pairs.append(("processor", baseline.processor, now.processor))
    return [f"{name} {after}, it was {before}" for name, before, after in pairs if before != after]


def check_comparable(baseline: Baseline, now: Baseline) -> None:
    """Raise UsageError where a baseline is of something else than what was measured now."""
    if found := differences(baseline, now):
        raise UsageError(
            f"the baseline is of something else: {'; '.join(found)}. Measure what it is of, or write a new one with "
            "--save-baseline"
        )


def compare(before: Score, now: Score) -> Verdict:
    """Compare two scores. Each has its own spread, and both count."""
    spread = math.hypot(before.spread, now.spread)
    return Verdict(now.median / before.median - 1, spread / before.median)


def _short(value: Any) -> str:
    """Return a value for a message; a digest is long."""
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
