"""Texts inside files of pictures: in chunks of a PNG, in the EXIF of a JPEG and a WebP."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO, Final

from PIL import Image

KEY: Final = "smalti"
"""The keyword of a recipe."""
PARAMETERS: Final = "parameters"
"""The keyword of what other programs read."""
TAGS: Final[Mapping[str, int]] = {KEY: 0x9213, PARAMETERS: 0x9286}
"""Tags of EXIF that stand for the keywords: the image's history, and the user's comment."""
LARGEST_TEXT: Final = 2**24
"""Most bytes of a recipe that are read; one of ten thousand pictures has about a quarter of a million."""
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_EXIF_FOLDER: Final = 0x8769
_UNICODE: Final = b"UNICODE\0"
"""How a comment in Unicode begins. Other programs expect UTF-16 after it, the high byte first."""
_HISTORY: Final = "smalti: "
"""How a history begins that is a recipe."""
_ASCII, _LONG, _UNDEFINED = 2, 4, 7


def exif_of(texts: Mapping[str, str]) -> bytes:
    """Return an EXIF block that holds texts by the keywords of :data:`TAGS`; a recipe is JSON."""
    entries = {0x9000: (_UNDEFINED, b"0232")}  # the version of EXIF
    if KEY in texts:  # beyond ASCII there are only letters inside strings, which JSON can write in ASCII too
        plain = re.sub(r"[^\x00-\x7f]", lambda sign: json.dumps(sign[0])[1:-1], texts[KEY])
        entries[TAGS[KEY]] = _ASCII, f"{_HISTORY}{plain}\0".encode()
    if PARAMETERS in texts:
        entries[TAGS[PARAMETERS]] = _UNDEFINED, _UNICODE + texts[PARAMETERS].encode("utf-16-be", "replace")
    # The high byte first everywhere, since readers differ in whether comments follow the rest in this.
    header = b"MM\0*" + struct.pack(">I", 8)
    folder = 8 + 2 + 12 + 4
    first = struct.pack(">HHHII", 1, _EXIF_FOLDER, _LONG, 1, folder) + bytes(4)
    table, values = struct.pack(">H", len(entries)), b""
    place = folder + 2 + 12 * len(entries) + 4
    for tag, (kind, value) in entries.items():
        table += struct.pack(">HHI", tag, kind, len(value))
        if len(value) <= 4:
            table += value.ljust(4, b"\0")
            continue
        table += struct.pack(">I", place + len(values))
        values += value + bytes(len(value) % 2)
    return b"Exif\0\0" + header + first + table + bytes(4) + values


def text_in_exif(image: Image.Image) -> str | None:
    """Return the recipe in an open image's EXIF; None if there is none.

    Raises ValueError for a text that is damaged or too long.
    """
    try:
        found: Any = image.getexif().get_ifd(_EXIF_FOLDER).get(TAGS[KEY])
    except Exception:  # of Pillow's; a picture outlives damaged remarks on it
        return None
    if not isinstance(found, str) or not found.startswith(_HISTORY):  # that of another program
        return None
    if len(found) > LARGEST_TEXT:
        raise ValueError(f"its recipe has {len(found)} bytes, and at most {LARGEST_TEXT} are read")
    return found.removeprefix(_HISTORY)


def text_in_png(file: BinaryIO) -> str | None:
    """Return the last text of :data:`KEY`, wherever in a PNG it stands and of whatever kind; None if there is none.

    Pillow gives what stands before the pixels; the rest only after all pixels are read, and only of the first frame.
    Raises OSError, and ValueError for a text that is damaged or too long.
    """
    key, found = KEY.encode("latin-1") + b"\0", None
    file.seek(0)
    if file.read(len(_SIGNATURE)) != _SIGNATURE:
        return None
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        length, kind = struct.unpack(">I4s", head)
        start = file.tell()
        if kind in (b"tEXt", b"zTXt", b"iTXt") and file.read(min(len(key), length)) == key:
            if length > LARGEST_TEXT:
                raise ValueError(f"its recipe has {length} bytes, and at most {LARGEST_TEXT} are read")
            value = file.read(length - len(key))
            if zlib.crc32(kind + key + value).to_bytes(4, "big") != file.read(4):
                raise ValueError("its recipe is damaged")
            found = _unpacked_text(kind, value)
        file.seek(start + length + 4)
    return found


def _unpacked_text(kind: bytes, value: bytes) -> str:
    """Return the text of a chunk without its keyword. Raises ValueError when it is damaged or too long."""
    if kind == b"tEXt":
        return value.decode("latin-1")
    packed = kind == b"zTXt" or value[:1] == b"\1"
    # After zTXt's method; after iTXt's flag and method, a language and a translated keyword.
    content = value[1:] if kind == b"zTXt" else value[2:].split(b"\0", 2)[-1]
    if packed:
        unpacker = zlib.decompressobj()
        try:
            content = unpacker.decompress(content, LARGEST_TEXT)
        except zlib.error:
            raise ValueError("its recipe is damaged") from None
        if not unpacker.eof:
            raise ValueError(f"its recipe is cut off, or has more than {LARGEST_TEXT} bytes")
    return content.decode("latin-1" if kind == b"zTXt" else "utf-8")
