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
Moves = tuple[Bools, Bools]
"""What each of a few steps masks again, and what it unmasks: both bool [S, N, L]."""
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
    words = _words(seed_column, steps, y, x)
    if counts == "binomial":
        moves = _by_chance(drawable, words, remask, steps)
    else:
        ranks = np.argsort(halton_order(seeds, grid), axis=1) if order == "halton" else None
        moves = _by_count(drawable, words, remask, steps, counts, ranks)
    waiting = np.zeros_like(drawable)  # masked again, and not yet at a call
    calls, first = np.zeros(len(drawable), np.int64), 0
    drawn, masked, step_of = _Places(), _Places(), _Places()
    for again, now in moves:
        asked = np.logical_or.reduce(now, axis=2)
        hidden = np.empty_like(now)
        for at in range(len(now)):
            np.logical_and(waiting, asked[at][:, None], out=hidden[at])
            np.logical_xor(waiting, hidden[at], out=waiting)
            np.logical_or(waiting, again[at], out=waiting)
        call = calls + asked.cumsum(axis=0) - 1
        for places, members in ((drawn, now), (masked, hidden)):
            step, sample, position = np.nonzero(members)
            places.add(sample, call[step, sample], position)
        step, sample = np.nonzero(asked)
        step_of.add(sample, call[step, sample], first + step)
        calls, first = call[-1] + 1, first + len(now)
    return Schedule(drawn.table(calls), step_of.table(calls)[:, :, 0], masked.table(calls))


def _words(seeds: NDArray[np.uint64], steps: int, y: Integers, x: Integers) -> Iterator[Integers]:
    """Yield the words int64 [S, N, L, 4] of a few steps after the other: of several together they cost less."""
    together = max(1, WORDS // (4 * len(seeds) * len(y)))
    for first in range(0, steps, together):
        some = np.arange(first, min(first + together, steps))[:, None, None]
        yield random_words(seeds, stream=STREAM_SUBSET, step=some, y=y, x=x).astype(np.int64)


class _Places:
    """Values of samples and their calls, gathered step by step."""

    def __init__(self) -> None:
        self.parts: list[tuple[Integers, Integers, Integers]] = []

    def add(self, sample: Integers, call: Integers, value: Integers) -> None:
        """Add values [n] of samples [n] at their calls [n]."""
        self.parts.append((sample, call, value))

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


def _by_chance(drawable: Bools, words: Iterator[Integers], remask: Remask, steps: int) -> Iterator[Moves]:
    """Yield the moves of "binomial"; ``words`` decide."""
    masked, step = drawable, 0
    for given in words:
        again, now = (np.empty(given.shape[:3], np.bool_) for _ in range(2))
        for at, word in enumerate(given):
            before, after = step / steps, (step + 1) / steps
            sigma = float(_sigma(remask, np.float64(before), np.float64(after)))
            chance = (after - (1 - sigma) * before) / (1 - before)
            again[at] = drawable & ~masked & (word[..., 0] < _threshold(sigma))
            now[at] = masked & (word[..., 1] < _threshold(chance))
            masked = (masked & ~now[at]) | again[at]
            step += 1
        yield again, now


def _by_count(
    drawable: Bools, words: Iterator[Integers], remask: Remask, steps: int, counts: Counts, ranks: Integers | None
) -> Iterator[Moves]:
    """Yield moves that leave as many unmasked as ``counts`` says; ``words`` decide.

    Where ``ranks`` [N, L] are given, masked tokens of the lowest rank are unmasked first.
    """
    totals = drawable.sum(axis=1)
    sizes, size = np.unique(totals, return_inverse=True)
    known = np.array([unmasked_after(int(one), steps, counts) for one in sizes], np.int64)[size].T  # [steps + 1, N]
    share = known / np.maximum(totals, 1)
    likely = _sigma(remask, share[:-1], share[1:]) * known[:-1]
    most, more = np.minimum(known[:-1], totals - known[1:]), np.diff(known, axis=0)
    masked, first = drawable, 0
    for given in words:
        some = slice(first, first + len(given))
        up = given[:, :, 0, 3] / 2**32  # of a word that nothing else reads
        back = np.minimum(np.floor(likely[some] + up).astype(np.int64), most[some])
        forth = more[some] + back
        again, now = (np.zeros(given.shape[:3], np.bool_) for _ in range(2))
        for at, word in enumerate(given):
            _choose(drawable & ~masked, word[..., 0], back[at], again[at])
            _choose(masked, word[..., 1] if ranks is None else ranks, forth[at], now[at])
            masked = (masked & ~now[at]) | again[at]
        first += len(given)
        yield again, now


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


def _choose(members: Bools, keys: Integers, counts: Integers, chosen: Bools) -> None:
    """Set ``chosen`` (bool [N, L], all false) at the ``counts`` [N] members (bool [N, L]) of lowest ``keys``.

    Keys are int [N, L] below 2^32; ties go by place.
    """
    if most := int(counts.max(initial=0)):
        order = np.where(members, keys, 2**32).argsort(axis=1, kind="stable")[:, :most]
        chosen[np.arange(len(order))[:, None], order] = np.arange(most) < counts[:, None]
