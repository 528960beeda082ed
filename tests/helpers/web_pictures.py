"""Pictures as they travel: base64, files in memory, and pixels to compare."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def text_of(picture: Image.Image) -> str:
    return base64.b64encode(file_of(picture)).decode()


def file_of(picture: Image.Image, kind: str = "PNG") -> bytes:
    picture.save(buffer := io.BytesIO(), kind)
    return buffer.getvalue()


def opened(content: str | bytes) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(content) if isinstance(content, str) else content))


def pixels(content: str | bytes | Image.Image) -> NDArray[np.uint8]:
    picture = content if isinstance(content, Image.Image) else opened(content)
    return np.asarray(picture.convert("RGB"))


def same(one: str | bytes | Image.Image, other: str | bytes | Image.Image) -> bool:
    return np.array_equal(pixels(one), pixels(other))


def half_mask(size: tuple[int, int], *, transparent: bool = False) -> Image.Image:
    """A mask whose left half is repainted: white, or transparent as OpenAI has it."""
    values = np.zeros((size[1], size[0]), np.uint8)
    values[:, : size[0] // 2] = 255
    if not transparent:
        return Image.fromarray(values)
    return Image.fromarray(np.dstack([np.zeros_like(values)] * 3 + [255 - values]))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kB that says it has so many pixels; its first rows are there."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(2**22), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
