"""Open image files completely, and say how many pictures they hold."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from PIL import Image

from smalti.errors import UsageError
from smalti.platform import reachable

UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""Errors of Pillow for files that are damaged, of an unknown kind, or too large by their own account."""

FRAMED = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")
"""Formats whose frames are pictures in their own right; those of others are thumbnails, depths and layers."""


def open_image(path: Path) -> Image.Image:
    """Read an image file completely. Raises UsageError when it is missing or cannot be read."""
    try:
        with Image.open(reachable(path)) as image:
            frames(image)  # remembered by the image; a closed file cannot be asked any more
            image.load()
            return image
    except UNREADABLE as error:
        raise UsageError(f"{path} cannot be read as an image: {error}") from None


def frames(image: Image.Image) -> int:
    """Return how many pictures the file of an image has, as frames or pages; 1 for anything else."""
    try:
        return int(getattr(image, "n_frames", 1)) if image.format in FRAMED else 1
    except (*UNREADABLE, AttributeError):  # the file is closed, or damaged behind its first frame
        return 1
