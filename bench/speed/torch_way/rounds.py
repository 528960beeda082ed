"""Interleaved measurements in one process, and what they say: medians, quantiles and ratios of neighbours."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from smalti.drawing.result import Timings
from smalti.verification.doctor.hardware import find_processor

REST = 0.05
"""Seconds between two measurements, in which the threads of the first come to rest: torch's spin for a while."""
STAGES = ("network", "draw", "decoder", "host", "total")
Taken = list[Timings]


def in_turn(
    ways: Mapping[str, Callable[[int], Timings]], repeats: int, *, warm: bool = True, rest: float = REST
) -> dict[str, Taken]:
    """Time each way ``repeats`` times; round i calls every way once with seed i, each round beginning with another.

    With ``warm`` each is called once before, uncounted.
    """
    if warm:
        for way in ways.values():
            way(0)
    names, found = list(ways), {name: Taken() for name in ways}
    for index in range(repeats):
        first = index % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(rest)
            found[name].append(ways[name](1 + index))
    return found


def quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The 20th, 50th and 80th percentile."""
    low, middle, high = np.quantile(values, (0.2, 0.5, 0.8))
    return float(low), float(middle), float(high)


def ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """Median of the ratios of values that were measured in the same round."""
    return statistics.median(one / other for one, other in zip(values, base, strict=True))


def per_step(found: Taken) -> list[float]:
    """Seconds of one step without the decoder, of draws that made calls of a prior."""
    return [(one.total - one.decoder) / one.calls for one in found]


def rows_of(taken: Mapping[str, Taken], base: str, *, count: int, megapixels: float) -> list[dict[str, Any]]:
    """A row for each way: seconds per picture of every stage, and its total in units of that of ``base``.

    ``count`` pictures were drawn at once; ``megapixels`` are those of one picture.
    """
    rows: list[dict[str, Any]] = []
    for name, found in taken.items():
        seconds = {stage: quantiles([getattr(one, stage) / count for one in found]) for stage in STAGES}
        rows.append(
            {
                "way": name,
                "calls": statistics.median(one.calls for one in found),
                "seconds": {stage: dict(zip(("p20", "p50", "p80"), each)) for stage, each in seconds.items()},
                "seconds_per_megapixel": seconds["total"][1] / megapixels,
                "ratio": ratio([one.total for one in found], [one.total for one in taken[base]]),
                "ratio_per_step": ratio(per_step(found), per_step(taken[base])) if found[0].calls else None,
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]], base: str) -> str:
    """The rows as Markdown. Seconds are per picture, medians; the total also has its 20th and 80th percentile."""
    heads = ["s per picture", "calls", *STAGES[:-1], "total", "p20", "p80", "s/Mpx", f"/ {base}", "per step"]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for row in rows:
        middle = [f"{row['seconds'][stage]['p50']:.4f}" for stage in STAGES]
        ends = [f"{row['seconds']['total'][end]:.4f}" for end in ("p20", "p80")]
        step = "" if row["ratio_per_step"] is None else f"{row['ratio_per_step']:.2f}"
        last = [f"{row['seconds_per_megapixel']:.3f}", f"{row['ratio']:.2f}", step]
        lines.append([row["way"], f"{row['calls']:g}", *middle, *ends, *last])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(threads: int) -> dict[str, Any]:
    """The kind of machine and the versions, without names of a machine."""
    found = find_processor(threads)
    packages = ("smalti", "torch", "onnxruntime", "numpy")
    return {
        "processor": found.name or platform.machine(),
        "instructions": list(found.instructions or ()),
        "threads": threads,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
    }


def told(found: Mapping[str, Any]) -> str:
    """One line about the machine."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"{found['processor']}, threads: {found['threads']}, Python {found['python']}, {versions}"
