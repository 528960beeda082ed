"""Fill what is masked in an image by a diffusion of its surroundings, so that an encoder sees nothing of it.

The fill solves Laplace's equation roughly, from coarse to fine: known pixels are averaged down level by level, and on
the way up unknown ones start from the coarser level and are smoothed among their neighbours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SWEEPS = 8
"""Smoothing sweeps per level; more change little."""
AROUND = 16
"""Known pixels around the masked ones that the fill looks at."""
UNKNOWN = 128.0
"""Grey level where nothing at all is known."""

Float32 = NDArray[np.float32]
Bools = NDArray[np.bool_]


def filled(pixels: NDArray[np.uint8], unknown: Bools) -> NDArray[np.uint8]:
    """Return pixels (uint8 [H, W, 3]) in which those that are ``unknown`` (bool [H, W]) continue the known ones.

    The result does not depend on what the unknown pixels were.
    """
    if not unknown.any():
        return pixels
    result = pixels.copy()
    box = surroundings(unknown)
    part = unknown[box]
    for channel in range(pixels.shape[2]):  # one at a time, to bound the memory
        values = np.where(part, 0, pixels[(*box, channel)]).astype(np.float32)
        result[(*box, channel)] = np.where(part, np.rint(_solved(values, ~part)), pixels[(*box, channel)])
    return result


def surroundings(unknown: Bools) -> tuple[slice, slice]:
    """The rows and columns that a fill of ``unknown`` (bool [H, W], some True) looks at."""
    return _around(np.flatnonzero(unknown.any(axis=1))), _around(np.flatnonzero(unknown.any(axis=0)))


def _around(places: NDArray[np.intp]) -> slice:
    """The span of ``places`` (rising), with ``AROUND`` more on both sides."""
    return slice(max(0, int(places[0]) - AROUND), int(places[-1]) + 1 + AROUND)


def _solved(values: Float32, known: Bools) -> Float32:
    """Values float32 [H, W], 0 where they are not ``known``, with the unknown ones filled in."""
    if known.all():
        return values
    if not known.any():
        return np.full_like(values, UNKNOWN)
    if max(values.shape) > 1:
        sums, counts = _halved(values), _halved(known.astype(np.float32))
        coarse = _solved(np.where(counts > 0, sums / np.maximum(counts, 1), 0).astype(np.float32), counts > 0)
        finer = coarse.repeat(2, axis=0).repeat(2, axis=1)[: values.shape[0], : values.shape[1]]
        values = np.where(known, values, finer)
    for _ in range(SWEEPS):
        edge = np.pad(values, 1, mode="edge")
        mean = (edge[:-2, 1:-1] + edge[2:, 1:-1] + edge[1:-1, :-2] + edge[1:-1, 2:]) * np.float32(0.25)
        values = np.where(known, values, mean)
    return values


def _halved(values: Float32) -> Float32:
    """Sums over 2x2 pixels; an odd side is filled up with zeros."""
    height, width = values.shape
    even = np.pad(values, ((0, height % 2), (0, width % 2)))
    return even.reshape((height + 1) // 2, 2, (width + 1) // 2, 2).sum(axis=(1, 3))
