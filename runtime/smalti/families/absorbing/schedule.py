"""Schedules of absorbing diffusion: which positions each network call unmasks, as plain arrays computed ahead.

A schedule is a table that can be printed, tested and replayed. The network never sees the time, so a step that would
unmask nothing is no call at all, and samples of one batch need not be at the same step.
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
"""How many positions each step unmasks."""
Order = Literal["random", "halton", "confidence"]
"""Which positions come first; "confidence" is decided by the network while it draws, the others by the seed."""
Remask: TypeAlias = float | Literal["mlm"]
"""How much of what was drawn is masked and drawn again (``smalti.families.absorbing.remasking``); 0 is nothing."""

MAX_STEPS = 1_000_000
"""Far more than any grid has tokens to unmask, and still small arrays."""


@dataclass(frozen=True)
class Schedule:
    """Positions unmasked by each network call of each sample; without remasking, each wanted one exactly once."""

    positions: Int32
    """int32 [N, C, R]: raster positions, -1 where a call has fewer than R and after a sample's last call."""
    steps: Int32
    """int32 [N, C]: the step of the diffusion, 0 .. S - 1, that call stands for; -1 after a sample's last."""
    remasked: Int32 | None = None
    """int32 [N, C, M]: raster positions masked again just before a call, -1 where fewer; None where none ever."""

    @property
    def calls(self) -> int:
        """C: network calls until every sample is done."""
        return self.positions.shape[1]


def make_schedule(
    seeds: Sequence[int],
    grid: tuple[int, int],
    steps: int,
    counts: Counts = "exact",
    order: Order = "random",
    wanted: NDArray[np.bool_] | None = None,
) -> Schedule:
    """Lay out ``steps`` diffusion steps over a grid of h*w tokens for each seed, which alone decides a sample's order.

    ``wanted`` bool [N, h*w] says which positions there are to unmask, all of them by default.

    ``counts``:

    * ``exact`` unmasks as even a number per step as whole numbers allow.
    * ``cosine`` leaves the share cos(pi/2 * s/S) masked after step s (Chang et al. 2022, MaskGIT): few at first, while
      nothing is decided and tokens drawn together cannot agree, many at the end.
    * ``binomial`` is the process of Bond-Taylor et al. 2021: going through t = S .. 1, each token still masked is
      unmasked with probability 1/t, which is to say that each token's step is uniform; step sizes vary.

    ``order``:

    * ``random``: every order is equally likely.
    * ``halton``: along the Halton sequence of bases 2 and 3 (Besnier et al. 2025), rolled over the grid by an offset of
      the sample's own. Tokens drawn together lie far apart, so that drawing them independently costs less. Not with
      ``binomial``, which decides by itself what comes when.

    Raises UsageError for steps outside 1 .. MAX_STEPS, unknown ``counts`` or ``order``, and for order "confidence",
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
    """How many of ``total`` positions are unmasked before the first step and after each (int64 [S + 1], 0 .. total).

    Of the ``counts`` of :func:`make_schedule`, "exact" or "cosine"; "binomial" leaves it to chance.
    """
    share = np.linspace(0, 1, steps + 1)
    curve = 1 - np.cos(np.pi / 2 * share) if counts == "cosine" else share
    done = np.round(total * curve).astype(np.int64)
    done[-1] = total
    return done


def call_sizes(totals: NDArray[np.integer[Any]], steps: int, counts: Counts) -> tuple[Int32, Int32]:
    """How many of ``totals`` [N] positions each call of each sample unmasks, and the step it stands for.

    Both int32 [N, C]; a step that would unmask nothing is no call, and after a sample's last call they are 0 and -1.
    ``counts`` is "exact" or "cosine", as in :func:`make_schedule`.
    """
    each = [np.diff(unmasked_after(int(total), steps, counts)) for total in totals]
    used = [np.flatnonzero(sizes) for sizes in each]
    calls = max((len(which) for which in used), default=0)
    found = np.zeros((len(each), calls), np.int32), np.full((len(each), calls), -1, np.int32)
    for sample, which in enumerate(used):
        found[0][sample, : len(which)], found[1][sample, : len(which)] = each[sample][which], which
    return found


def check(steps: int, counts: str, order: str, remask: Remask = 0.0) -> None:
    """Raise UsageError, saying what is allowed, unless some sampler takes these together."""
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
    """Raster positions (int64 [N, L]) sorted by the random ``words`` (uint64 [N, L, 4], below 2^32) of each."""
    return np.argsort(words[..., 0] << np.uint64(32) | words[..., 1], axis=1, kind="stable")


def halton_order(seeds: Sequence[int], grid: tuple[int, int]) -> NDArray[np.int64]:
    """Raster positions (int64 [N, h*w]) along the Halton sequence, rolled over the grid by an offset of each seed."""
    height, width = grid
    words = random_words(np.asarray(seeds, np.uint64), stream=STREAM_ORDER, step=0, y=0, x=0).astype(np.uint64)
    y, x = np.divmod(halton_positions(grid), width)
    down, right = ((words[:, i] * np.uint64(side) >> np.uint64(32)).astype(np.int64) for i, side in enumerate(grid))
    return (y + down[:, None]) % height * width + (x + right[:, None]) % width


@cache
def halton_positions(grid: tuple[int, int]) -> NDArray[np.int64]:
    """Every raster position of the grid once (int64 [h*w]), in the order in which the Halton sequence first visits it.

    Point i is (radical inverse of i in base 2, in base 3), i = 1, 2, ..; rows take base 2. Whole numbers only, so that
    the order is the same everywhere.
    """
    height, width = grid
    order: dict[int, None] = {}
    index = 0
    while len(order) < height * width:
        index += 1
        order[_inverse(index, 2, height) * width + _inverse(index, 3, width)] = None
    return np.fromiter(order, np.int64)


def _inverse(index: int, base: int, side: int) -> int:
    """Cell, 0 .. side - 1, of the radical inverse of ``index``: its digits in ``base``, mirrored at the point."""
    mirrored, scale = 0, 1
    while index:
        index, digit = divmod(index, base)
        mirrored, scale = mirrored * base + digit, scale * base
    return mirrored * side // scale


def _group(order: NDArray[np.int64], step_of_rank: NDArray[np.int64], steps: int) -> Schedule:
    """Cut each sample's order (both [N, L], steps ascending) into one call per step that is not empty.

    Ranks whose step is ``steps`` are left out.
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
