"""Paint on beyond the edges of an image: how far, and the larger canvas that it lies on."""

from __future__ import annotations

import operator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from smalti.codec.fit import Fit, check_fit
from smalti.codec.pictures import Picture, to_pixels
from smalti.errors import UsageError

Margins = tuple[int, int, int, int]
"""Pixels that are added on the left, at the top, on the right and at the bottom."""
OUTPAINT_WAYS: Final = 'fit="pad" or "crop" (--fit at the prompt)'


def fitted_margins(size: tuple[int, int], margins: Margins, factor: int, fit: Fit | None) -> Margins:
    """Return margins around an image of ``size`` (width, height) with which the whole's sides are multiples of
    ``factor``.

    Only margins change, never the image: "pad" makes them wider, on the right and below, or on the left and above where
    only those were asked for; "crop" makes them narrower, on the right and below first. Raises UsageError where the
    whole does not fit and ``fit`` is None or "stretch", and for a crop that leaves nothing to paint.
    """
    left, top, right, bottom = margins
    width, height = size[0] + left + right, size[1] + top + bottom
    asked = f"left {left}, top {top}, right {right}, bottom {bottom}"
    if check_fit(fit) == "stretch":
        raise UsageError(f"fit stretch: painting on keeps the image as it is; take {OUTPAINT_WAYS}, or leave fit out")
    if width % factor == 0 and height % factor == 0:
        return margins
    if fit is None:
        wider = _padded(left, right, width, factor), _padded(top, bottom, height, factor)
        raise UsageError(
            f"{asked}: with the image of {size[0]}x{size[1]} the whole is {width}x{height}, and its sides must be "
            f"multiples of {factor}; take {_told(wider)}, or say {OUTPAINT_WAYS}"
        )
    change = _padded if fit == "pad" else _cropped
    across, down = change(left, right, width, factor), change(top, bottom, height, factor)
    if min(*across, *down) < 0 or not any((*across, *down)):
        raise UsageError(
            f"fit crop: {asked} around an image of {size[0]}x{size[1]} are too narrow to be cut to multiples of "
            f"{factor}; make them wider, or say pad"
        )
    return across[0], down[0], across[1], down[1]


def _padded(before: int, after: int, side: int, factor: int) -> tuple[int, int]:
    more = -side % factor
    return (before + more, after) if before and not after else (before, after + more)


def _cropped(before: int, after: int, side: int, factor: int) -> tuple[int, int]:
    less = side % factor
    return before - max(0, less - after), max(0, after - less)


def _told(pairs: tuple[tuple[int, int], tuple[int, int]]) -> str:
    (left, right), (top, bottom) = pairs
    return f"left {left}, top {top}, right {right}, bottom {bottom}"


def extended(image: Picture, margins: Margins) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return an image's pixels on a larger canvas (uint8 [H, W, 3]), and where they are not (bool [H, W]).

    ``margins`` are the pixels added on the left, at the top, on the right and at the bottom. Raises UsageError when one
    is negative or no whole number, or all are 0.
    """
    try:
        left, top, right, bottom = (operator.index(side) for side in margins)
    except TypeError:
        raise UsageError(f"margins {margins}: whole numbers of pixels are needed") from None
    if min(left, top, right, bottom) < 0 or not any((left, top, right, bottom)):
        raise UsageError(
            f"left {left}, top {top}, right {right}, bottom {bottom}: 0 or more pixels each, and some on one side"
        )
    pixels = to_pixels(image)
    beyond = np.pad(np.zeros(pixels.shape[:2], np.bool_), ((top, bottom), (left, right)), constant_values=True)
    return np.pad(pixels, ((top, bottom), (left, right), (0, 0))), beyond
