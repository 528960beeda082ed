"""Pictures, masks and colour profiles of many kinds, as people hand them in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

COLOURS = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)).resize((64, 48), 3)
)
PICTURE = Image.fromarray(COLOURS)
GREY = PICTURE.convert("L")
LEVELS = np.asarray(GREY)
THREE = np.repeat(LEVELS[..., None], 3, axis=2)
WIDE = LEVELS.astype(np.uint16) * 257
SHARES = LEVELS / 255
HALF = np.arange(64)[None] >= np.where(np.arange(48) < 24, 16, 40)[:, None]  # bool [48, 64], not symmetric


def deep(mode: str, values: np.ndarray = WIDE) -> Image.Image:
    """A PIL image of 16 bits."""
    order = ">u2" if mode.endswith("B") else "<u2"
    return Image.frombytes(mode, values.shape[::-1], values.astype(order).tobytes())


def profile(green: tuple[float, float] = (0.21, 0.71), gamma: float = 563 / 256) -> bytes:
    """An ICC profile as by hand: that of Adobe RGB, or one that differs in green's x and y, or in gamma."""
    white = np.array([0.9642, 1, 0.8249])
    primaries = np.array([[0.64, 0.33], green, [0.15, 0.06]])
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    lines = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    d65 = np.array([0.95047, 1, 1.08883])
    matrix = lines * np.linalg.solve(lines, d65)
    scale = np.diag((bradford @ white) / (bradford @ d65))
    matrix = np.linalg.inv(bradford) @ scale @ bradford @ matrix

    def fixed(values: np.ndarray) -> bytes:
        return b"XYZ \0\0\0\0" + np.round(values * 65536).astype(">i4").tobytes()

    curve = b"curv\0\0\0\0\0\0\0\1" + round(gamma * 256).to_bytes(2, "big") + b"\0\0"
    text = b"desc\0\0\0\0\0\0\0\5hand\0" + b"\0" * 78
    parts = {b"desc": text + b"\0" * (-len(text) % 4), b"wtpt": fixed(white), b"cprt": b"text\0\0\0\0none"}
    parts |= {name + b"XYZ": fixed(matrix[:, index]) for index, name in enumerate((b"r", b"g", b"b"))}
    parts |= {name + b"TRC": curve for name in (b"r", b"g", b"b")}
    place, table, body = 128 + 4 + 12 * len(parts), len(parts).to_bytes(4, "big"), b""
    for name, part in parts.items():
        table += name + (place + len(body)).to_bytes(4, "big") + len(part).to_bytes(4, "big")
        body += part
    head = (
        (place + len(body)).to_bytes(4, "big") + b"\0\0\0\0\2\x10\0\0mntrRGB XYZ " + b"\0" * 12 + b"acsp" + b"\0" * 28
    )
    return (head + fixed(white)[8:]).ljust(128, b"\0") + table + body


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def with_profile(image: Image.Image, found: bytes) -> Image.Image:
    image = image.copy()
    image.info["icc_profile"] = found
    return image


def save_oriented(image: Image.Image, orientation: int, path: Path, form: str = "PNG") -> None:
    """Write an image with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, form, exif=exif)
