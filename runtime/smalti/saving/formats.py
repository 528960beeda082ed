"""Images as contact sheets and as the bytes of files, with texts inside."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from smalti.codec.opening import open_image
from smalti.errors import UsageError
from smalti.families.checks import shown, whole
from smalti.saving.chunks import exif_of
from smalti.system.files import write_whole
from smalti.system.platform import reachable

Format: TypeAlias = Literal["png", "jpeg", "webp"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
SUFFIXES: Final[Mapping[str, Format]] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
"""Formats by the end of a file's name."""
JPEG_QUALITY: Final = 95
LONGEST_SIDE: Final[Mapping[Format, int]] = {"png": 2**31 - 1, "jpeg": 65500, "webp": 16383}
"""Pixels that a side may have."""
TAIL: Final = 64
"""Bytes at the end of a file among which is how it ends. Some programs add a few of their own."""
END: Final[Mapping[str, bytes]] = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
"""How files end, by Pillow's names of formats. Without it, decoders fill up with grey or take zeros for pixels; a WebP
says how long it is."""
JPEG_EXIF: Final = 65533
"""Bytes of texts that a JPEG has room for."""


def check_format(format: Any, quality: Any = None) -> tuple[Format, int | None]:
    """Return a format and its quality, checked. Raises UsageError for another format, or a quality that it lacks.

    A format may be written in capitals, and as the ends of files are: ``JPG``, ``.png``.
    """
    if isinstance(format, str):
        plain = format.lower().removeprefix(".")
        format = SUFFIXES.get(f".{plain}", plain)
    if not isinstance(format, str) or format not in FORMATS:
        raise UsageError(f"format {shown(format)}: allowed are {', '.join(FORMATS)}")
    if quality is None:
        return format, None
    found = whole("quality", quality)
    if format == "png":
        raise UsageError(f"quality {found}: a PNG keeps every pixel and has no quality; leave it out, or take jpeg")
    if not 1 <= found <= 100:
        raise UsageError(f"quality {found}: allowed are 1 .. 100")
    return format, found


def encoded(
    image: Image.Image, format: Format, quality: int | None = None, texts: Mapping[str, str] | None = None
) -> bytes:
    """Return the bytes of an image's file, which holds ``texts`` by keyword.

    The keywords of a JPEG and a WebP are those of :data:`smalti.saving.chunks.TAGS`. A WebP without ``quality`` keeps
    every pixel, as a PNG does. Raises UsageError for an image or texts that the format has no room for.
    """
    if max(image.size) > (most := LONGEST_SIDE[format]):
        raise UsageError(
            f"format {format}: a side has at most {most} pixels, and this picture is {image.width}x{image.height}; "
            "take format png, or save fewer images at once"
        )
    buffer = io.BytesIO()
    if format == "png":
        info = PngImagePlugin.PngInfo()
        for keyword, text in (texts or {}).items():
            info.add_text(keyword, text)
        image.save(buffer, "PNG", pnginfo=info)
        return buffer.getvalue()
    exif = exif_of(texts) if texts else b""
    if format == "jpeg":
        if len(exif) > JPEG_EXIF:
            raise UsageError(
                f"format jpeg: it has room for {JPEG_EXIF} bytes of texts, and the recipe of these images takes "
                f"{len(exif)}; take format png or webp, or save fewer images at once"
            )
        # Drawn edges between colours are sharp, so colours are kept at full size.
        image.save(buffer, "JPEG", quality=JPEG_QUALITY if quality is None else quality, subsampling=0, exif=exif)
    elif quality is None:
        image.save(buffer, "WEBP", lossless=True, exact=True, exif=exif)
    else:
        image.save(buffer, "WEBP", quality=quality, exif=exif)
    return buffer.getvalue()


def is_whole(path: Path) -> bool:
    """Whether a picture's file can be decoded to its last pixel, and ends as its format does."""
    try:
        image = open_image(path)
        end = reachable(path).read_bytes()[-TAIL:]
    except (OSError, UsageError):
        return False
    return END.get(image.format or "", b"") in end


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
    write_whole(path, encoded(image, "png", texts=texts))
