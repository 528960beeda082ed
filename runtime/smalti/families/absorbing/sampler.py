"""Sampling of absorbing diffusion (Bond-Taylor et al. 2021): a loop that follows a schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from smalti.errors import UsageError
from smalti.families.absorbing.schedule import Schedule
from smalti_kernels import Draw, sample

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Logits: TypeAlias = NDArray[np.float32] | NDArray[np.float16]
Sample: TypeAlias = Callable[..., Draw]
"""``smalti_kernels.sample``, or a backend's own. Equal logits give equal tokens with each."""


class Denoiser(Protocol):
    """A prior that predicts many tokens at once: an ONNX session, a torch module, a table in a test."""

    def __call__(self, tokens: Int32, labels: Int32, rows: Int32, /) -> Logits:
        """Return logits [N, R, K] at raster positions ``rows`` [N, R] of grids ``tokens`` [N, h*w], ``labels`` [N]."""
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
    top_k: int | NDArray[np.int32] = 0,
    top_p: float | NDArray[np.float32] = 1.0,
    guidance: float = 1.0,
    no_label: int = 0,
    mask: int | None = None,
    draw: Sample = sample,
) -> Iterator[Int32]:
    """Draw the scheduled positions call by call, and yield the grids (int32 [N, L], masks included) after each call.

    Only samples that still have masked tokens are sent to the network.

    Args:
        denoiser: the prior.
        tokens: int32 [N, L], the start: masks, and the tokens to keep. It is not modified.
        schedule: the positions of each call.
        seeds: one for each sample.
        labels: int32 [N].
        width: columns of the grid.
        temperature: above 0: a number, or one per sample.
        top_k: 0 keeps every token; a number, or one per sample: see ``smalti_kernels.sample``.
        top_p: 1 keeps every token; likewise.
        guidance: with a value other than 1 the network is also asked with the label ``no_label``, and the logits are
            uncond + guidance * (cond - uncond) (Ho and Salimans 2022).
        no_label: label of the unguided question.
        mask: the mask token; a schedule that masks again needs it.
        draw: draws tokens from logits.

    Raises:
        SamplingError: logits are NaN or leave nothing to draw.
        UsageError: the schedule masks again, and there is no ``mask``.
    """
    if schedule.remasked is not None and mask is None:
        raise UsageError("this schedule masks tokens again; say with mask which token that is")
    seed_array = np.asarray(seeds, np.uint64)
    for call in range(schedule.calls):
        active = np.flatnonzero(schedule.steps[:, call] >= 0)
        positions = schedule.positions[active, call]
        wanted = positions >= 0
        positions, wanted = (part[:, : int(wanted.sum(1).max())] for part in (positions, wanted))
        if schedule.remasked is not None and mask is not None:
            hidden = schedule.remasked[:, call]
            row, column = np.nonzero(hidden >= 0)
            tokens = tokens.copy()
            tokens[row, hidden[row, column]] = mask
        rows = np.where(wanted, positions, 0)
        logits, uncond = ask(denoiser, tokens[active], labels[active], rows, guidance, no_label)
        which, _ = np.nonzero(wanted)
        tokens = draw(
            asked_rows(logits, wanted),
            tokens,
            sample=active[which],
            position=positions[wanted],
            seeds=seed_array,
            step=schedule.steps[active, call][which],
            width=width,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            uncond=None if uncond is None else asked_rows(uncond, wanted),
            guidance=guidance,
        ).tokens
        yield tokens


def asked_rows(logits: Logits, wanted: NDArray[np.bool_]) -> Logits:
    """Return the logits [rows, K] of the positions in ``wanted`` [n, R], as a view where these are all."""
    return logits.reshape(-1, logits.shape[2]) if wanted.all() else logits[wanted]


def ask(
    denoiser: Denoiser, tokens: Int32, labels: Int32, rows: Int32, guidance: float, no_label: int
) -> tuple[Logits, Logits | None]:
    """Return the logits [n, R, K] under ``labels`` [n], and under ``no_label``; None for the latter at ``guidance`` 1.

    ``tokens`` is int32 [n, L], ``rows`` int32 [n, R]. Both questions go to the network in one call.
    """
    if guidance == 1.0:
        return denoiser(tokens, labels, rows), None
    unlabelled = np.full_like(labels, no_label)
    both = denoiser(np.concatenate([tokens] * 2), np.concatenate([labels, unlabelled]), np.concatenate([rows] * 2))
    return both[: len(tokens)], both[len(tokens) :]


def fill_masked(tokens: Int32, codes: int) -> Int32:
    """Replace masked tokens (``codes``) of grids int32 [N, h, w] by the nearest unmasked token, else by 0."""
    if not (tokens == codes).any():  # as in every step of a prior that knows no mask
        return tokens.copy()
    if tokens.shape[2] > tokens.shape[1]:  # the work below grows with the square of the width
        return fill_masked(tokens.transpose(0, 2, 1), codes).transpose(0, 2, 1)
    _, height, width = tokens.shape
    far = 2 * (height + width)
    y: Int64 = np.arange(height, dtype=np.int64)[:, None]
    x: Int64 = np.arange(width, dtype=np.int64)
    across: Int64 = (x[:, None] - x) ** 2
    filled = np.zeros_like(tokens)
    for grid, shown in zip(tokens, filled):
        known = grid != codes
        if not known.any():
            continue
        # The nearest unmasked token of each column first; the nearest of all is one of those.
        above: Int64 = np.maximum.accumulate(np.where(known, y, -far), axis=0)
        below: Int64 = np.minimum.accumulate(np.where(known, y, far)[::-1], axis=0)[::-1]
        row: Int64 = np.where(y - above <= below - y, above, below)
        for line in range(height):
            column = np.argmin((row[line] - line) ** 2 + across, axis=1)
            shown[line] = grid[row[line, column], column]
    return filled
