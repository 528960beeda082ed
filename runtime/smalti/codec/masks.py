"""Repaint a part of an image: find the tokens to redraw, and keep all other pixels."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smalti.bundle.manifest import Latent
from smalti.errors import UsageError
from smalti.families.canvas import canvas_size
from smalti.images import to_array

Picture: TypeAlias = Image.Image | NDArray[Any]


def check_pair(image: Picture, mask: Picture, latent: Latent) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Check an image and its mask; return pixels (uint8 [H, W, 3]) and where to repaint them (bool [H, W]).

    A PIL mask repaints where it is brighter than middle grey, an array where it is True.

    Raises UsageError when sides are not multiples of the bundle's factor, or when the mask has another size, is of the
    wrong kind or repaints nothing.
    """
    pixels = to_array(image)
    if isinstance(mask, Image.Image):
        repaint = np.greater(np.asarray(mask.convert("L")), 127)
    elif isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.ndim == 2:  # pyright: ignore[reportUnnecessaryIsInstance]
        repaint = mask
    else:
        raise UsageError("a mask must be a PIL image (white: repaint) or a bool array [H, W] (True: repaint)")
    height, width, _ = pixels.shape
    canvas_size((width, height), latent, "image size")
    if repaint.shape != (height, width):
        found = f"{repaint.shape[1]}x{repaint.shape[0]}"
        raise UsageError(f"mask size {found}: it must be that of the image, {width}x{height}")
    if not repaint.any():
        raise UsageError("the mask repaints nothing: paint white (True) what is to be drawn anew")
    return pixels, repaint


def patches(repaint: NDArray[np.bool_], factor: int) -> NDArray[np.bool_]:
    """Return the tokens (bool [h, w]) that have at least one pixel (bool [h*factor, w*factor]) to repaint."""
    height, width = repaint.shape
    return np.asarray(repaint.reshape(height // factor, factor, width // factor, factor).any(axis=(1, 3)))


def paste(drawn: Image.Image, pixels: NDArray[np.uint8], repaint: NDArray[np.bool_]) -> Image.Image:
    """Return the pixels of ``drawn`` where ``repaint`` is True, and those of ``pixels`` elsewhere."""
    return Image.fromarray(np.where(repaint[..., None], np.asarray(drawn), pixels))
