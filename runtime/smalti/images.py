"""Images as arrays, as contact sheets and as files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from smalti.errors import UsageError
from smalti.files import write_whole
from smalti.platform import reachable

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""Errors of Pillow for files that are damaged, of an unknown kind, or too large by their own account."""


def to_array(image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the pixels (uint8 [H, W, 3]) of a PIL image of any mode; an array of that form is returned as it is.

    Transparent pixels are laid over white. Raises UsageError for anything else.
    """
    if isinstance(image, Image.Image):
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return np.asarray(image.convert("RGB"))
    if not isinstance(image, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may not type-check
        raise UsageError(
            f"an image must be a PIL image or uint8 [H, W, 3]; got {type(image).__name__}; open files first"
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UsageError(f"an image must be a PIL image or uint8 [H, W, 3]; got {image.dtype} {list(image.shape)}")
    return image


def reduce(pixels: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Reduce pixels uint8 [H, W, 3] by a whole number along each axis, each new pixel the mean of those it replaces."""
    if scale == 1:
        return pixels
    height, width, _ = pixels.shape
    return np.asarray(Image.fromarray(pixels).resize((width // scale, height // scale), Image.Resampling.BOX))


def open_image(path: Path) -> Image.Image:
    """Read an image file completely. Raises UsageError when it is missing or cannot be read."""
    try:
        with Image.open(reachable(path)) as image:
            image.load()
            return image
    except UNREADABLE as error:
        raise UsageError(f"{path} cannot be read as an image: {error}") from None


def contact_sheet(images: NDArray[np.uint8], columns: int, gap: int = 4) -> Image.Image:
    """Lay out images (uint8 [N, H, W, 3]) on white, row by row, ``gap`` pixels apart."""
    count, height, width, _ = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        sheet.paste(Image.fromarray(image), (column * (width + gap), row * (height + gap)))
    return sheet


def save_png(image: Image.Image, path: Path, texts: Mapping[str, str] | None = None) -> None:
    """Write a PNG that holds ``texts`` by keyword. The file appears whole; else OutputError is raised."""
    info = PngImagePlugin.PngInfo()
    for keyword, text in (texts or {}).items():
        info.add_text(keyword, text)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    write_whole(path, buffer.getvalue())
