"""Sampling of SUNDAE priors (paper 003, section 3.5): tokens start at random, every step draws part of them anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smalti.absorbing import Denoiser, Logits, ask
from smalti.errors import UsageError
from smalti.schedule import MAX_STEPS
from smalti_kernels import STREAM_START, STREAM_SUBSET, random_words, sample

Int32 = NDArray[np.int32]
Integers = NDArray[np.intp]
Bools = NDArray[np.bool_]

SUBSET_STEPS = 20
"""Runs of fewer steps draw every position at every step (section 3.5: in few steps, all must be able to change)."""
ROWS = 2**12
"""Positions asked for at once, which bounds the memory of their logits: 128 MiB with 8192 codes."""


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
        guidance: as in :func:`smalti.absorbing.run`.
        no_label: label of the unguided question.

    Raises:
        UsageError: tokens, labels or ``free`` of another shape.
        SamplingError: logits that are NaN or leave nothing to draw.
    """
    movable = _movable(tokens, labels, free)
    seed_array = np.asarray(seeds, np.uint64)
    active = np.flatnonzero(movable.any(axis=1))
    for step, (temperature, proportion) in enumerate(zip(table.temperatures, table.proportions)):
        if not len(active):
            return
        owner, position = _redrawn(active, movable, seed_array, step, float(proportion), width)
        drew, changed = np.zeros((2, len(tokens)), np.bool_)
        before = tokens
        for part in _portions(owner):
            own, place = owner[part], position[part]
            who, line, column, rows = _side_by_side(own, place)
            logits, uncond = ask(denoiser, before[who], labels[who], rows, guidance, no_label)
            drawn = sample(
                _of_rows(logits, line, column),
                tokens,
                sample=own,
                position=place,
                seeds=seed_array,
                step=step,
                width=width,
                temperature=float(temperature),
                top_k=top_k,
                top_p=top_p,
                uncond=None if uncond is None else _of_rows(uncond, line, column),
                guidance=guidance,
            )
            tokens = drawn.tokens
            drew[who] = True
            changed[own[drawn.changed]] = True
        yield tokens
        if step >= table.min_steps:
            active = active[~drew[active] | changed[active]]


def _movable(tokens: Int32, labels: Int32, free: Bools | None) -> Bools:
    """``free``, or all positions; UsageError unless the shapes fit."""
    if tokens.ndim != 2 or labels.shape[:1] != tokens.shape[:1]:
        raise UsageError(
            f"tokens must be int32 [N, L] with one label each; got {list(tokens.shape)} and labels {list(labels.shape)}"
        )
    if free is None:
        return np.ones(tokens.shape, np.bool_)
    if free.shape != tokens.shape or free.dtype != np.bool_:
        raise UsageError(
            f"free must be bool {list(tokens.shape)}, a value for each token; got {free.dtype} {list(free.shape)}"
        )
    return free


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


def _portions(owner: Integers) -> Iterator[slice]:
    """Cut rows [R], of which ``owner`` (ascending) says the sample, into parts of up to ROWS rows with their padding.

    They are whole samples, unless one has more than ROWS: then each is cut by itself.
    """
    begins = np.flatnonzero(np.diff(owner, prepend=-1))
    ends = np.append(begins[1:], len(owner))
    most = int((ends - begins).max(initial=1))
    cuts: list[int] = begins[:: max(1, ROWS // most)].tolist()
    if most > ROWS:
        cuts = [cut for begin, end in zip(begins, ends) for cut in range(begin, end, ROWS)]
    return (slice(*span) for span in zip(cuts, [*cuts[1:], len(owner)]))


def _side_by_side(owner: Integers, position: Integers) -> tuple[Integers, Integers, Integers, Int32]:
    """Positions [R] of samples ``owner`` [R] (ascending) as the network is asked for them.

    The samples [n], the line and the column of each position, and the table int32 [n, most] itself: 0 where a sample
    has fewer than the most.
    """
    who, first, size = np.unique(owner, return_index=True, return_counts=True)
    line, column = np.repeat(np.arange(len(who)), size), np.arange(len(owner)) - np.repeat(first, size)
    rows = np.zeros((len(who), int(size.max())), np.int32)
    rows[line, column] = position
    return who, line, column, rows


def _of_rows(answer: Logits, line: Integers, column: Integers) -> Logits:
    """Logits [R, K] at lines and columns [R] of ``answer`` [n, most, K]; no copy where that is all of them."""
    if len(line) == answer.shape[0] * answer.shape[1]:
        return answer.reshape(len(line), -1)
    return answer[line, column]
