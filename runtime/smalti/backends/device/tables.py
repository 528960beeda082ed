"""A step's tables as the device reads them: gathered for one upload, and found again by their places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smalti.backends.device.arena import Packed
from smalti.backends.device.plan import Bools, Call, Int32, Program, Put, Step, Windows


@dataclass(frozen=True)
class Places:
    """Cells and values of a `Put`, as offsets."""

    cells: int
    values: int
    count: int


@dataclass(frozen=True)
class WindowTables:
    """One question about windows, as offsets; ``labels`` are of the label and, guided, of no label."""

    cells: int
    rows: int
    begin: int
    entry: int
    importance: int
    order: int
    """0, 1, 2, ... for each cell."""
    times: int
    labels: tuple[int, ...]
    count: int
    asked: int
    """Positions per window."""


@dataclass(frozen=True)
class CallTables:
    """One call, as offsets."""

    lines: int
    """n, or 2 n where both labels are asked at once."""
    each: int
    """R."""
    cells: int
    """The cells [lines, L] that the network sees."""
    order: int
    """0, 1, 2, ... for each cell."""
    times: int
    rows: int
    labels: int
    sample: int
    position: int
    steps: int
    windows: tuple[WindowTables, ...]
    drawn: Bools
    """bool [n * R], on the host: which rows are drawn."""
    call: Call


@dataclass(frozen=True)
class StepTables:
    """One step, as offsets."""

    step: Step
    put: Places | None
    shown: Places | None
    scale: int
    calls: tuple[CallTables, ...]


def packed_step(step: Step, program: Program, into: Packed) -> StepTables:
    """Gather the tables of a step."""
    count = len(program.start)
    degree = np.float32(1.0 if step.noise else step.temperature)
    scale = np.full(count + 1, np.float32(65536) / degree, np.float32)
    return StepTables(
        step,
        _places(step.put, into),
        _places(step.shown, into),
        into.add(scale),
        tuple(_packed_call(call, step, program, into) for call in step.calls),
    )


def _places(put: Put | None, into: Packed) -> Places | None:
    if put is None or not len(put.cells):
        return None
    return Places(into.add(put.cells.astype(np.int32)), into.add(put.values.astype(np.int32)), len(put.cells))


def _packed_call(call: Call, step: Step, program: Program, into: Packed) -> CallTables:
    time = step.noise.time if step.noise else 0
    count, length = program.start.shape
    twice = 2 if program.guidance != 1.0 else 1
    unlabelled: Int32 = np.full(len(call.lines), program.no_label, np.int32)
    labels = [program.labels[call.lines], unlabelled][:twice]
    cells = np.tile(call.lines[:, None] * length + np.arange(length, dtype=np.int32), (twice, 1))
    if call.windows:
        cells = cells[:0]  # windows have their own
    shape = call.rows.shape
    return CallTables(
        lines=twice * len(call.lines),
        each=shape[1],
        cells=into.add(cells),
        order=into.add(np.arange(cells.size, dtype=np.int32)),
        times=into.add(np.full(len(cells), time, np.int32)),
        rows=into.add(np.tile(call.rows, (0 if call.windows else twice, 1))),
        labels=into.add(np.concatenate(labels).astype(np.int32)),
        sample=into.add(np.where(call.wanted, call.lines[:, None], count).astype(np.int32)),
        position=into.add(call.rows),
        steps=into.add(np.broadcast_to(call.steps[:, None], shape).astype(np.int32)),
        windows=tuple(_packed_windows(one, time, labels, into) for one in call.windows),
        drawn=call.wanted.reshape(-1),
        call=call,
    )


def _packed_windows(one: Windows, time: int, labels: list[Int32], into: Packed) -> WindowTables:
    return WindowTables(
        into.add(one.cells),
        into.add(one.rows),
        into.add(one.begin),
        into.add(one.entry),
        into.add(one.importance),
        into.add(np.arange(one.cells.size, dtype=np.int32)),
        into.add(np.full(len(one.cells), time, np.int32)),
        tuple(into.add(each[one.lines].astype(np.int32)) for each in labels),
        *one.rows.shape,
    )
