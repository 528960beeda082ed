"""Absorbing runs as programs for devices: schedules as tables, and order confidence step by step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from smalti.backends.device.plan import Put, Step, lines_of
from smalti.families.absorbing.confidence import Confidence
from smalti.families.absorbing.sampler import Int32
from smalti.families.absorbing.schedule import Schedule
from smalti.families.canvas import Integers, Windowed
from smalti.families.programs import asked


def scheduled_steps(
    table: Schedule, temperature: float, mask: int, windowed: Windowed | None, length: int
) -> tuple[Step, ...]:
    """Lay out every call of a schedule, over grids of ``length`` tokens."""
    steps: list[Step] = []
    for call in range(table.calls):
        active = np.flatnonzero(table.steps[:, call] >= 0)
        line, column = np.nonzero(table.positions[active, call] >= 0)
        put = None
        if table.remasked is not None:
            sample, place = np.nonzero(table.remasked[:, call] >= 0)
            cells = sample * length + table.remasked[sample, call, place]
            put = Put(cells.astype(np.int32), np.full(len(cells), mask, np.int32))
        owner = active[line]
        position = table.positions[owner, call, column].astype(np.intp)
        steps.append(Step(asked(owner, position, table.steps[:, call], windowed, length), temperature, put))
    return tuple(steps)


def confident_steps(
    tokens: Int32, rule: Confidence, mask: int, temperature: float, windowed: Windowed | None
) -> Iterator[Step]:
    """Lay out the calls of order confidence, each when it is known what the one before has kept.

    ``tokens`` are the start, int32 [N, L].
    """
    masked, lines = tokens == mask, None
    for call in range(rule.calls):
        owner, position = rule.rows(masked, call)

        def choose(logprob: Int32, call: int = call, owner: Integers = owner, position: Integers = position) -> Int32:
            kept = rule.keep(owner, position, logprob, call)
            masked[owner[kept], position[kept]] = False
            return (owner[kept] * tokens.shape[1] + position[kept]).astype(np.int32)

        lines = lines or lines_of(owner)  # the first call's: memory is laid out for it
        calls = asked(owner, position, rule.call_steps[:, call], windowed, tokens.shape[1], lines)
        yield Step(calls, temperature, choose=choose)
