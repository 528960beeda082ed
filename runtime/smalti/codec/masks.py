"""Repaint a part of an image: find the tokens to redraw, and keep all other pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from smalti.bundle.manifest import Resolution
from smalti.codec.fill import filled, surroundings
from smalti.codec.fit import WAYS, Fit, fitted, fitted_mask, reduce
from smalti.codec.pictures import Picture, read, to_pixels
from smalti.errors import UsageError
from smalti.families.canvas import canvas_size

LARGEST = 24
"""Most levels of 255 by which colours are matched; a greater difference is another shape, not another shade."""


def check_pair(
    image: Picture, mask: Picture, resolution: Resolution, fit: Fit | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Check an image and its mask; return pixels (uint8 [H, W, 3]) and where to repaint them (bool [H, W]).

    Both are brought to a size that fits, alike. Raises UsageError when ``fit`` is None and sides are not multiples of
    the resolution's factor, or when the mask has another size, is of the wrong kind or repaints nothing.
    """
    pixels, repaint = to_pixels(image), to_repaint(mask)
    height, width, _ = pixels.shape
    if fit is None and (height % resolution.factor or width % resolution.factor):
        try:
            canvas_size((width, height), (1, 1), resolution, "image size")
        except UsageError as error:
            raise UsageError(f"{error}; resize the image and the mask, or say {WAYS}") from None
    if repaint.shape != (height, width):
        found = f"{repaint.shape[1]}x{repaint.shape[0]}"
        raise UsageError(f"mask size {found}: it must be that of the image, {width}x{height}")
    pixels, repaint = fitted(pixels, resolution.factor, fit), fitted_mask(repaint, resolution.factor, fit)
    canvas_size(pixels.shape[1::-1], (1, 1), resolution, "image size")
    if not repaint.any():
        raise UsageError("the mask repaints nothing: paint white (True) what is to be drawn anew")
    return pixels, repaint


def to_repaint(mask: Picture) -> NDArray[np.bool_]:
    """Return where a mask repaints, bool [H, W].

    Where transparency varies, as in a layer that was painted with a brush, what is more opaque than not is repainted,
    whatever its colour. Else it is what is brighter than middle grey, in the range that :mod:`smalti.codec.levels`
    states for its type; integers may be 0 and 1. Raises UsageError for anything else.
    """
    found = read(mask, "a mask", mask=True)
    if found.alpha is not None and (found.alpha.min() < found.alpha.max() or not found.alpha.any()):
        return np.asarray(found.alpha > 127)
    return np.asarray(np.asarray(Image.fromarray(found.colours).convert("L")) > 127)


def seen_by_encoder(pixels: NDArray[np.uint8], repaint: NDArray[np.bool_], scale: int) -> NDArray[np.uint8]:
    """Return an image as its encoder may see it: reduced by ``scale``, and nothing of what is to be repainted.

    Where any pixel of a reduced one is to be repainted, that one continues its surroundings.
    """
    return filled(reduce(pixels, scale), patches(repaint, scale))


def patches(repaint: NDArray[np.bool_], factor: int) -> NDArray[np.bool_]:
    """Return the tokens (bool [h, w]) that have at least one pixel (bool [h*factor, w*factor]) to repaint."""
    height, width = repaint.shape
    return np.asarray(repaint.reshape(height // factor, factor, width // factor, factor).any(axis=(1, 3)))


def matched(drawn: Image.Image, pixels: NDArray[np.uint8], repaint: NDArray[np.bool_]) -> Image.Image:
    """Return ``drawn`` with its colours shifted to those of ``pixels`` around what is repainted, so that no seam shows.

    A decoder misses the colours of the image by a few levels. What it misses just outside the mask is spread over the
    inside, smoothly (Pérez, Gangnet and Blake 2003).
    """
    result = np.array(drawn)
    box = surroundings(repaint)
    missed = np.clip(pixels[box].astype(np.int16) - result[box], -LARGEST, LARGEST) + 128
    spread = filled(missed.astype(np.uint8), repaint[box]).astype(np.int16) - 128
    result[box] = np.clip(result[box] + spread, 0, 255)
    return Image.fromarray(result)


def paste(drawn: Image.Image, pixels: NDArray[np.uint8], repaint: NDArray[np.bool_], feather: int = 0) -> Image.Image:
    """Return the pixels of ``drawn`` where ``repaint`` is True, and those of ``pixels`` elsewhere.

    With ``feather`` above 0, pixels up to so far outside fade from the one into the other.
    """
    if not feather:
        return Image.fromarray(np.where(repaint[..., None], np.asarray(drawn), pixels))
    mask = Image.fromarray(np.where(repaint, 255, 0).astype(np.uint8)).filter(ImageFilter.BoxBlur(feather))
    share = np.where(repaint, 255, np.minimum(2 * np.asarray(mask, np.uint16), 255)).astype(np.uint8)
    return Image.composite(drawn, Image.fromarray(pixels), Image.fromarray(share))
