"""Schedules of absorbing diffusion: tables of the positions that each network call unmasks.

A schedule is computed ahead, as plain arrays that can be printed, tested and replayed. The network never sees the time.
So a step that would unmask nothing needs no call, and the samples of a batch may be at different steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from numbers import Real
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from smalti.errors import UsageError
from smalti_kernels import STREAM_ORDER, random_words

Int32 = NDArray[np.int32]
Counts = Literal["exact", "cosine", "binomial"]
"""Rules for how many positions each step unmasks."""
Order = Literal["random", "halton", "confidence"]
"""Rules for which positions come first. The network decides "confidence" while it draws, the seed the others."""
Remask: TypeAlias = float | Literal["mlm"]
"""How many drawn tokens are masked and drawn again (``smalti.families.absorbing.remasking``); 0 is none."""

MAX_STEPS = 1_000_000
"""Most steps of a run: far more than a grid has tokens, and arrays stay small."""


@dataclass(frozen=True)
class Schedule:
    """Positions that each network call unmasks. Without remasking, each wanted position occurs exactly once."""

    positions: Int32
    """int32 [N, C, R]: raster positions, filled up with -1, also after a sample's last call."""
    steps: Int32
    """int32 [N, C]: step of each call, 0 .. S - 1; -1 after a sample's last call."""
    remasked: Int32 | None = None
    """int32 [N, C, M]: raster positions that are masked again just before a call, filled up with -1. None when no
    position ever is."""

    @property
    def calls(self) -> int:
        """C: number of network calls until every sample is done."""
        return self.positions.shape[1]


def make_schedule(
    seeds: Sequence[int],
    grid: tuple[int, int],
    steps: int,
    counts: Counts = "exact",
    order: Order = "random",
    wanted: NDArray[np.bool_] | None = None,
) -> Schedule:
    """Lay out ``steps`` diffusion steps over a grid of h*w tokens for each seed, which alone decides the order.

    ``wanted`` bool [N, h*w] are the positions to unmask; None unmasks all.

    ``counts``:

    * ``exact`` unmasks equally many per step, up to rounding.
    * ``cosine`` leaves the share cos(pi/2 * s/S) masked after step s (Chang et al. 2022, MaskGIT). It unmasks few at
      first, while nothing is decided and tokens drawn together cannot agree, and many at the end.
    * ``binomial`` is the process of Bond-Taylor et al. 2021. For t = S .. 1 it unmasks each masked token with
      probability 1/t. So each token's step is uniform, and the sizes of steps vary.

    ``order``:

    * ``random`` makes every order equally likely.
    * ``halton`` follows the Halton sequence of bases 2 and 3 (Besnier et al. 2025), rolled over the grid by an offset
      of each sample. Tokens drawn together lie far apart, so drawing them independently costs less. It does not go with
      ``binomial``, which decides its own order.

    Raises UsageError for steps outside 1 .. MAX_STEPS, for unknown ``counts`` or ``order``, and for order "confidence",
    which no table can lay out.
    """
    check(steps, counts, order)
    if order == "confidence":
        raise UsageError(
            "order confidence depends on what is drawn: use smalti.families.absorbing.confidence, "
            "or order random or halton"
        )
    height, width = grid
    length = height * width
    y, x = np.divmod(np.arange(length), width)
    words = random_words(np.asarray(seeds, np.uint64)[:, None], stream=STREAM_ORDER, step=0, y=y, x=x).astype(np.uint64)
    visits = halton_order(seeds, grid) if order == "halton" else _random_order(words)
    # What is not wanted gets a step after all others: it sorts to the end, and is left out there.
    last = np.zeros(visits.shape, np.int64) if wanted is None else np.where(wanted, 0, steps)
    if counts == "binomial":
        last = np.maximum(last, (words[..., 2] * np.uint64(steps) >> np.uint64(32)).astype(np.int64))
    # Stable: within a step the order above remains.
    visits = np.take_along_axis(visits, np.argsort(np.take_along_axis(last, visits, 1), axis=1, kind="stable"), 1)
    step_of_rank = np.take_along_axis(last, visits, 1)
    if counts != "binomial":
        totals = (step_of_rank < steps).sum(1)
        for total in np.unique(totals):
            done = unmasked_after(int(total), steps, counts)
            step_of_rank[totals == total, :total] = np.searchsorted(done[1:], np.arange(int(total)), side="right")
    return _group(visits, step_of_rank, steps)


def unmasked_after(total: int, steps: int, counts: Counts) -> NDArray[np.int64]:
    """Return how many of ``total`` positions are unmasked before the first step and after each step, int64 [S + 1].

    ``counts`` is "exact" or "cosine" of :func:`make_schedule`; "binomial" leaves the number to chance.
    """
    share = np.linspace(0, 1, steps + 1)
    curve = 1 - np.cos(np.pi / 2 * share) if counts == "cosine" else share
    done = np.round(total * curve).astype(np.int64)
    done[-1] = total
    return done


