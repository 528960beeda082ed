"""What the families' programs for devices have in common: rows as calls, and canvases as questions about windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from smalti.backends.device.plan import Call, Program, Step, Windows, calls_of
from smalti.bundle.manifest import Manifest
from smalti.families.base import Settings, common_arguments
from smalti.families.canvas import WINDOWS, Int32, Integers, Windowed


def program_of(
    start: Int32, grid: tuple[int, int], steps: Sequence[Step] | Iterable[Step], settings: Settings, manifest: Manifest
) -> Program:
    """Put a run's steps and its settings together. ``start`` is int32 [N, L]."""
    told: dict[str, Any] = common_arguments(settings, manifest, grid[1])
    del told["width"]
    codes = manifest.latent.codes
    return Program(start=start, grid=grid, steps=steps, codes=codes, mask=codes, **told)


def windowed_canvas(grid: tuple[int, int], window: tuple[int, int], stride: int) -> Windowed | None:
    """Return the windows over a canvas; None where it is one window."""
    return None if grid == window else Windowed(grid, window, (stride, stride))


def asked(
    owner: Integers,
    position: Integers,
    steps: Int32,
    windowed: Windowed | None,
    length: int,
    lines: int | None = None,
) -> tuple[Call, ...]:
    """Arrange rows as :func:`calls_of` does, and ask about windows where there are any."""
    calls = calls_of(owner, position, steps, lines)
    return calls if windowed is None else tuple(_about_windows(call, windowed, length) for call in calls)


def _about_windows(call: Call, windowed: Windowed, length: int) -> Call:
    jobs = windowed.over(call.rows, call.wanted)
    groups: list[list[tuple[int, int, int, Integers]]] = []
    while group := list(islice(jobs, WINDOWS)):
        groups.append(group)
    padding = np.flatnonzero(~call.wanted.reshape(-1))
    questions = [
        _question(call, group, windowed, length, padding if number == 0 else padding[:0])
        for number, group in enumerate(groups)
    ]
    return replace(call, windows=tuple(questions))


def _question(
    call: Call, group: list[tuple[int, int, int, Integers]], windowed: Windowed, length: int, padding: Integers
) -> Windows:
    """Ask about some windows. Rows of the call that only pad are answered by any row of the question."""
    count, wide = len(group), max(len(which) for *_, which in group)
    cells = np.zeros((count, windowed.window[0] * windowed.window[1]), np.int32)
    lines, rows = np.zeros(count, np.int32), np.zeros((count, wide), np.int32)
    owner, entry, importance = [padding], [np.zeros(len(padding), np.intp)], [np.ones(len(padding), np.uint64)]
    for index, (line, top, left, which) in enumerate(group):
        seen = windowed.cells(top, left)
        cells[index] = np.where(seen < 0, -1, call.lines[line] * length + seen)
        lines[index] = line
        inside = windowed.within(call.rows[line, which], top, left)
        rows[index] = inside[0]
        rows[index, : len(inside)] = inside
        owner.append(line * call.rows.shape[1] + which)
        entry.append(index * wide + np.arange(len(which)))
        importance.append(windowed.importance(top, left)[inside])
    whose = np.concatenate(owner)
    order = np.argsort(whose, kind="stable")
    return Windows(
        cells,
        lines,
        rows,
        np.searchsorted(whose[order], np.arange(call.rows.size + 1)).astype(np.int32),
        np.concatenate(entry)[order].astype(np.int32),
        np.concatenate(importance)[order].view(np.int64),
    )
