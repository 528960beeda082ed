"""Canvases larger than a prior was trained on: its answers in all windows are mixed (Bond-Taylor et al. 2021)."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalti.bundle.manifest import Resolution
from smalti.errors import UsageError
from smalti.families.absorbing.sampler import Denoiser
from smalti_kernels.spec import mixtures

Int32 = NDArray[np.int32]
Integers = NDArray[np.intp]

WINDOWS = 16
"""Windows sent through the network at once, which bounds its memory whatever the canvas."""


MAX_TOKENS, MAX_PIXELS = 2**20, 2**28
"""Most tokens and pixels of one canvas; the latter are 16384x16384."""


def canvas_size(
    size: Any, grid: tuple[int, int], resolution: Resolution, what: str = "size", told: int = MAX_PIXELS
) -> tuple[int, int]:
    """Check a size and return its width and height in pixels; None gives that of ``grid``, rows and columns of tokens.

    ``what`` names the size in messages, and ``told`` are the most pixels that they speak of. Raises UsageError for
    sides that are not multiples of the resolution's factor, with the nearest possible size, and for more than
    MAX_TOKENS tokens or MAX_PIXELS pixels.
    """
    factor = resolution.factor
    if size is None:
        return grid[1] * factor, grid[0] * factor
    try:
        width, height = (operator.index(side) for side in size)
    except (TypeError, ValueError):
        raise UsageError(f"{what} {size!r}: width and height in pixels are needed, such as (512, 256)") from None
    near = [max(1, round(side / factor)) * factor for side in (width, height)]
    if [width, height] != near:
        raise UsageError(
            f"{what} {width}x{height}: sides must be multiples of {factor}; the nearest is {near[0]}x{near[1]}"
        )
    most = min(MAX_TOKENS, MAX_PIXELS // factor**2)
    if (width // factor) * (height // factor) > most:
        most = min(most, told // factor**2)
        raise UsageError(f"{what} {width}x{height}: at most {most} patches of {factor}x{factor} pixels are drawn")
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


@dataclass(frozen=True)
class Windowed:
    """Windows over a canvas, and what each counts: the geometry of :func:`canvas_denoiser`."""

    canvas: tuple[int, int]
    window: tuple[int, int]
    stride: tuple[int, int]
    edges: bool = False

    @cached_property
    def starts(self) -> tuple[list[int], list[int]]:
        """Rows and columns at which windows begin; negative where the canvas is smaller than a window."""
        down, right = (window_starts(*axis) for axis in zip(self.canvas, self.window, self.stride))
        return down, right

    def over(self, rows: Int32, wanted: NDArray[np.bool_] | None = None) -> Iterator[tuple[int, int, int, Integers]]:
        """Yield (line, top, left, which) of each window that covers some of its line's rows, and which.

        ``rows`` [N, R] are raster positions of the canvas; those that are not ``wanted`` [N, R] are left out.
        """
        (tall, wide), (tops, lefts) = self.window, self.starts
        y, x = np.divmod(rows, self.canvas[1])
        for index in range(len(rows)):
            for top in tops:
                inside = (y[index] >= top) & (y[index] < top + tall)
                level = np.flatnonzero(inside if wanted is None else inside & wanted[index])
                if not len(level):
                    continue
                across = x[index, level]
                for left in lefts:
                    which = level[(across >= left) & (across < left + wide)]
                    if len(which):
                        yield index, top, left, which

    def within(self, rows: Int32, top: int, left: int) -> Int32:
        """Return the raster positions in a window of raster positions ``rows`` of the canvas."""
        y, x = np.divmod(rows, self.canvas[1])
        return ((y - top) * self.window[1] + (x - left)).astype(np.int32)

    @cached_property
    def seen(self) -> Int32:
        """Raster positions of the canvas, int32 [h', w'], with a margin of -1 where it is smaller than a window."""
        (height, width), (tops, lefts) = self.canvas, self.starts
        margin = ((-min(tops),) * 2, (-min(lefts),) * 2)
        return np.pad(np.arange(height * width, dtype=np.int32).reshape(height, width), margin, constant_values=-1)

    def cells(self, top: int, left: int) -> Int32:
        """Return the raster positions that a window sees, int32 [tall * wide]; -1 outside the canvas."""
        (tops, lefts), (tall, wide) = self.starts, self.window
        y, x = top - min(tops), left - min(lefts)
        return self.seen[y : y + tall, x : x + wide].reshape(-1)

    @cached_property
    def _counted(self) -> dict[tuple[int, int], NDArray[np.uint64]]:
        return {}

    def importance(self, top: int, left: int) -> NDArray[np.uint64]:
        """Return what the answers of a window count: uint64 [tall * wide], not to be changed."""
        if (top, left) not in self._counted:
            self._counted[top, left] = self._importance(top, left)
        return self._counted[top, left]

    def _importance(self, top: int, left: int) -> NDArray[np.uint64]:
        (height, width), (tall, wide), (down, right) = self.canvas, self.window, self.stride
        most_over = (-(-tall // down) + 1) * (-(-wide // right) + 1)  # no more windows cover a position
        full = min(mixtures.IMPORTANCE_ONE, 2 ** (64 - mixtures.SHARE_BITS) // most_over)
        inner = np.ones((tall, wide), np.bool_)
        if not self.edges:
            inner[0] &= top <= 0
            inner[-1] &= top + tall >= height
            inner[:, 0] &= left <= 0
            inner[:, -1] &= left + wide >= width
        return np.where(inner, full, 1).astype(np.uint64).reshape(-1)


def canvas_denoiser(
    denoiser: Denoiser,
    canvas: tuple[int, int],
    window: tuple[int, int],
    *,
    stride: int | tuple[int, int] = 1,
    mask: int | None = None,
    batch: int = WINDOWS,
    edges: bool = False,
) -> Denoiser:
    """Turn a denoiser of windows into one of canvases, by Bond-Taylor et al. 2021, eq. 8.

    At each position, the probabilities of all windows that cover it are averaged. The answer is the logarithm of that
    mixture, so a temperature applies to the mixture, as in the paper. (The released code visits positions in raster
    order, and leaves the last columns without an answer when the stride does not divide. Here any schedule works, and
    the last window of an axis ends where the canvas ends.) It is computed in integers
    (:mod:`smalti_kernels.spec.mixtures`), so that it is the same on every device.

    A prior has learnt what the borders of pictures look like. Where a window ends inside the canvas there is no border,
    so its outermost tokens there count a millionth of others: only where no other window answers are they heard.

    Args:
        denoiser: the prior on grids of the size ``window``.
        canvas: rows and columns of the canvas, in tokens.
        window: rows and columns of the grid that the prior was trained on.
        stride: tokens from one window to the next, 1 .. the window's side: one number for both axes, or (down, right).
            1 takes every window, as eq. 8 is written. With half a window, about four windows cover each position.
        mask: the mask token, which surrounds a canvas that is smaller than the window along an axis. None is for a
            prior without a mask token; it refuses such canvases (see :func:`at_least_a_window`).
        batch: windows per call of ``denoiser``.
        edges: whether windows are heard in full at all their edges, as in the released code.

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
    windowed = Windowed(canvas, window, (down, right), edges)
    sums = np.empty(0, np.uint64)  # kept from step to step: pages of new memory take longer than what is added here

    def denoise(tokens: Int32, labels: Int32, rows: Int32) -> NDArray[np.float32]:
        nonlocal sums
        grids = np.pad(tokens, ((0, 0), (0, 1)), constant_values=0 if mask is None else mask)  # -1 is the mask
        total: NDArray[np.uint64] | None = None
        broken = np.zeros(rows.shape, np.bool_)
        jobs = windowed.over(rows)
        while group := list(islice(jobs, batch)):
            most = max(len(which) for *_, which in group)
            parts = np.empty((len(group), tall * wide), np.int32)
            asked = np.empty((len(group), most), np.int32)
            for i, (index, top, left, which) in enumerate(group):
                parts[i] = grids[index, windowed.cells(top, left)]
                inside = windowed.within(rows[index, which], top, left)
                asked[i] = np.append(inside, np.full(most - len(which), inside[0]))
            logits = denoiser(parts, labels[[index for index, *_ in group]], asked)
            if total is None:
                size = rows.size * logits.shape[2]
                sums = sums if sums.size >= size else np.empty(size, np.uint64)
                total = sums[:size].reshape(*rows.shape, logits.shape[2])
                total.fill(0)
            for answer, inside, (index, top, left, which) in zip(logits, asked, group):
                mixtures.add_shares(
                    total[index],
                    broken[index],
                    which,
                    answer[: len(which)],
                    windowed.importance(top, left)[inside[: len(which)]],
                )
        if total is None:
            raise UsageError("no position was asked for: rows is empty")
        return mixtures.mixture(total.reshape(-1, total.shape[2]), broken.reshape(-1)).reshape(total.shape)

    return denoise
