"""What verbs report as JSON: files, bundle, settings, seconds, and the provider that computed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from smalti.drawing.generator import Generator
from smalti.drawing.result import Result, Timings
from smalti.families.base import Settings
from smalti.families.settings import chosen_options

STAGES = ("network", "draw", "decoder", "host", "total")


def draw_report(
    generator: Generator | Result,
    files: Sequence[str],
    settings: Settings,
    timings: Timings,
    more: Mapping[str, Any] | None = None,
    counts: Mapping[str, int] | None = None,
) -> str:
    """Return the report of a draw as JSON.

    ``more`` are settings beside those of the draw, such as a strength. ``counts`` stand beside the other keys.
    """
    bundle = generator.bundle.manifest.name
    report = {
        "files": list(files),
        "bundle": bundle,
        "settings": {"seeds": settings.seeds, "labels": settings.labels, **chosen_options(settings), **(more or {})},
        "seconds": {name: getattr(timings, name) for name in STAGES},
        "network_calls": timings.calls,
        "provider": generator.report.to_dict(),
        **(counts or {}),
    }
    return json.dumps(report, indent=2)


def work_report(
    generator: Generator, files: Sequence[str], settings: dict[str, Any], seconds: float, **more: Any
) -> str:
    """Return the report of other work as JSON; ``more`` are results, such as the shape of an array."""
    report = {
        "files": list(files),
        "bundle": generator.manifest.name,
        "settings": settings,
        "seconds": {"total": seconds},
        "provider": generator.report.to_dict(),
        **more,
    }
    return json.dumps(report, indent=2)


def drawn_line(files: Sequence[str], count: int, timings: Timings, pixels: int | None = None) -> str:
    """Return a line for people about what was drawn; ``pixels`` are those of all pictures."""
    named = ", ".join(files[:3]) + (" ..." if len(files) > 3 else "")
    each = f", {timings.total / pixels * 1e6:.2f} s per megapixel" if pixels else ""
    return f"{named}: {count} image(s), {timings.total:.2f} s{each}"
