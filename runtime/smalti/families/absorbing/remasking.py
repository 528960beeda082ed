"""Schedules that mask some drawn tokens again, so that early tokens can be revised (ReMDM, Wang et al. 2025).

The positions do not depend on the tokens that are drawn, so these schedules are tables too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from smalti.errors import UsageError
from smalti.families.absorbing.schedule import Counts, Order, Remask, Schedule, check, halton_order, unmasked_after
from smalti_kernels import STREAM_SUBSET, random_words

Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]
WORDS = 2**16
"""Words of noise that are made together."""


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

    Let alpha_t and alpha_s be the unmasked share that is wanted before and after a step. The step masks each unmasked
    token again with probability sigma. It unmasks each masked token with probability ::

        (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t)

    This leaves a share of alpha_s unmasked for any sigma (the paper's reverse process). As in the paper, the network
    still sees a token at the call of the step that masks it again; from the next call on it sees a mask.

    Args:
        seeds: seed of each sample.
        grid: rows and columns, h and w.
        steps: 1 .. MAX_STEPS.
        counts: "binomial" decides for each token by itself. "exact" and "cosine" leave exactly as many tokens masked
            after each step as :func:`~smalti.families.absorbing.schedule.make_schedule` does. They mask again sigma
            times the number of unmasked tokens, rounded up or down by chance so that the mean is right, and unmask so
            many more.
        order: the masked tokens that are unmasked first: "random" takes any, "halton" follows the sequence.
        remask: sets sigma. A number, 0 .. 1, is a fraction of the largest possible sigma, min(1, (1 - alpha_s) /
            alpha_t) (ReMDM-rescale); with 0 nothing is masked again. "mlm" makes sigma 1 - alpha_s: this is the
            masked-language-model sampler of the released code of Bond-Taylor et al. 2021. That code masks every token
            with probability t/T at each step and draws all masked tokens. Here tokens that the next step masks are not
            drawn, because no call would see them.
        wanted: bool [N, h*w], the positions to draw; None draws all. Other positions are never masked.

    Raises:
        UsageError: a value is out of range, or the order is "confidence".
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
    for step, words in enumerate(_words(seed_column, steps, y, x)):
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


def _words(seeds: NDArray[np.uint64], steps: int, y: Integers, x: Integers) -> Iterator[Integers]:
    """Yield the words int64 [N, L, 4] of each step; those of several steps are made together, which costs less."""
    together = max(1, WORDS // (4 * len(seeds) * len(y)))
    for first in range(0, steps, together):
        some = np.arange(first, min(first + together, steps))[:, None, None]
        yield from random_words(seeds, stream=STREAM_SUBSET, step=some, y=y, x=x).astype(np.int64)


class _Places:
    """Values of samples and their calls, gathered step by step."""

    def __init__(self) -> None:
        self.parts: list[tuple[Integers, Integers, Integers]] = []

    def add(self, calls: Integers, sample: Integers, value: Integers) -> None:
        """Add values [n] of samples [n] at their next call; ``calls`` [N] counts each sample's calls so far."""
        self.parts.append((sample, calls[sample], value))

    def table(self, calls: Integers) -> NDArray[np.int32]:
        """Return the values of each sample and call: int32 [N, C, R], filled up with -1."""
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
    """Return what one step of "binomial" masks again and unmasks (both bool [N, L]); ``words`` [N, L, 4] decide."""
    before, after = step / steps, (step + 1) / steps
    sigma = float(_sigma(remask, np.float64(before), np.float64(after)))
    chance = (after - (1 - sigma) * before) / (1 - before)
    return unmasked & (words[..., 0] < _threshold(sigma)), masked & (words[..., 1] < _threshold(chance))


def _by_count(
    unmasked: Bools, masked: Bools, words: Integers, remask: Remask, goal: Integers, ranks: Integers | None
) -> tuple[Bools, Bools]:
    """Return what one step masks again and unmasks (both bool [N, L]), so that it ends with ``goal`` [N] unmasked.

    ``words`` [N, L, 4] decide. Where ``ranks`` [N, L] are given, masked tokens of the lowest rank are unmasked first.
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
    """Return the probability of masking a token again; ``before`` and ``after`` are the unmasked shares of a step."""
    if remask == "mlm":
        return np.asarray(1 - after)
    return float(remask) * np.minimum(1, (1 - after) / np.maximum(before, 1e-300))


def _threshold(chance: float) -> int:
    """Return the bound below which a word of 32 bits lies with probability ``chance``."""
    return int(min(max(chance, 0.0), 1.0) * 2**32)


def _first(members: Bools, keys: Integers, counts: Integers) -> Bools:
    """Choose the ``counts`` [N] members (bool [N, L]) of lowest ``keys`` (int [N, L], below 2^32); ties by place."""
    order = np.argsort(np.where(members, keys, 2**32), axis=1, kind="stable")
    return np.argsort(order, axis=1) < counts[:, None]
