"""Sampling of SUNDAE priors: tokens start at random, and every step draws some of them anew.

Equations and sections are those of McKinney and Willcocks 2022.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smalti.errors import UsageError
from smalti.families.absorbing.sampler import Denoiser, Sample, ask
from smalti.families.absorbing.schedule import MAX_STEPS
from smalti.families.batching import Bools, Int32, Integers, movable_places, of_rows, portions, side_by_side
from smalti_kernels import STREAM_START, STREAM_SUBSET, random_words, sample

SUBSET_STEPS = 20
"""A run of fewer steps draws every position at every step, so that all can change (section 3.5)."""


@dataclass(frozen=True)
class Annealing:
    """Table of what every step of a run does. It can be printed, tested and replayed."""

    temperatures: NDArray[np.float32]
    """float32 [S], above 0: temperature of each step."""
    proportions: NDArray[np.float32]
    """float32 [S], 0 .. 1: probability with which each step draws a position anew."""
    min_steps: int
    """Number of steps before a sample may be frozen. With S or more, none is."""

    @property
    def steps(self) -> int:
        """S: most steps of a run."""
        return len(self.temperatures)


def annealing(
    steps: int,
    temperature: tuple[float, float] = (1.0, 0.7),
    proportion: tuple[float, float] = (0.5, 0.5),
    min_steps: int = 10,
) -> Annealing:
    """Lay out a run in which temperature and proportion change linearly from the first step to the last.

    A run of fewer than SUBSET_STEPS steps draws every position at every step, whatever ``proportion`` is. The paper
    gives the temperatures in words ("about 1.0, down to a lower value") and no proportion. The defaults are those of
    its code for 50 steps on faces of 1024x1024 pixels. The code used other values elsewhere: proportion 0.5 and 100
    steps at temperature 0.8 on faces of 256x256, 0.7 and 200 steps from 0.8 to 0.7 on ImageNet, 1 and 50 steps at 0.9
    on MNIST.

    Args:
        steps: S, 1 .. MAX_STEPS.
        temperature: temperatures of the first and the last step, above 0. A run of one step takes the first.
        proportion: proportions of the first and the last step, above 0 and at most 1.
        min_steps: number of steps before a sample may be frozen, at least 0. With ``steps`` none is frozen.

    Raises:
        UsageError: a value is out of range.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise UsageError(f"steps {steps}: allowed are 1 .. {MAX_STEPS}")
    if not all(0 < end < np.inf for end in temperature):
        raise UsageError(f"temperature {temperature}: both must be above 0")
    if not all(0 < end <= 1 for end in proportion):
        raise UsageError(f"proportion {proportion}: both must be above 0 and at most 1 (every position)")
    if min_steps < 0:
        raise UsageError(f"min_steps {min_steps}: allowed are 0 and more")
    first, last = (1.0, 1.0) if steps < SUBSET_STEPS else proportion
    return Annealing(
        np.linspace(*temperature, steps, dtype=np.float32), np.linspace(first, last, steps, dtype=np.float32), min_steps
    )


def start_tokens(seeds: Sequence[int], grid: tuple[int, int], codes: int) -> Int32:
    """Return uniform random tokens (int32 [N, h*w], 0 .. codes - 1), from which runs on a grid of (h, w) start.

    A token is a function of (seed, y, x), so it is the same in any batch and on any larger grid. The probability of a
    code is within 2^-32 of 1 / codes.
    """
    y, x = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    words = random_words(np.asarray(seeds, np.uint64)[:, None], stream=STREAM_START, step=0, y=y, x=x)[..., 0]
    return (words.astype(np.uint64) * np.uint64(codes) >> np.uint64(32)).astype(np.int32)


def run(
    denoiser: Denoiser,
    tokens: Int32,
    table: Annealing,
    *,
    seeds: Sequence[int],
    labels: Int32,
    width: int,
    free: Bools | None = None,
    top_k: int | NDArray[np.int32] = 0,
    top_p: float | NDArray[np.float32] = 1.0,
    guidance: float = 1.0,
    no_label: int = 0,
    draw: Sample = sample,
) -> Iterator[Int32]:
    """Draw tokens anew, step by step, by z_t ~ f(. | z_{t-1}) (eq. 2); yield the grids int32 [N, L] after each.

    Step s redraws every free position with probability ``table.proportions[s]``. The sample's own seed decides which.
    All these positions are drawn at once, given the grid before the step; the others stay.

    Freezing: step s (counted from 0) freezes a sample when s is at least ``table.min_steps``, the step drew at least
    one of its positions, and each token that it drew was there before. A frozen sample never changes again and costs
    nothing more; when all samples are frozen, the run ends. With a proportion below 1, the rule looks only at the
    positions that the step happened to draw, as in the paper's code. So a sample may be frozen although the next step
    would have changed it; the smaller the proportion, the sooner that happens. (The paper's code also freezes a sample
    of which a step drew nothing. Here such a sample goes on, because nothing was learned about it.)

    Args:
        denoiser: the prior. It is asked only about samples that are not frozen, at the positions that are redrawn.
        tokens: int32 [N, L], the start, 0 .. K - 1; not modified. See :func:`start_tokens`.
        table: see :func:`annealing`.
        seeds: one for each sample.
        labels: int32 [N].
        width: columns of the grid.
        free: bool [N, L], the positions that may change; None frees all. The other tokens stay, and condition the draw
            (section 3.6). A sample without a free position is left alone.
        top_k: 0 keeps every token; a number, or one per sample: see ``smalti_kernels.sample``.
        top_p: 1 keeps every token; likewise.
        guidance: as in :func:`smalti.families.absorbing.sampler.run`.
        no_label: label of the unguided question.

    Raises:
        UsageError: tokens, labels or ``free`` have another shape.
        SamplingError: logits are NaN or leave nothing to draw.
    """
    movable = movable_places(tokens, labels, free)
    seed_array = np.asarray(seeds, np.uint64)
    active = np.flatnonzero(movable.any(axis=1))
    for step, (temperature, proportion) in enumerate(zip(table.temperatures, table.proportions)):
        if not len(active):
            return
        owner, position = redrawn(active, movable, seed_array, step, float(proportion), width)
        drew, changed = np.zeros((2, len(tokens)), np.bool_)
        before = tokens
        for part in portions(owner):
            own, place = owner[part], position[part]
            who, line, column, rows = side_by_side(own, place)
            logits, uncond = ask(denoiser, before[who], labels[who], rows, guidance, no_label)
            drawn = draw(
                of_rows(logits, line, column),
                tokens,
                sample=own,
                position=place,
                seeds=seed_array,
                step=step,
                width=width,
                temperature=float(temperature),
                top_k=top_k,
                top_p=top_p,
                uncond=None if uncond is None else of_rows(uncond, line, column),
                guidance=guidance,
            )
            tokens = drawn.tokens
            drew[who] = True
            changed[own[drawn.changed]] = True
        yield tokens
        if step >= table.min_steps:
            active = active[~drew[active] | changed[active]]


def redrawn(
    active: Integers, movable: Bools, seeds: NDArray[np.uint64], step: int, proportion: float, width: int
) -> tuple[Integers, Integers]:
    """Return what a step redraws: samples (ascending, among ``active``) and raster positions, both [R]."""
    line, position = np.nonzero(movable[active])
    owner = active[line]
    threshold = int(proportion * 2**32)
    if threshold >= 2**32:
        return owner, position
    y, x = np.divmod(position, width)
    words = random_words(seeds[owner], stream=STREAM_SUBSET, step=step, y=y, x=x)[:, 0]
    chosen = words < np.uint32(threshold)
    return owner[chosen], position[chosen]
