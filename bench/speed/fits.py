"""Growth of a cost: exponents by least squares on logarithms, beside what counted work predicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WORSE = 1.15
"""Measured growth over predicted growth, for each doubling; more is flagged."""


@dataclass(frozen=True)
class Point:
    """What was measured at one value of what varies."""

    value: float
    seconds: Mapping[str, float]
    """Of each stage, and of the whole as ``total``."""
    work: Mapping[str, float]
    """Of each stage but ``total``, in any unit; it predicts how the stage grows."""
    runs: int = 1

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return self.seconds["total"]


def exponent(values: Sequence[float], costs: Sequence[float]) -> float:
    """Exponent b of costs ~ a * values ** b, by least squares on logarithms. Needs two different values."""
    x, y = [math.log(value) for value in values], [math.log(cost) for cost in costs]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((one - middle_x) ** 2 for one in x)
    return sum((one - middle_x) * (other - middle_y) for one, other in zip(x, y)) / spread


def predicted(points: Sequence[Point], stage: str = "total") -> list[float]:
    """Seconds that the first point and the counted work predict for each point.

    A total grows as the sum over its stages does. (It is not that sum: the fastest total is not made of the fastest
    stages.)
    """
    first = points[0]
    if stage != "total":
        return [first.seconds[stage] * point.work[stage] / first.work[stage] for point in points]
    stages = [name for name in first.work if first.work[name]]
    sums = [sum(first.seconds[name] * point.work[name] / first.work[name] for name in stages) for point in points]
    return [first.total * one / sums[0] for one in sums]


def growth(points: Sequence[Point], stage: str = "total") -> list[float]:
    """Measured growth over predicted growth from each point to the next, for one doubling of the value.

    1 is as the arithmetic predicts, and more is worse.
    """
    wanted = predicted(points, stage)
    found: list[float] = []
    for (one, before), (other, after) in zip(zip(points, wanted), zip(points[1:], wanted[1:])):
        ratio = other.seconds[stage] / one.seconds[stage] / (after / before)
        found.append(ratio ** (1 / abs(math.log2(other.value / one.value))))
    return found


def flags(points: Sequence[Point]) -> list[str]:
    """Say which doubling cost more than the arithmetic predicts by more than 15 %, and in which stages."""
    found: list[str] = []
    for index, ratio in enumerate(growth(points)):
        if ratio > WORSE:
            stages = [name for name in points[0].work if points[0].work[name] and points[0].seconds[name]]
            worst = max(stages, key=lambda name: points[index + 1].seconds[name] - predicted(points, name)[index + 1])
            found.append(
                f"from {points[index].value:g} to {points[index + 1].value:g}: {ratio:.2f} times the predicted growth "
                f"for a doubling (most in: {worst})"
            )
    return found


def table(axis: str, points: Sequence[Point]) -> str:
    """Return the points as Markdown, with exponents below where there are two or more."""
    stages = list(points[0].work)
    heads = [axis, "runs", *(f"{name}, s" for name in stages), "total, s", "predicted, s", "growth / predicted"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---:|" * len(heads)]
    for point, wanted, ratio in zip(points, predicted(points), [None, *growth(points)]):
        told = "" if ratio is None else f"{ratio:.2f}{' WORSE' if ratio > WORSE else ''}"
        cells = [f"{point.value:g}", str(point.runs), *(f"{point.seconds[name]:.4f}" for name in stages)]
        lines.append("| " + " | ".join([*cells, f"{point.total:.4f}", f"{wanted:.4f}", told]) + " |")
    if len(points) > 1:
        exponents = fitted(points)
        told = ", ".join(f"{name} {one['measured']:.2f} ({one['predicted']:.2f})" for name, one in exponents.items())
        lines += ["", f"exponents, measured (predicted): {told}"]
        lines += [f"WORSE {text}" for text in flags(points)]
    return "\n".join(lines)


def fitted(points: Sequence[Point]) -> dict[str, dict[str, float]]:
    """Measured and predicted exponents of each stage that takes any time, and of the total."""
    values = [point.value for point in points]
    names = [name for name in points[0].work if all(p.seconds[name] > 0 and p.work[name] > 0 for p in points)]
    return {
        name: {
            "measured": exponent(values, [point.seconds[name] for point in points]),
            "predicted": exponent(values, predicted(points, name)),
        }
        for name in (*names, "total")
    }


def to_dict(points: Sequence[Point]) -> dict[str, Any]:
    """Return points, exponents and flags as plain values, for JSON."""
    rows = [
        {"value": point.value, "runs": point.runs, "seconds": dict(point.seconds), "predicted": wanted}
        for point, wanted in zip(points, predicted(points))
    ]
    more = {"exponents": fitted(points), "worse": flags(points)} if len(points) > 1 else {}
    return {"points": rows, **more}
