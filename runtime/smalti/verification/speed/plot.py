"""A picture of a report: bars of the stages, and a chart for each sweep. It is SVG, and dark where its reader is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final
from xml.sax.saxutils import escape

from smalti.verification.speed.measure import STAGES, Measured
from smalti.verification.speed.report import Report, title
from smalti.verification.speed.sweeps import Sweep
from smalti.verification.speed.versions import processor_told

COLOURS: Final = {"network": "#3b7dd8", "draw": "#e08a1e", "decoder": "#2c9c74", "host": "#8b8f98", "total": "#b0408f"}
"""Told apart by most colour-blind people, on white and on black; each curve also has its name."""
INK, FAINT, PAPER = "#1d2733", "#c9d0d8", "#ffffff"
DARK: Final = (
    "@media (prefers-color-scheme: dark) { .ink { fill: #e4e9ef } .faint { stroke: #3a444f } .paper { fill: #14191f } "
    ".bar { stroke: #e4e9ef } }"
)
WIDTH: Final = 760
LEFT, RIGHT, TOP = 84, 84, 68
"""Pixels beside the charts, and above the first."""
ROW, GAP, CHART = 30, 74, 190
"""Height of a bar, between charts, and of a chart with curves."""
UNDER: Final = {
    "batch": "images per batch",
    "steps": "steps",
    "canvas": "pixels of the canvas's longer side",
    "threads": "threads",
}


def plot(report: Report) -> str:
    """Draw a report as SVG. Values are medians; thin lines and areas are from the 20th to the 80th percentile."""
    height = TOP + ROW * len(STAGES) + GAP
    parts = [*_heading(report), *_bars(report.steady, TOP)]
    for one in report.sweeps:
        parts += _curves(one, height)
        height += CHART + GAP
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif" font-size="12">\n<style>{DARK}</style>\n'
        f'<rect class="paper" width="{WIDTH}" height="{height}" fill="{PAPER}"/>\n{body}\n</svg>\n'
    )


def ticks(most: float) -> list[float]:
    """Return 0 and three to six round numbers above it, of which the last is ``most`` or more."""
    if not (math.isfinite(most) and most > 0):
        return [0.0, 1.0]
    rough = most / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step for step in (1, 2, 2.5, 5, 10) if step * power >= rough * 0.999) * power
    return [step * number for number in range(math.ceil(most / step * 0.999) + 1)]


def _heading(report: Report) -> Iterator[str]:
    yield _text(title(report.steady), LEFT / 4, 24, size=14, weight=600)
    yield _text(f"{report.versions['runtime']}; {processor_told(report.processor)}", LEFT / 4, 43)


def _bars(measured: Measured, top: float) -> Iterator[str]:
    """Yield a bar for each stage."""
    rate = {stage: [measured.at(stage, at) / measured.megapixels for at in (20, 50, 80)] for stage in STAGES}
    marks = ticks(max(high for _, _, high in rate.values()))
    bottom = top + ROW * len(STAGES)

    def across(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / marks[-1]

    for mark in marks:
        yield _line(across(mark), top, across(mark), bottom)
        yield _text(f"{mark:g}", across(mark), bottom + 16, anchor="middle")
    yield _text("seconds per megapixel", (LEFT + WIDTH - RIGHT) / 2, bottom + 33, anchor="middle")
    for place, (stage, (low, median, high)) in enumerate(rate.items()):
        middle = top + ROW * (place + 0.5)
        yield _text(stage, LEFT - 10, middle + 4, anchor="end")
        yield (
            f'<rect x="{LEFT}" y="{middle - 9:.1f}" width="{max(1.0, across(median) - LEFT):.1f}" height="18" rx="2" '
            f'fill="{COLOURS[stage]}"/>'
        )
        yield _line(across(low), middle, across(high), middle, kind="bar", colour=INK)
        told = f"{median:.3g} ({measured.at(stage) / measured.at('total'):.0%})"
        yield _text(told, across(max(median, high)) + 7, middle + 4)


def _curves(one: Sweep, top: float) -> Iterator[str]:
    """Yield a curve for each stage. Values stand at equal distances, since most of them are doubled."""
    bottom, points = top + CHART, list(one.points.values())
    marks = ticks(max(point.at("total", 80) / point.megapixels for point in points))
    inner = (WIDTH - LEFT - RIGHT) / len(points)
    xs = [LEFT + inner * (place + 0.5) for place in range(len(points))]

    def up(value: float) -> float:
        return bottom - CHART * value / marks[-1]

    for mark in marks:
        yield _line(LEFT, up(mark), WIDTH - RIGHT, up(mark))
        yield _text(f"{mark:g}", LEFT - 8, up(mark) + 4, anchor="end")
    middle = (top + bottom) / 2
    yield _text("seconds per megapixel", 0, 0, anchor="middle", place=f"translate(24 {middle:.0f}) rotate(-90)")
    for x, value in zip(xs, one.points):
        yield _text(str(value), x, bottom + 16, anchor="middle")
    yield _text(UNDER[one.name], (LEFT + WIDTH - RIGHT) / 2, bottom + 33, anchor="middle")
    edges = [[(x, up(p.at("total", at) / p.megapixels)) for x, p in zip(xs, points)] for at in (20, 80)]
    yield f'<polygon points="{_path([*edges[0], *reversed(edges[1])])}" fill="{COLOURS["total"]}" fill-opacity="0.2"/>'
    ends: dict[str, float] = {}
    for stage, colour in COLOURS.items():
        line = [(x, up(point.at(stage) / point.megapixels)) for x, point in zip(xs, points)]
        wide = 2.4 if stage == "total" else 1.6
        yield f'<polyline points="{_path(line)}" fill="none" stroke="{colour}" stroke-width="{wide}"/>'
        yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{wide + 0.8}" fill="{colour}"/>' for x, y in line)
        ends[stage] = line[-1][1]
    for stage, y in apart(ends, bottom).items():
        yield _text(stage, xs[-1] + 12, y + 4, colour=COLOURS[stage])


def apart(wanted: dict[str, float], lowest: float, distance: float = 14) -> dict[str, float]:
    """Move heights so that names at them do not overlap: upwards from the lowest, in their order."""
    found: dict[str, float] = {}
    limit = lowest - 7  # above the axis
    for name in sorted(wanted, key=lambda name: -wanted[name]):
        found[name] = min(wanted[name], limit)
        limit = found[name] - distance
    return found


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _line(x1: float, y1: float, x2: float, y2: float, *, kind: str = "faint", colour: str = FAINT) -> str:
    where = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line class="{kind}" {where} stroke="{colour}" stroke-width="1"/>'


def _text(
    words: str,
    x: float,
    y: float,
    *,
    anchor: str = "start",
    size: int = 12,
    weight: int = 400,
    colour: str = "",
    place: str = "",
) -> str:
    paint = f'fill="{colour}"' if colour else f'class="ink" fill="{INK}"'
    moved = f' transform="{place}"' if place else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f"{paint}{moved}>{escape(words)}</text>"
    )
