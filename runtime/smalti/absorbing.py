"""Sampling of absorbing diffusion (paper 000): the loop that draws what a schedule lays out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from smalti.schedule import Schedule
from smalti_kernels import sample

Int32 = NDArray[np.int32]


class Denoiser(Protocol):
    """Whatever predicts tokens: an ONNX session, a torch module behind a function, a table in a test."""

    def __call__(self, tokens: Int32, labels: Int32, rows: Int32, /) -> NDArray[np.float32] | NDArray[np.float16]:
        """Logits [N, R, K] at raster positions ``rows`` [N, R] of grids ``tokens`` [N, h*w] under ``labels`` [N]."""
        ...


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
        ).tokens
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
