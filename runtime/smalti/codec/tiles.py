"""Decode and encode any canvas in bounded memory: tile by tile, each with a halo of what its values depend on.

Where they depend on the whole canvas, it cannot be cut. It then goes through in one piece, in memory that grows with
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from smalti.errors import UsageError
from smalti.families.checks import shown, whole

TILE, LEAST = 32, 16
"""Most and fewest tokens per side of a tile. Halos reach some 12 tokens, so smaller tiles would compute most pixels
several times."""
SIDE = 1024
"""Pixels per side of a tile where that leaves it enough tokens; they bound the memory."""

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; the last two lie outside, as in PIL's ``crop``."""
Decode = Callable[[NDArray[np.int32]], NDArray[np.uint8]]
Encode = Callable[[NDArray[np.uint8]], NDArray[np.int32]]


def tile_of(factor: int) -> int:
    """Tokens per side of a tile, with ``factor`` pixels per token along each axis."""
    return max(LEAST, min(TILE, SIDE // factor))


def spans(length: int, tile: int, halo: int) -> Iterator[tuple[slice, slice, int]]:
    """Cut ``length`` tokens into tiles; yield each tile, the tile with its halo (clipped), and its start in that."""
    for first in range(0, length, tile):
        last = min(first + tile, length)
        low, high = max(0, first - halo), min(length, last + halo)
        yield slice(first, last), slice(low, high), first - low


def decode_tiled(
    decode: Decode, tokens: NDArray[np.int32], factor: int, halo: int | None, tile: int | None = None
) -> NDArray[np.uint8]:
    """Decode tokens (int32 [N, h, w]) to pixels (uint8 [N, h*factor, w*factor, 3]), one tile at a time.

    ``halo`` is how many tokens away a pixel's value can come from. A tile with that many neighbours decodes to the same
    pixels as the whole canvas, because the decoder uses no statistics of the image; only rounding in the last float
    digit can differ. The decoder pads the canvas's own edge in both cases. With ``halo`` None, every pixel can depend
    on every token, so the canvas is decoded whole. ``tile`` is its side in tokens, by default :func:`tile_of`.
    """
    count, height, width = tokens.shape
    tile = tile or tile_of(factor)
    if halo is None:
        return decode(tokens)
    if height <= tile + halo and width <= tile + halo:
        return decode(tokens)
    pixels = np.empty((count, height * factor, width * factor, 3), np.uint8)
    for index in range(count):
        for rows, rows_halo, top in spans(height, tile, halo):
            for columns, columns_halo, left in spans(width, tile, halo):
                part = decode(np.ascontiguousarray(tokens[index : index + 1, rows_halo, columns_halo]))[0]
                tall, wide = (rows.stop - rows.start) * factor, (columns.stop - columns.start) * factor
                pixels[
                    index, rows.start * factor : rows.stop * factor, columns.start * factor : columns.stop * factor
                ] = part[top * factor : top * factor + tall, left * factor : left * factor + wide]
    return pixels


def encode_tiled(
    encode: Encode, pixels: NDArray[np.uint8], factor: int, halo: int | None, tile: int | None = None
) -> NDArray[np.int32]:
    """Encode pixels (uint8 [N, h*factor, w*factor, 3]) to tokens (int32 [N, h, w]), one tile at a time.

    ``halo`` is how many tokens away a pixel can be that a token depends on; None: anywhere, so that the image is
    encoded whole. A tile with that many neighbours gives the tokens of the whole image, but for rounding near ties.
    """
    count, height, width = pixels.shape[0], pixels.shape[1] // factor, pixels.shape[2] // factor
    tile = tile or tile_of(factor)
    if halo is None or (height <= tile + halo and width <= tile + halo):
        return encode(pixels)
    tokens = np.empty((count, height, width), np.int32)
    for index in range(count):
        for rows, rows_halo, top in spans(height, tile, halo):
            for columns, columns_halo, left in spans(width, tile, halo):
                across, down = (slice(part.start * factor, part.stop * factor) for part in (columns_halo, rows_halo))
                part = encode(np.ascontiguousarray(pixels[index : index + 1, down, across]))[0]
                tall, wide = rows.stop - rows.start, columns.stop - columns.start
                tokens[index, rows, columns] = part[top : top + tall, left : left + wide]
    return tokens


def check_box(box: Any, width: int, height: int) -> Box:
    """Return a box inside a picture of a size. Raises UsageError for anything else."""
    told = f"box {shown(box)}: left, top, right and bottom in pixels are needed, within {width}x{height}"
    if isinstance(box, np.ndarray):
        box = cast("NDArray[Any]", box).tolist()
    if not isinstance(box, tuple | list) or len(cast("list[Any]", box)) != 4:
        raise UsageError(told)
    left, top, right, bottom = (whole("box", side) for side in cast("list[Any]", box))
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise UsageError(told)
    return left, top, right, bottom


def seen_by_box(tokens: NDArray[np.int32], box: Box, factor: int, halo: int | None) -> tuple[NDArray[np.int32], Box]:
    """Return the tokens (int32 [N, h, w]) that the pixels in a box depend on, and where the box lies in their picture.

    ``factor`` and ``halo`` are those of :func:`decode_tiled`; with ``halo`` None these are all tokens.
    """
    left, top, right, bottom = box
    if halo is None:
        return tokens, box
    across, down = max(0, left // factor - halo), max(0, top // factor - halo)
    rows, columns = slice(down, -(-bottom // factor) + halo), slice(across, -(-right // factor) + halo)
    x, y = across * factor, down * factor
    return np.ascontiguousarray(tokens[:, rows, columns]), (left - x, top - y, right - x, bottom - y)
