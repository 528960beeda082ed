"""Schedules that mask again part of what was drawn, so that early tokens can be revised (ReMDM, Wang et al. 2025).

Which positions are masked again and which are drawn does not depend on what is drawn: this too is a table.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from smalti.errors import UsageError
from smalti.families.absorbing.schedule import Counts, Order, Remask, Schedule, check, halton_order, unmasked_after
from smalti_kernels import STREAM_SUBSET, random_words

Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]


def remasking_schedule(
    seeds: Sequence[int],
    grid: tuple[int, int],
    steps: int,
    counts: Counts = "exact",
    order: Order = "random",
    remask: Remask = 0.0,
    wanted: Bools | None = None,
) -> Schedule:
    """Lay out ``steps`` diffusion steps that also mask tokens again, over a grid of h*w tokens for each seed.

    Let alpha_t and alpha_s be the share that is to be unmasked before and after a step. The step masks each unmasked
    token again with probability sigma, and unmasks each masked one with probability

        (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t),

    which leaves a share of alpha_s unmasked whatever sigma is (the paper's reverse process). What a step masks again
    the network still sees at that step's call, as in the paper; from the next call on it is masked.

    ``remask`` says what sigma is:

    * a number, 0 .. 1: that fraction of the greatest possible, min(1, (1 - alpha_s) / alpha_t) (ReMDM-rescale). 0 masks
      nothing again: the law is that of :func:`smalti.families.absorbing.schedule.make_schedule`.
    * ``"mlm"``: 1 - alpha_s. That is the masked-language-model sampler of the released code of Bond-Taylor et al.
      2021, which at each step masks every token anew with probability t/T, draws all masked ones and keeps what it
      drew. Tokens that the next step masks are not drawn here, for nobody would see them.

    ``counts`` "binomial" decides for each token by itself. With "exact" and "cosine" exactly as many stay masked after
    each step as in :func:`~smalti.families.absorbing.schedule.make_schedule`; sigma times the
    number of unmasked tokens are masked again,
    rounded up or down by chance so that the mean is right, and so many more are unmasked. ``order`` says which masked
    tokens are unmasked first: "random", any; "halton", those that come first along the sequence. ``wanted`` bool
    [N, h*w] says which positions there are to draw, all of them by default; no other is ever masked.

    Raises UsageError for values outside these, and for order "confidence".
    """
    check(steps, counts, order, remask)
    if order == "confidence":
        raise UsageError(
            "order confidence depends on what is drawn: use smalti.families.absorbing.confidence, "
            "or order random or halton"
        )
    y, x = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    seed_column = np.asarray(seeds, np.uint64)[:, None]
    drawable = np.ones((len(seed_column), len(y)), np.bool_) if wanted is None else wanted
    totals = drawable.sum(axis=1)
    share = {int(total): unmasked_after(int(total), steps, counts) for total in np.unique(totals)}
    ranks = np.argsort(halton_order(seeds, grid), axis=1) if order == "halton" else None
    masked, waiting = drawable, np.zeros_like(drawable)  # waiting: masked again, and not yet at a call
    calls = np.zeros(len(totals), np.int64)
    drawn, hidden, step_of = _Places(), _Places(), _Places()
    for step in range(steps):
        words = random_words(seed_column, stream=STREAM_SUBSET, step=step, y=y, x=x).astype(np.int64)
        unmasked = drawable & ~masked
        if counts == "binomial":
            again, now = _by_chance(unmasked, masked, words, remask, step, steps)
        else:
            goal = np.array([share[int(total)][step + 1] for total in totals], np.int64)
            again, now = _by_count(unmasked, masked, words, remask, goal, ranks)
        active = np.flatnonzero(now.sum(axis=1))
        drawn.add(calls, *np.nonzero(now))
        which, position = np.nonzero(waiting[active])
        hidden.add(calls, active[which], position)
        step_of.add(calls, active, np.full(len(active), step))
        calls[active] += 1
        waiting[active] = False
        waiting |= again
        masked = (masked & ~now) | again
    return Schedule(drawn.table(calls), step_of.table(calls)[:, :, 0], hidden.table(calls))


class _Places:
    """Values that belong to samples and their calls, gathered step by step."""

    def __init__(self) -> None:
        self.parts: list[tuple[Integers, Integers, Integers]] = []

    def add(self, calls: Integers, sample: Integers, value: Integers) -> None:
        """Values [n] of samples [n] at their next call, of which ``calls`` [N] says how many there were."""
        self.parts.append((sample, calls[sample], value))

    def table(self, calls: Integers) -> NDArray[np.int32]:
        """Values of each sample and call side by side: int32 [N, C, R], -1 where there are fewer than R."""
        most = int(calls.max(initial=0))
        sample, call, value = (np.concatenate(part) for part in zip(*self.parts))
        cell = sample * most + call
        order = np.argsort(cell, kind="stable")
        within = np.arange(len(cell)) - np.searchsorted(cell[order], cell[order])
        table = np.full((len(calls), most, int(within.max(initial=0)) + 1), -1, np.int32)
        table[sample[order], call[order], within] = value[order]
        return table


def _by_chance(
    unmasked: Bools, masked: Bools, words: Integers, remask: Remask, step: int, steps: int
) -> tuple[Bools, Bools]:
    """What one step of "binomial" masks again and what it unmasks (bool [N, L] all), by ``words`` [N, L, 4]."""
    before, after = step / steps, (step + 1) / steps
    sigma = float(_sigma(remask, np.float64(before), np.float64(after)))
    chance = (after - (1 - sigma) * before) / (1 - before)
    return unmasked & (words[..., 0] < _threshold(sigma)), masked & (words[..., 1] < _threshold(chance))


def _by_count(
    unmasked: Bools, masked: Bools, words: Integers, remask: Remask, goal: Integers, ranks: Integers | None
) -> tuple[Bools, Bools]:
    """What one step masks again and what it unmasks (bool [N, L] all), so that ``goal`` [N] are unmasked after it.

    ``words`` [N, L, 4] decide; of the masked ones those of least ``ranks`` [N, L] come first, if there are any.
    """
    known = unmasked.sum(axis=1)
    totals = known + masked.sum(axis=1)
    sigma = _sigma(remask, known / np.maximum(totals, 1), goal / np.maximum(totals, 1))
    up = words[:, 0, 3] / 2**32  # of a word that nothing else reads
    again = np.minimum(np.floor(sigma * known + up).astype(np.int64), np.minimum(known, totals - goal))
    chosen = _first(masked, words[..., 1] if ranks is None else ranks, goal - known + again)
    return _first(unmasked, words[..., 0], again), chosen


def _sigma(
    remask: Remask, before: NDArray[np.float64] | np.float64, after: NDArray[np.float64] | np.float64
) -> NDArray[np.float64]:
    """The chance of an unmasked token to be masked again, where shares ``before`` and ``after`` are to be unmasked."""
    if remask == "mlm":
        return np.asarray(1 - after)
    return float(remask) * np.minimum(1, (1 - after) / np.maximum(before, 1e-300))


def _threshold(chance: float) -> int:
    """Words below it, of 2^32, are as many as ``chance`` says."""
    return int(min(max(chance, 0.0), 1.0) * 2**32)


def _first(members: Bools, keys: Integers, counts: Integers) -> Bools:
    """The ``counts`` [N] members (bool [N, L]) of least key (int [N, L], below 2^32), the first of those in a tie."""
    order = np.argsort(np.where(members, keys, 2**32), axis=1, kind="stable")
    return np.argsort(order, axis=1) < counts[:, None]
