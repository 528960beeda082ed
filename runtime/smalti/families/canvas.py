"""Canvases larger than a prior was trained on: its answers in all windows are mixed (Bond-Taylor et al. 2021)."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalti.bundle.manifest import Latent
from smalti.errors import UsageError
from smalti.families.absorbing.sampler import Denoiser

Int32 = NDArray[np.int32]
Integers = NDArray[np.intp]

WINDOWS = 16
"""Windows sent through the network at once, which bounds its memory whatever the canvas."""


MAX_TOKENS = 2**20
"""Most tokens of one canvas; with 16 pixels per token, 16384x16384 pixels."""


def canvas_size(size: Any, latent: Latent, what: str = "size") -> tuple[int, int]:
    """Check a size and return its width and height in pixels; None gives the bundle's own size.

    ``what`` names the size in messages. Raises UsageError for sides that are not multiples of the bundle's factor, with
    the nearest possible size, and for more than MAX_TOKENS tokens.
    """
    factor = latent.factor
    if size is None:
        return latent.grid[1] * factor, latent.grid[0] * factor
    try:
        width, height = (operator.index(side) for side in size)
    except (TypeError, ValueError):
        raise UsageError(f"{what} {size!r}: width and height in pixels are needed, such as (512, 256)") from None
    near = [max(1, round(side / factor)) * factor for side in (width, height)]
    if [width, height] != near:
        raise UsageError(
            f"{what} {width}x{height}: sides must be multiples of {factor}; the nearest is {near[0]}x{near[1]}"
        )
    if (width // factor) * (height // factor) > MAX_TOKENS:
        raise UsageError(f"{what} {width}x{height}: at most {MAX_TOKENS} patches of {factor}x{factor} pixels are drawn")
    return width, height


def window_starts(side: int, window: int, stride: int) -> list[int]:
    """Return where windows begin along an axis of ``side`` tokens: at every ``stride``, and flush with the end.

    The windows cover the whole axis. When the axis is shorter than a window, every window holds all of it, and starts
    go from ``side - window`` up to 0.
    """
    first, last = min(0, side - window), max(0, side - window)
    return [*range(first, last, stride), last]


def at_least_a_window(start: Int32, window: tuple[int, int], mask: int) -> tuple[Int32, tuple[slice, ...]]:
    """Pad grids ``start`` (int32 [N, h, w]) with ``mask`` to at least the size of ``window``.

    Return the padded grids, and the slices where the given ones lie. A prior without a mask token draws a canvas
    smaller than its window this way: as a part of a larger canvas.
    """
    margins = [max(0, side - own) for side, own in zip(window, start.shape[1:])]
    sides = [(margin // 2, margin - margin // 2) for margin in margins]
    inside = tuple(slice(before, before + own) for (before, _), own in zip(sides, start.shape[1:]))
    return np.pad(start, [(0, 0), *sides], constant_values=mask), (slice(None), *inside)


def canvas_denoiser(
    denoiser: Denoiser,
    canvas: tuple[int, int],
    window: tuple[int, int],
    *,
    stride: int | tuple[int, int] = 1,
    mask: int | None = None,
    batch: int = WINDOWS,
) -> Denoiser:
    """Turn a denoiser of windows into one of canvases, by Bond-Taylor et al. 2021, eq. 8.

    At each position, the probabilities of all windows that cover it are averaged. The answer is the logarithm of that
    mixture, so a temperature applies to the mixture, as in the paper. (The released code visits positions in raster
    order, and leaves the last columns without an answer when the stride does not divide. Here any schedule works, and
    the last window of an axis ends where the canvas ends.)

    Args:
        denoiser: the prior on grids of the size ``window``.
        canvas: rows and columns of the canvas, in tokens.
        window: rows and columns of the grid that the prior was trained on.
        stride: tokens from one window to the next, 1 .. the window's side: one number for both axes, or (down, right).
            1 takes every window, as eq. 8 is written. With half a window, about four windows cover each position.
        mask: the mask token, which surrounds a canvas that is smaller than the window along an axis. None is for a
            prior without a mask token; it refuses such canvases (see :func:`at_least_a_window`).
        batch: windows per call of ``denoiser``.

    Returns:
        A denoiser of canvases. It answers with logits float32 [N, R, K] at raster positions ``rows`` [N, R] of
        ``canvas``. Only windows that cover a position of ``rows`` are evaluated, and only there. A sample's answer does
        not depend on its batch as long as the denoiser's does not. For a canvas of the window's size it is ``denoiser``
        itself.

    Raises:
        UsageError: a side is below 1, the stride would leave gaps, or a canvas is small and there is no ``mask``.
    """
    down, right = (stride, stride) if isinstance(stride, int) else stride
    (height, width), (tall, wide) = canvas, window
    if min(height, width, tall, wide, batch) < 1:
        raise UsageError(f"canvas {canvas}, window {window}, batch {batch}: sides and batch must be at least 1")
    if not (1 <= down <= tall and 1 <= right <= wide):
        raise UsageError(
            f"stride {down}, {right}: allowed are 1 .. {tall} down and 1 .. {wide} right; more would leave gaps"
        )
    if canvas == window:
        return denoiser
    if mask is None and (height < tall or width < wide):
        raise UsageError(f"canvas {height}x{width} is smaller than the grid of {tall}x{wide} the model works on")
    tops, lefts = window_starts(height, tall, down), window_starts(width, wide, right)
    margin = ((0, 0), (-min(tops),) * 2, (-min(lefts),) * 2)  # masks around a canvas that is too small; 0 otherwise

    def windows_over(rows: Int32) -> Iterator[tuple[int, int, int, Integers]]:
        """(sample, top, left, which) of each window that covers some of its sample's ``rows`` [N, R], and which."""
        y, x = np.divmod(rows, width)
        for index in range(len(rows)):
            for top in tops:
                level = np.flatnonzero((y[index] >= top) & (y[index] < top + tall))
                if not len(level):
                    continue
                across = x[index, level]
                for left in lefts:
                    which = level[(across >= left) & (across < left + wide)]
                    if len(which):
                        yield index, top, left, which

    def denoise(tokens: Int32, labels: Int32, rows: Int32) -> NDArray[np.float32]:
        grids = np.pad(tokens.reshape(-1, height, width), margin, constant_values=0 if mask is None else mask)
        total: NDArray[np.float64] | None = None
        count = np.zeros(rows.shape, np.int64)
        jobs = windows_over(rows)
        while group := list(islice(jobs, batch)):
            most = max(len(which) for *_, which in group)
            parts = np.empty((len(group), tall * wide), np.int32)
            asked = np.empty((len(group), most), np.int32)
            for i, (index, top, left, which) in enumerate(group):
                y, x = top + margin[1][0], left + margin[2][0]
                parts[i] = grids[index, y : y + tall, x : x + wide].reshape(-1)
                y, x = np.divmod(rows[index, which], width)
                inside = (y - top) * wide + (x - left)
                asked[i] = np.append(inside, np.full(most - len(which), inside[0]))
            logits = denoiser(parts, labels[[index for index, *_ in group]], asked)
            if total is None:
                total = np.zeros((*rows.shape, logits.shape[2]))
            for answer, (index, _, _, which) in zip(logits, group):
                total[index, which] += _softmax(answer[: len(which)])
                count[index, which] += 1
        if total is None:
            raise UsageError("no position was asked for: rows is empty")
        with np.errstate(divide="ignore"):  # a token that no window allows keeps -inf
            return np.log(total / count[..., None]).astype(np.float32)

    return denoise


def _softmax(logits: NDArray[np.float32] | NDArray[np.float16]) -> NDArray[np.float64]:
    """Probabilities (float64 [R, K]); in double precision, so that the unlikeliest tokens stay possible."""
    with np.errstate(invalid="ignore"):  # a row that is all -inf becomes NaN, which the sampler reports with its place
        weights = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
