"""Open image files completely, and say how many pictures they hold."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Generator
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from smalti.errors import UsageError
from smalti.system.platform import reachable

UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""Errors of Pillow for files that are damaged, of an unknown kind, or too large by their own account."""

FRAMED = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")
"""Formats whose frames are pictures in their own right; those of others are thumbnails, depths and layers."""


@contextlib.contextmanager
def reading(what: str) -> Generator[None]:
    """Make a UsageError, which names ``what``, of all that Pillow raises while it opens, loads or converts a picture.

    Its readers of single formats raise whatever they run into, such as AssertionError. Only Pillow's own calls belong
    inside, and a lack of memory stays what it is.
    """
    try:
        yield
    except (UsageError, MemoryError):
        raise
    except Exception as error:
        raise UsageError(f"{what} cannot be read as an image: {_reason(error)}") from None


def open_image(path: Path) -> Image.Image:
    """Read an image file completely. Raises UsageError when it is missing or cannot be read."""
    try:
        with reachable(path).open("rb") as file, reading(str(path)), Image.open(file) as image:
            frames(image)  # remembered by the image; a closed file cannot be asked any more
            image.load()
            return image
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; name an image file") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read as an image: {error.strerror or error}") from None


def loaded(image: Image.Image, what: str) -> None:
    """Load the pixels of an open image. Raises UsageError, which names ``what``, where they cannot be read."""
    lazy = getattr(image, "tile", None)
    closed = lazy and getattr(getattr(image, "fp", None), "closed", True)
    try:
        with reading(what):
            image.load()
    except UsageError as error:
        if not closed:
            raise
        raise UsageError(
            f"{what}: its file was closed before its pixels were read; call load() inside the with, or hand it in there"
        ) from error


def frames(image: Image.Image) -> int:
    """Return how many pictures the file of an image has, as frames or pages; 1 for anything else."""
    if image.format not in FRAMED:
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # the file is closed, or damaged behind its first frame
        return 1


def _reason(error: Exception) -> str:
    """Say why in a few words. Some errors of Pillow have none, and one shows its file as Python does."""
    if isinstance(error, UnidentifiedImageError):
        return "it is in no format that is known, or its begin is damaged"
    told = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
    return told or f"it is damaged ({type(error).__name__})"
