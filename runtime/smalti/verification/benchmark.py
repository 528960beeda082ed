"""Measurement of seconds per megapixel, stage by stage."""

from __future__ import annotations

import statistics
from typing import Any

from smalti.bundle.manifest import PRIOR_ROLES
from smalti.errors import UsageError
from smalti.families.settings import Options
from smalti.generator import Generator

STAGES = ("network", "draw", "decoder", "host", "total")


def measure(
    generator: Generator,
    count: int = 1,
    steps: int | None = None,
    repeats: int = 5,
    resolution: int | None = None,
) -> dict[str, Any]:
    """Generate ``count`` images ``repeats`` times after one untimed run; report the median seconds of each stage.

    Every run draws other seeds, so no result can be remembered. ``seconds`` are per batch. ``total`` is the median of
    the totals, so the medians of the stages may not sum to it. Raises UsageError for ``repeats`` below 1.
    """
    if repeats < 1:
        raise UsageError(f"repeats {repeats}: at least 1 is needed")
    chosen = Options(steps=steps, resolution=resolution)
    generator.generate(count, 0, **chosen)
    results = [generator.generate(count, 1000 + run * count, **chosen) for run in range(repeats)]
    width, height = results[0].images[0].size
    megapixels = count * width * height / 1e6
    seconds = {stage: statistics.median(getattr(result.timings, stage) for result in results) for stage in STAGES}
    return {
        "bundle": generator.manifest.name,
        "count": count,
        "width": width,
        "height": height,
        "steps": results[0].settings.value("steps"),
        "network_calls": results[0].timings.calls,
        "repeats": repeats,
        "seconds": seconds,
        "seconds_per_megapixel": {stage: value / megapixels for stage, value in seconds.items()},
        "precision": generator.report.precision[PRIOR_ROLES[generator.manifest.family]],
        "provider": generator.report.to_dict(),
    }