def call_sizes(totals: NDArray[np.integer[Any]], steps: int, counts: Counts) -> tuple[Int32, Int32]:
    """Return how many positions each call unmasks, and the step of each call: both int32 [N, C].

    ``totals`` [N] are the masked positions of each sample. A step that would unmask nothing needs no call. After a
    sample's last call the two are 0 and -1. ``counts`` is "exact" or "cosine", as in :func:`make_schedule`.
    """
    each = [np.diff(unmasked_after(int(total), steps, counts)) for total in totals]
    used = [np.flatnonzero(sizes) for sizes in each]
    calls = max((len(which) for which in used), default=0)
    found = np.zeros((len(each), calls), np.int32), np.full((len(each), calls), -1, np.int32)
    for sample, which in enumerate(used):
        found[0][sample, : len(which)], found[1][sample, : len(which)] = each[sample][which], which
    return found


def check(steps: int, counts: str, order: str, remask: Remask = 0.0) -> None:
    """Raise UsageError, which says what is allowed, when no sampler takes these options together."""
    if not 1 <= steps <= MAX_STEPS:
        raise UsageError(f"steps {steps}: allowed are 1 .. {MAX_STEPS}")
    if counts not in ("exact", "cosine", "binomial"):
        raise UsageError(f"schedule {counts!r}: allowed are exact, cosine and binomial")
    if order not in ("random", "halton", "confidence"):
        raise UsageError(f"order {order!r}: allowed are random, halton and confidence")
    if order != "random" and counts == "binomial":
        raise UsageError("schedule binomial draws its own order; use order random, or schedule exact or cosine")
    if remask != "mlm" and not (isinstance(remask, Real) and 0 <= float(remask) <= 1):
        raise UsageError(f"remask {remask!r}: allowed are 0 .. 1 and mlm")
    if order == "confidence" and remask != 0:
        raise UsageError("order confidence decides itself what stays masked; leave remask at 0, or use another order")


def _random_order(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return raster positions (int64 [N, L]) in the order of their random ``words`` (uint64 [N, L, 4], below 2^32)."""
    return np.argsort(words[..., 0] << np.uint64(32) | words[..., 1], axis=1, kind="stable")


def halton_order(seeds: Sequence[int], grid: tuple[int, int]) -> NDArray[np.int64]:
    """Return raster positions (int64 [N, h*w]) along the Halton sequence, rolled by an offset of each seed."""
    height, width = grid
    words = random_words(np.asarray(seeds, np.uint64), stream=STREAM_ORDER, step=0, y=0, x=0).astype(np.uint64)
    y, x = np.divmod(halton_positions(grid), width)
    down, right = ((words[:, i] * np.uint64(side) >> np.uint64(32)).astype(np.int64) for i, side in enumerate(grid))
    return (y + down[:, None]) % height * width + (x + right[:, None]) % width


@cache
def halton_positions(grid: tuple[int, int]) -> NDArray[np.int64]:
    """Return every raster position once (int64 [h*w]), in the order in which the Halton sequence first visits it.

    The row of point i = 1, 2, .. is the radical inverse of i in base 2, its column that in base 3. The arithmetic is
    in whole numbers, so the order is the same on every machine.
    """
    height, width = grid
    order: dict[int, None] = {}
    index = 0
    while len(order) < height * width:
        index += 1
        order[_inverse(index, 2, height) * width + _inverse(index, 3, width)] = None
    return np.fromiter(order, np.int64)


def _inverse(index: int, base: int, side: int) -> int:
    """Return the cell, 0 .. side - 1, of the radical inverse of ``index``: its digits in ``base``, mirrored."""
    mirrored, scale = 0, 1
    while index:
        index, digit = divmod(index, base)
        mirrored, scale = mirrored * base + digit, scale * base
    return mirrored * side // scale


def _group(order: NDArray[np.int64], step_of_rank: NDArray[np.int64], steps: int) -> Schedule:
    """Cut each sample's order into one call per step that is not empty.

    Both arrays are [N, L], with ascending steps. Ranks whose step is ``steps`` are left out.
    """
    used = step_of_rank < steps
    longest = int(used.sum(1).max(initial=0))
    order, step_of_rank, used = order[:, :longest], step_of_rank[:, :longest], used[:, :longest]
    first = (np.diff(step_of_rank, axis=1, prepend=-1) > 0) & used
    call = np.cumsum(first, axis=1) - 1
    rank = np.arange(order.shape[1], dtype=np.int64)
    start_of_call: NDArray[np.int64] = np.maximum.accumulate(np.where(first, rank, 0), axis=1)
    within = np.where(used, rank - start_of_call, 0)
    count, calls, largest = len(order), int(call.max(initial=-1)) + 1, int(within.max(initial=0)) + 1
    positions = np.full((count, calls, largest), -1, np.int32)
    step_of_call = np.full((count, calls), -1, np.int32)
    rows = np.broadcast_to(np.arange(count)[:, None], order.shape)[used]
    positions[rows, call[used], within[used]] = order[used]
    step_of_call[rows, call[used]] = step_of_rank[used]
    return Schedule(positions, step_of_call)
