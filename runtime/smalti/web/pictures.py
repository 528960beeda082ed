"""Pictures in requests and answers: base64 and files in, PNG, JPEG and WebP out."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence
from typing import Any, Final

from PIL import Image

from smalti.codec.opening import reading
from smalti.drawing.result import Result, Step
from smalti.errors import UsageError
from smalti.families.limits import Limits
from smalti.saving.formats import check_format, encoded

FORMATS: Final = ("PNG", "JPEG", "WEBP")
"""What is read. Pillow knows others: some start programs, and some take long to say how many pictures they hold."""
MEDIA: Final = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
"""What is written."""
PREVIEW_QUALITY: Final = 85
_SUBSAMPLED: Final = 2
"""4:2:0, which JPEG's readers are fastest with."""


def from_text(name: str, text: str) -> bytes:
    """Return the bytes of a file in base64, or of a data URL. Raises UsageError, which names the field."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UsageError(f"{name}: a file in base64 is needed, such as a PNG") from None


def opened(name: str, content: bytes, limits: Limits) -> Image.Image:
    """Open a picture whose pixels are read later; its size is checked first.

    Raises UsageError for what is no picture of a known kind, and for one that is too large, however small its file is.
    """
    with reading(name):
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    limits.check_sizes([image.size], name)
    return image


def from_field(name: str, text: str, limits: Limits) -> Image.Image:
    """Open a picture in base64. Raises UsageError."""
    return opened(name, from_text(name, text), limits)


def from_list(name: str, texts: Sequence[str], limits: Limits) -> list[Image.Image]:
    """Open pictures in base64, once their number is known to be allowed. Raises UsageError."""
    limits.check_count(len(texts), name)
    return [from_field(f"{name}[{index}]", text, limits) for index, text in enumerate(texts)]


def named_file(name: str, content: bytes) -> io.BytesIO:
    """Return bytes as an open file that messages call by the field's name."""
    file = io.BytesIO(content)
    file.name = name
    return file


def to_text(content: bytes) -> str:
    """Return bytes as base64."""
    return base64.b64encode(content).decode()


def file_of(result: Result, which: int | None, format: Any = "png", quality: int | None = None) -> bytes:
    """Return one picture of a result, or all as a sheet, as a file that holds its recipe."""
    result.save(file := io.BytesIO(), which=which, format=format, quality=quality)
    return file.getvalue()


def image_file(image: Image.Image, format: Any = "png", quality: int | None = None) -> bytes:
    """Return a picture as a file, without a recipe. Raises UsageError as Result.save does."""
    kind, quality = check_format(format, quality)
    return encoded(image, kind, quality)


def previews_of(step: Step, most: int = 1) -> list[bytes]:
    """Return rough pictures of an unfinished step as JPEG, of its first ``most`` images."""
    return [jpeg_of(image) for image in step.preview()[:most]]


def jpeg_of(image: Image.Image) -> bytes:
    """Return a picture as a JPEG that is small and soon made."""
    image.convert("RGB").save(file := io.BytesIO(), "JPEG", quality=PREVIEW_QUALITY, subsampling=_SUBSAMPLED)
    return file.getvalue()
