"""Decode any canvas in bounded memory: tile by tile, each with a halo of the tokens that its pixels depend on.

When pixels depend on the whole canvas, it cannot be cut. It is then decoded in one piece, in memory that grows with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

TILE = 32
"""Tokens per side of a tile; with 16 pixels per token, 512 pixels."""

Decode = Callable[[NDArray[np.int32]], NDArray[np.uint8]]


def spans(length: int, tile: int, halo: int) -> Iterator[tuple[slice, slice, int]]:
    """Cut ``length`` tokens into tiles; yield each tile, the tile with its halo (clipped), and its start in that."""
    for first in range(0, length, tile):
        last = min(first + tile, length)
        low, high = max(0, first - halo), min(length, last + halo)
        yield slice(first, last), slice(low, high), first - low


def decode_tiled(
    decode: Decode, tokens: NDArray[np.int32], factor: int, halo: int | None, tile: int = TILE
) -> NDArray[np.uint8]:
    """Decode tokens (int32 [N, h, w]) to pixels (uint8 [N, h*factor, w*factor, 3]), one tile at a time.

    ``halo`` is how many tokens away a pixel's value can come from. A tile with that many neighbours decodes to the same
    pixels as the whole canvas, because the decoder uses no statistics of the image; only rounding in the last float
    digit can differ. The decoder pads the canvas's own edge in both cases. With ``halo`` None, every pixel can depend
    on every token, so the canvas is decoded whole.
    """
    count, height, width = tokens.shape
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
