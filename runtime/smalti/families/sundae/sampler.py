"""Sampling of SUNDAE priors: tokens start at random, and every step draws part of them anew.

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
"""Runs of fewer steps draw every position at every step (section 3.5: in few steps, all must be able to change)."""


@dataclass(frozen=True)
class Annealing:
    """What every step of a run does: a table that can be printed, tested and replayed."""

    temperatures: NDArray[np.float32]
    """float32 [S], above 0: of the draw at each step."""
    proportions: NDArray[np.float32]
    """float32 [S], 0 .. 1: the chance of each position to be drawn anew at each step."""
    min_steps: int
    """Steps before the first at which a sample may be frozen; S and more: none ever is."""

    @property
    def steps(self) -> int:
        """S: steps of a run that no freezing ends sooner."""
        return len(self.temperatures)


def annealing(
    steps: int,
    temperature: tuple[float, float] = (1.0, 0.7),
    proportion: tuple[float, float] = (0.5, 0.5),
    min_steps: int = 10,
) -> Annealing:
    """Lay out a run in which temperature and proportion go linearly from the first step's value to the last step's.

    Runs of fewer than SUBSET_STEPS steps draw every position at every step, whatever ``proportion`` is. The paper gives
    the temperatures in words ("about 1.0, down to a lower value") and no proportion; the defaults are what its code
    used with 50 steps on faces of 1024x1024 pixels. (It used 0.5 with 100 steps at temperature 0.8 on those of 256x256,
    0.7 with 200 steps from 0.8 to 0.7 on ImageNet, and 1 with 50 steps at 0.9 on MNIST.)

    Args:
        steps: S, 1 .. MAX_STEPS.
        temperature: of the first step and of the last, both above 0. A run of one step takes the first.
        proportion: likewise, both above 0 and at most 1.
        min_steps: steps before the first at which a sample may be frozen, at least 0; ``steps`` freezes none.

    Raises:
        UsageError: a value outside these.
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
    """Uniform random tokens (int32 [N, h*w], 0 .. codes - 1) that runs of ``seeds`` on a grid of (h, w) start from.

    A token is a function of (seed, y, x): it is the same in any batch, and on any larger grid. A code's chance is
    within 2^-32 of 1 / codes.
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
    """Draw tokens anew, step by step, by z_t ~ f(. | z_{t-1}) (eq. 2); yields the grids (int32 [N, L]) after each step.

    At step s every free position is redrawn with chance ``table.proportions[s]``, each by itself and by the sample's
    own seed; the others stay. All positions redrawn are drawn at once, given the grid before the step.

    Freezing. At step s (counted from 0) a sample is frozen, and never changes again, when s >= ``table.min_steps``, the
    step drew at least one of its positions, and every token that it drew is the one that stood there before. So with a
    proportion below 1 the judgement is about the positions that the step happened to draw, as in the paper's code: a
    sample can be frozen with positions that the next step would have changed, the sooner the smaller the proportion.
    (That code also freezes a sample of which a step drew nothing. Nothing was learned about it then, so here it goes
    on; with more than a few free positions that does not happen.) A frozen sample costs nothing more, and when all are
    frozen the run ends: there are ``table.steps`` steps at most.

    Args:
        denoiser: asked only about samples that are not frozen, and only at the positions that are redrawn.
        tokens: the start, int32 [N, L], 0 .. K - 1; not modified. See :func:`start_tokens`.
        table: see :func:`annealing`.
        seeds: one for each sample.
        labels: int32 [N].
        width: columns of the grid.
        free: bool [N, L], positions that may change, all by default; the other tokens stay, and condition the draw
            (section 3.6). Each sample may have its own; a sample with none is left alone.
        top_k: 0 keeps every token; a number, or one per sample: see ``smalti_kernels.sample``.
        top_p: 1 keeps every token; likewise.
        guidance: as in :func:`smalti.families.absorbing.sampler.run`.
        no_label: label of the unguided question.

    Raises:
        UsageError: tokens, labels or ``free`` of another shape.
        SamplingError: logits that are NaN or leave nothing to draw.
    """
    movable = movable_places(tokens, labels, free)
    seed_array = np.asarray(seeds, np.uint64)
    active = np.flatnonzero(movable.any(axis=1))
    for step, (temperature, proportion) in enumerate(zip(table.temperatures, table.proportions)):
        if not len(active):
            return
        owner, position = _redrawn(active, movable, seed_array, step, float(proportion), width)
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


def _redrawn(
    active: Integers, movable: Bools, seeds: NDArray[np.uint64], step: int, proportion: float, width: int
) -> tuple[Integers, Integers]:
    """Samples (ascending, among ``active``) and raster positions of what a step redraws, both [R]."""
    line, position = np.nonzero(movable[active])
    owner = active[line]
    threshold = int(proportion * 2**32)
    if threshold >= 2**32:
        return owner, position
    y, x = np.divmod(position, width)
    words = random_words(seeds[owner], stream=STREAM_SUBSET, step=step, y=y, x=x)[:, 0]
    chosen = words < np.uint32(threshold)
    return owner[chosen], position[chosen]
