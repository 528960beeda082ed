"""Absorbing diffusion (paper 000): which positions each network call unmasks, and the loop that draws them.

The schedule is computed ahead as plain arrays, so a run can be printed, tested and replayed. The network never sees
the time, so a step that would unmask nothing is no call at all, and samples of one batch need not be at the same step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from smalti.errors import UsageError
from smalti_kernels import STREAM_ORDER, random_words, sample

Int32 = NDArray[np.int32]
Counts = Literal["exact", "binomial"]

MAX_STEPS = 1_000_000
"""Far more than any grid has tokens to unmask, and still small arrays."""


class Denoiser(Protocol):
    """Whatever predicts tokens: an ONNX session, a torch module behind a function, a table in a test."""

    def __call__(self, tokens: Int32, labels: Int32, rows: Int32, /) -> NDArray[np.float32] | NDArray[np.float16]:
        """Logits [N, R, K] at raster positions ``rows`` [N, R] of grids ``tokens`` [N, h*w] under ``labels`` [N]."""
        ...


@dataclass(frozen=True)
class Schedule:
    """Positions unmasked by each network call of each sample; every position appears exactly once per sample."""

    positions: Int32
    """int32 [N, C, R]: raster positions, -1 where a call has fewer than R and after a sample's last call."""
    steps: Int32
    """int32 [N, C]: the step of the diffusion, 0 .. S - 1, that call stands for; -1 after a sample's last."""

    @property
    def calls(self) -> int:
        """C: network calls until every sample is done."""
        return self.positions.shape[1]


def random_schedule(seeds: Sequence[int], grid: tuple[int, int], steps: int, counts: Counts = "exact") -> Schedule:
    """Unmask in random order, ``steps`` diffusion steps over a grid of h*w tokens.

    ``exact`` unmasks as even a number per step as whole numbers allow. ``binomial`` is the paper's own process: going
    through t = S .. 1, each token still masked is unmasked with probability 1/t, which is to say that each token's step
    is uniform; step sizes vary, and empty steps are skipped, exactly. Orders depend on nothing but each sample's seed.

    Raises UsageError for steps outside 1 .. MAX_STEPS or an unknown ``counts``.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise UsageError(f"steps {steps}: allowed are 1 .. {MAX_STEPS}")
    if counts not in ("exact", "binomial"):
        raise UsageError(f"schedule {counts!r}: allowed are exact and binomial")
    height, width = grid
    length = height * width
    y, x = np.divmod(np.arange(length), width)
    words = random_words(np.asarray(seeds, np.uint64)[:, None], stream=STREAM_ORDER, step=0, y=y, x=x).astype(np.uint64)
    order = np.argsort(words[..., 0] << np.uint64(32) | words[..., 1], axis=1, kind="stable")  # [N, L]
    if counts == "exact":
        step_of_rank = np.searchsorted(np.round(np.linspace(0, length, steps + 1))[1:], np.arange(length), side="right")
        step_of_rank = np.broadcast_to(step_of_rank, order.shape)
    else:
        step_of_position = (words[..., 2] * np.uint64(steps) >> np.uint64(32)).astype(np.int64)
        # Stable: within a step the random order above remains.
        by_step = np.argsort(np.take_along_axis(step_of_position, order, 1), axis=1, kind="stable")
        order = np.take_along_axis(order, by_step, 1)
        step_of_rank = np.take_along_axis(step_of_position, order, 1)
    return _group(order, step_of_rank)


def _group(order: NDArray[np.int64], step_of_rank: NDArray[np.int64]) -> Schedule:
    """Cut each sample's order (both [N, L], steps ascending) into one call per step that is not empty."""
    first = np.diff(step_of_rank, axis=1, prepend=-1) > 0
    call = np.cumsum(first, axis=1) - 1
    rank = np.arange(order.shape[1], dtype=np.int64)
    start_of_call: NDArray[np.int64] = np.maximum.accumulate(np.where(first, rank, 0), axis=1)
    within = rank - start_of_call
    count, calls, largest = len(order), int(call.max(initial=0)) + 1, int(within.max(initial=0)) + 1
    positions = np.full((count, calls, largest), -1, np.int32)
    steps = np.full((count, calls), -1, np.int32)
    rows = np.arange(count)[:, None]
    positions[rows, call, within] = order
    steps[rows, call] = step_of_rank
    return Schedule(positions, steps)


def run(
    denoiser: Denoiser,
    tokens: Int32,
    schedule: Schedule,
    *,
    seeds: Sequence[int],
    labels: Int32,
    width: int,
    temperature: float | NDArray[np.float32],
    guidance: float = 1.0,
    no_label: int = 0,
) -> Iterator[Int32]:
    """Draw the scheduled positions call by call; yields the grids (int32 [N, L], masks included) after each call.

    ``tokens`` int32 [N, L] is the start (all masks, or kept tokens between them) and is not modified; ``labels`` int32
    [N]; ``width`` is the grid's columns; ``temperature`` > 0 is a number or one per sample. With ``guidance`` other
    than 1 the network is also asked with label ``no_label``, and logits are uncond + guidance * (cond - uncond) (Ho and
    Salimans 2022). Only samples that still have something to unmask are sent to the network.

    Raises SamplingError when logits are NaN or leave nothing to draw.
    """
    seed_array = np.asarray(seeds, np.uint64)
    for call in range(schedule.calls):
        active = np.flatnonzero(schedule.steps[:, call] >= 0)
        positions = schedule.positions[active, call]
        wanted = positions >= 0
        positions, wanted = (part[:, : int(wanted.sum(1).max())] for part in (positions, wanted))
        rows = np.where(wanted, positions, 0)
        uncond = None
        if guidance == 1.0:
            logits = denoiser(tokens[active], labels[active], rows)
        else:
            both = denoiser(
                np.concatenate([tokens[active]] * 2),
                np.concatenate([labels[active], np.full(len(active), no_label, np.int32)]),
                np.concatenate([rows] * 2),
            )
            logits, uncond = both[: len(active)], both[len(active) :][wanted]
        which, _ = np.nonzero(wanted)
        tokens = sample(
            logits[wanted],
            tokens,
            sample=active[which],
            position=positions[wanted],
            seeds=seed_array,
            step=schedule.steps[active, call][which],
            width=width,
            temperature=temperature,
            uncond=uncond,
            guidance=guidance,
        )
        yield tokens


def fill_masked(tokens: Int32, codes: int) -> Int32:
    """Replace masked tokens (``codes``) of grids int32 [N, h, w] by their nearest unmasked one, or by 0."""
    count, height, width = tokens.shape
    rows, columns = (axis.reshape(-1) for axis in np.mgrid[:height, :width])
    filled = tokens.reshape(count, -1).copy()
    distance = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
    for grid in filled:
        known = np.flatnonzero(grid != codes)
        masked = np.flatnonzero(grid == codes)
        if len(masked):
            grid[masked] = grid[known[distance[masked][:, known].argmin(axis=1)]] if len(known) else 0
    return filled.reshape(tokens.shape)
