"""Everything that was measured, as plain values for JSON and as a table for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import msgspec

from smalti.verification.doctor.facts import Processor
from smalti.verification.speed.baseline import ALLOWED, Baseline, Compared
from smalti.verification.speed.measure import PERCENTILES, STAGES, Measured
from smalti.verification.speed.memory import Memory
from smalti.verification.speed.sweeps import Sweep
from smalti.verification.speed.unit import Score
from smalti.verification.speed.versions import processor_told, versions_told

HEADS: Final = {"batch": "images", "steps": "steps", "canvas": "pixels", "threads": "threads"}
"""What a sweep's values count."""


@dataclass(frozen=True)
class Report:
    """Everything that one call of ``smalti bench`` found."""

    steady: Measured
    """Runs after the first."""
    load: float
    """Seconds until the bundle was loaded."""
    first: float
    """Seconds of the first draw, of one picture."""
    memory: Memory
    versions: dict[str, str]
    processor: Processor
    sweeps: Sequence[Sweep] = ()
    scored: Baseline | None = None
    """The score with all that it belongs to; it may be kept as a baseline."""
    compared: Compared | None = None


def report_values(report: Report) -> dict[str, Any]:
    """Return a report as plain values. ``seconds`` are medians of a batch; times of a sweep are by its values."""
    scored, compared = report.scored, report.compared
    return {
        **measured_values(report.steady),
        "first_picture": {"load": report.load, "draw": report.first, "total": report.load + report.first},
        "memory": {"host_bytes": report.memory.host, "device_bytes": report.memory.device},
        "provider": dict(report.steady.provider),
        "versions": report.versions,
        "processor": asdict(report.processor),
        "sweeps": {
            one.name: {str(value): measured_values(point) for value, point in one.points.items()}
            for one in report.sweeps
        },
        "score": scored and {**msgspec.structs.asdict(scored.score), "spread": scored.score.spread},
        "baseline": compared
        and {
            "score": msgspec.structs.asdict(compared.baseline.score),
            "change": compared.verdict.change,
            "spread": compared.verdict.spread,
            "allowed": ALLOWED,
            "regression": compared.verdict.regression,
            "changes": list(compared.changes),
        },
    }


def measured_values(measured: Measured) -> dict[str, Any]:
    """Return what runs of one kind took. The medians of stages need not sum to the median of the totals."""

    def by_stage(divisor: float) -> dict[str, dict[str, float]]:
        return {
            stage: {f"p{percent}": measured.at(stage, percent) / divisor for percent in PERCENTILES} for stage in STAGES
        }

    return {
        "bundle": measured.bundle,
        "digest": measured.digest,
        "count": measured.count,
        "width": measured.width,
        "height": measured.height,
        "steps": measured.steps,
        "network_calls": measured.calls,
        "repeats": measured.repeats,
        "precision": measured.precision[measured.prior],
        "threads": measured.provider["threads"],
        "seconds": {stage: measured.at(stage) for stage in STAGES},
        "seconds_per_megapixel": {stage: measured.at(stage) / measured.megapixels for stage in STAGES},
        "per_picture": by_stage(measured.count),
        "per_megapixel": by_stage(measured.megapixels),
        "images_per_second": measured.images_per_second,
    }


def report_lines(report: Report) -> Iterator[str]:
    """Yield a report as lines of text: what matters most first."""
    steady = report.steady
    yield title(steady)
    yield ""
    rates = [steady.at("total", percent) / steady.megapixels for percent in PERCENTILES]
    yield f"seconds per megapixel  {_number(rates[1]):>9}  (p20 {_number(rates[0])}, p80 {_number(rates[2])})"
    yield f"images per second      {_number(steady.images_per_second):>9}"
    each = steady.at("total") / steady.count
    yield (
        f"first picture          {_number(report.load + report.first):>9}  s: load {_number(report.load)}, draw "
        f"{_number(report.first)}; then {_number(each)} s each"
    )
    yield f"peak memory            {_bytes(report.memory.host):>9}  MB of the host{_device(report)}"
    yield ""
    yield from _stages(steady)
    for one in report.sweeps:
        yield ""
        yield from _sweep(one)
    yield ""
    yield versions_told(report.versions)
    yield processor_told(report.processor)
    if report.scored is not None:
        yield ""
        yield from _score(report.scored.score, report.compared)


def title(measured: Measured) -> str:
    """Describe a kind of draw in a line."""
    pictures = f"{measured.count} picture{'s' if measured.count != 1 else ''}"
    steps = "" if measured.steps is None else f"{measured.steps} steps, "
    return (
        f"{measured.bundle}: {pictures} of {measured.width}x{measured.height}, {steps}{measured.calls} network calls, "
        f"{measured.precision[measured.prior]} on {measured.provider['actual']}, {measured.provider['threads']} "
        f"thread{'s' if measured.provider['threads'] != 1 else ''}, {measured.repeats} "
        f"run{'s' if measured.repeats != 1 else ''}"
    )


def _stages(measured: Measured) -> Iterator[str]:
    names = "".join(f"{f'p{percent}':>9}" for percent in PERCENTILES)
    yield f"{'':<9}{'seconds per picture':>27}   {'seconds per megapixel':>27}"
    yield f"{'stage':<9}{names}   {names}{'share':>8}"
    for stage in STAGES:
        found = [measured.at(stage, percent) for percent in PERCENTILES]
        each = "".join(f"{_number(value / measured.count):>9}" for value in found)
        rates = "".join(f"{_number(value / measured.megapixels):>9}" for value in found)
        yield f"{stage:<9}{each}   {rates}{measured.at(stage) / measured.at('total'):>8.1%}"


def _sweep(one: Sweep) -> Iterator[str]:
    yield f"{HEADS[one.name]:<9}{'s/picture':>10}{'images/s':>10}{'s/Mpx':>9}   of it" + "".join(
        f"{stage:>9}" for stage in STAGES[:-1]
    )
    for value, point in one.points.items():
        rates = [point.at(stage) / point.megapixels for stage in STAGES]
        parts = "".join(f"{_number(rate):>9}" for rate in rates[:-1])
        each, often = point.at("total") / point.count, point.images_per_second
        yield f"{value:<9}{_number(each):>10}{_number(often):>10}{_number(rates[-1]):>9}{'':8}{parts}"


def _score(score: Score, compared: Compared | None) -> Iterator[str]:
    yield (
        f"score {score.median:.2f} products a batch (p20 {score.low:.2f}, p80 {score.high:.2f}); a product takes "
        f"{score.product * 1e3:.3g} ms"
    )
    if compared is None:
        return
    verdict = compared.verdict
    way = "slower" if verdict.change > 0 else "faster"
    judged = "a regression" if verdict.regression else "no regression"
    yield (
        f"baseline {compared.baseline.score.median:.2f}: {abs(verdict.change):.1%} {way}, {judged} (allowed "
        f"{ALLOWED:.0%}; chance explains {verdict.spread:.1%})"
    )
    yield from (f"changed since: {one}" for one in compared.changes)


def _device(report: Report) -> str:
    if report.memory.device is not None:
        return f"; {_bytes(report.memory.device)} MB in use on the device, other programs included"
    return "" if report.steady.provider["actual"] == "cpu" else "; the device does not say"


def _bytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e6:.0f}"


def _number(value: float) -> str:
    """Return a number with three significant digits, and never in the form 1e-05."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if value >= 10 else f"{value:.3f}" if value >= 0.1 else f"{value:.4f}"
