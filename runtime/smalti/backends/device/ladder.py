"""Few shapes for many calls: each shape has its own session, and a CUDA graph keeps its shapes.

All calls of a run ask about one of three numbers of rows: the most that any asks about, a half or a quarter of it. The
same holds of lines, and of the rows of windows. What is added is not drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from smalti.backends.device.plan import LINES, Call, Int32, Step, Windows


def rung(rows: int) -> int:
    """Return the next of 1, 2, 3, 4, 6, 8, 12, 16, ... that is at least ``rows``."""
    power = 1 << max(0, rows - 1).bit_length()
    return power * 3 // 4 if power >= 4 and rows <= power * 3 // 4 else power


class Ladder:
    """The shapes of a run."""

    def __init__(self, steps: Iterable[Step], *, known: bool, window: int) -> None:
        """Learn the shapes from all steps or, where not all are ``known``, from the first one.

        Later ones ask about no more rows and lines than the first. But what they ask may lie in more windows, and at
        more positions of a window, which has ``window`` tokens.
        """
        calls = [call for step in steps for call in step.calls]
        windows = [one for call in calls for one in call.windows]
        self._rows = rung(max((call.rows.shape[1] for call in calls), default=1))
        self._asked = rung(max((one.rows.shape[1] for one in windows), default=1))
        self._windows = max((len(one.cells) for one in windows), default=1)
        self._lines = max((len(call.lines) for call in calls), default=1)
        if windows and not known:
            self._asked, self._windows = rung(window), LINES

    def fitted(self, step: Step) -> Step:
        """Return a step whose calls have one of the shapes."""
        return replace(step, calls=tuple(self._call(call) for call in step.calls))

    def _call(self, call: Call) -> Call:
        if call.windows:
            return replace(call, windows=tuple(self._question(one) for one in call.windows))
        lines, rows = call.rows.shape
        more, missing = _width(self._rows, rows) - rows, _width(self._lines, lines) - lines
        return replace(
            call,
            lines=np.pad(call.lines, (0, missing), mode="edge"),
            rows=np.pad(_repeated(call.rows, more), ((0, missing), (0, 0)), mode="edge"),
            wanted=np.pad(call.wanted, ((0, missing), (0, more))),
            steps=np.pad(call.steps, (0, missing), mode="edge"),
        )

    def _question(self, one: Windows) -> Windows:
        count, asked = one.rows.shape
        wide, missing = _width(self._asked, asked), max(0, self._windows - count)
        window, column = np.divmod(one.entry, asked)
        return replace(
            one,
            cells=np.pad(one.cells, ((0, missing), (0, 0)), mode="edge"),
            lines=np.pad(one.lines, (0, missing), mode="edge"),
            rows=np.pad(_repeated(one.rows, wide - asked), ((0, missing), (0, 0)), mode="edge"),
            entry=(window * wide + column).astype(np.int32),
        )


def _width(most: int, rows: int) -> int:
    """The least of a quarter, a half and all of ``most`` that holds ``rows``; more than those where it must be."""
    return next((width for width in (most // 4, most // 2, most) if width >= rows), rows)


def _repeated(rows: Int32, more: int) -> Int32:
    """Lines filled up with their first row."""
    return np.concatenate([rows, np.repeat(rows[:, :1], more, axis=1)], axis=1)
