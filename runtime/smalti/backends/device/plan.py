"""A run as tables that a device can follow: what each step asks, draws and puts, computed ahead by a family.

Cells are indices into grids [N, L] in a row: ``sample * L + position``. A table's rows that only pad have the sample N,
a spare grid that nobody reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from smalti_kernels.spec.truncation import P_ONE

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Bools = NDArray[np.bool_]

LINES, ROWS = 16, 2**12
"""Most samples and most positions asked about in one call. They bound the memory of logits."""


class Put(NamedTuple):
    """Values that are put at cells before a step."""

    cells: Int32
    """int32 [m]."""
    values: Int32
    """int32 [m]."""


@dataclass(frozen=True)
class Windows:
    """One question about windows of a canvas; their answers are mixed (see :mod:`smalti.families.canvas`)."""

    cells: Int32
    """int32 [W, tall * wide]: what each window sees; -1 where nothing but masks is."""
    lines: Int32
    """int32 [W]: the line of the call that each window belongs to."""
    rows: Int32
    """int32 [W, R']: positions in the window that are asked about, filled up."""
    begin: Int32
    """int32 [n * R + 1]: the entries of each row of the call."""
    entry: Int32
    """int32 [entries]: a row of this question, ``window * R' + column``."""
    importance: Int64
    """int64 [entries]: what it counts."""


@dataclass(frozen=True)
class Call:
    """One question to the network about n samples, and the draw of what it answers."""

    lines: Int32
    """int32 [n]: the samples asked about."""
    rows: Int32
    """int32 [n, R]: raster positions, filled up with the line's first."""
    wanted: Bools
    """bool [n, R]: whether a row is drawn."""
    steps: Int32
    """int32 [n]: the step that each line's noise belongs to."""
    windows: tuple[Windows, ...] = ()
    """On a canvas: what is asked in place of ``rows``."""


class Noise(NamedTuple):
    """What a step takes away: see ``smalti_kernels.spec.mixtures.posterior``."""

    time: int
    """How noisy the grids are, 0 .. T - 1."""
    signal: int
    noise: int
    favour: int


@dataclass(frozen=True)
class Step:
    """One step of a run. All its calls see the grids as they are before any of them draws."""

    calls: tuple[Call, ...]
    temperature: float
    put: Put | None = None
    """What changes before the step, such as tokens that are masked again."""
    shown: Put | None = None
    """What the network is shown in place of some tokens, which stay what they are."""
    noise: Noise | None = None
    """Where the draw is from a posterior; its temperature is that of the network's answer."""
    choose: Callable[[Int32], Int32] | None = None
    """Where the network decides what is kept: from the log-probability of each drawn row (int32 [drawn], in the order
    of the calls, in units of 2^-16 nats) to the cells that are kept. The next step is known only then."""
    freeze: Callable[[Bools], Bools] | None = None
    """From whether each drawn row changed (bool [drawn]) to whether each sample goes on (bool [N])."""


@dataclass(frozen=True)
class Program:
    """A run that a device can follow from its first step to its last."""

    start: Int32
    """int32 [N, L]."""
    grid: tuple[int, int]
    """Rows and columns of each grid; L is their product."""
    steps: Sequence[Step] | Iterable[Step]
    """A sequence is known ahead and uploaded once. An iterable is asked for each step after the one before."""
    seeds: Sequence[int]
    labels: Int32
    """int32 [N], as the prior knows them."""
    no_label: int
    codes: int
    mask: int | None
    """What surrounds windows of a canvas that is smaller."""
    guidance: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    inside: tuple[slice, ...] = field(default=(slice(None), slice(None), slice(None)))
    """The part [N, h, w] of the grids that is wanted."""

    @property
    def truncated(self) -> bool:
        """Whether draws leave out unlikely tokens."""
        return self.top_k > 0 or self.top_p < 1

    @property
    def keep(self) -> tuple[int, int]:
        """Top-k, and top-p in units of 2^-16, as the kernels take them."""
        return self.top_k, max(1, round(self.top_p * P_ONE))

    @property
    def freezes(self) -> bool:
        """Whether samples may end before others."""
        return isinstance(self.steps, Sequence) and any(step.freeze for step in self.steps)


def lines_of(owner: NDArray[np.integer]) -> int:
    """Return how many samples a call may ask about; ``owner`` [R], ascending, is the sample of each row of a step."""
    most = int(np.unique(owner, return_counts=True)[1].max(initial=1))
    return max(1, min(LINES, ROWS // most))


def calls_of(
    owner: NDArray[np.integer], position: NDArray[np.integer], steps: Int32, lines: int | None = None
) -> tuple[Call, ...]:
    """Arrange rows of samples as calls of at most LINES samples and about ROWS positions each.

    Args:
        owner: the sample of each row [R], ascending.
        position: its raster position [R].
        steps: int32 [N], the step of each sample's noise.
        lines: most samples of a call; None for :func:`lines_of`.
    """
    calls: list[Call] = []
    who, first, size = np.unique(owner, return_index=True, return_counts=True)
    each = lines or lines_of(owner)
    for begin in range(0, len(who), each):
        part = slice(begin, begin + each)
        most = int(size[part].max())
        for column in range(0, most, ROWS):
            places = np.arange(column, min(column + ROWS, most))
            wanted = places < size[part][:, None]
            rows = position[first[part][:, None] + np.where(wanted, places, 0)].astype(np.int32)
            calls.append(Call(who[part].astype(np.int32), rows, wanted, steps[who[part]]))
    return tuple(calls)
