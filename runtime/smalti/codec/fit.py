"""Bring pictures of any size to one that tokens fit, and reduce them."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smalti.errors import UsageError
from smalti.families.checks import shown

Fit: TypeAlias = Literal["pad", "crop", "stretch"]
"""``pad`` continues the last column and row to the right and downwards, to the next multiples; positions stay what they
are. ``crop`` cuts the same from both sides, to the largest multiples. ``stretch`` resizes to the nearest multiples."""

FITS: tuple[str, ...] = get_args(Fit)
WAYS = 'fit="pad", "crop" or "stretch" (--fit at the prompt)'
"""How messages about sizes that do not fit name the way out."""


def check_fit(fit: Any) -> Fit | None:
    """Return ``fit``, checked. Raises UsageError for anything that is neither a Fit nor None."""
    if fit is not None and fit not in FITS:
        raise UsageError(f"fit {shown(fit)}: allowed are {', '.join(FITS)}, and None to refuse sizes that do not fit")
    return fit


def fitted(pixels: NDArray[np.uint8], factor: int, fit: Fit | None) -> NDArray[np.uint8]:
    """Return pixels uint8 [H, W, 3] or [H, W] at a size whose sides are multiples of ``factor``; None changes nothing.

    Raises UsageError for another ``fit``, and for a crop of what is smaller than one patch.
    """
    fit = check_fit(fit)
    height, width = pixels.shape[:2]
    if fit is None or (height % factor == 0 and width % factor == 0):
        return pixels
    if fit == "pad":
        more = [(0, -side % factor) for side in (height, width)]
        return np.pad(pixels, [*more, (0, 0)][: pixels.ndim], mode="edge")
    if fit == "crop":
        if height < factor or width < factor:
            raise UsageError(f"image size {width}x{height}: too small to crop to {factor}x{factor}; pad or stretch it")
        top, left = height % factor // 2, width % factor // 2
        return pixels[top : top + height // factor * factor, left : left + width // factor * factor]
    near = [max(1, round(side / factor)) * factor for side in (width, height)]
    return np.asarray(Image.fromarray(pixels).resize((near[0], near[1]), Image.Resampling.LANCZOS))


def fitted_mask(repaint: NDArray[np.bool_], factor: int, fit: Fit | None) -> NDArray[np.bool_]:
    """Return a mask (bool [H, W]) at the size that :func:`fitted` gives its image. Raises UsageError as that does."""
    shades: NDArray[Any] = fitted(np.where(repaint, 255, 0).astype(np.uint8), factor, fit)
    return np.asarray(shades > 127)


def reduce(pixels: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Reduce pixels uint8 [H, W, 3] by a whole number along each axis, each new pixel the mean of those it replaces."""
    if scale == 1:
        return pixels
    height, width, _ = pixels.shape
    return np.asarray(Image.fromarray(pixels).resize((width // scale, height // scale), Image.Resampling.BOX))
