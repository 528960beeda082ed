"""Decode grids that lie on a device: tokens stay there, and only pixels come to the host."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smalti.backends.device.arena import Arena, Device
from smalti.backends.device.loop import DeviceRun
from smalti.backends.device.tensors import DeviceSession, Tensor
from smalti.bundle.manifest import Resolution
from smalti.codec.batches import at_once
from smalti.codec.tiles import spans, tile_of
from smalti_kernels.impl.cuda import steps as small

Int32 = NDArray[np.int32]
Pixels = NDArray[np.uint8]


class Tile(NamedTuple):
    """A part of some canvases that is decoded in one call, and what of it is kept."""

    images: slice
    rows: slice
    columns: slice
    """Tokens of the canvas that are kept."""
    rows_seen: slice
    columns_seen: slice
    """Tokens that are decoded: those, and a halo around them."""


def tiles(count: int, height: int, width: int, factor: int, halo: int | None) -> Iterator[Tile]:
    """Cut ``count`` canvases as :func:`smalti.codec.batches.decode_images` does."""
    tile = tile_of(factor)
    if halo is None or (height <= tile + halo and width <= tile + halo):
        each = at_once(height * width * factor**2, halo)
        whole = slice(0, height), slice(0, width)
        for first in range(0, count, each):
            yield Tile(slice(first, min(first + each, count)), *whole, *whole)
        return
    for index in range(count):
        for rows, rows_seen, _ in spans(height, tile, halo):
            for columns, columns_seen, _ in spans(width, tile, halo):
                yield Tile(slice(index, index + 1), rows, columns, rows_seen, columns_seen)


def _shape(tile: Tile) -> tuple[int, ...]:
    parts = tile.images, tile.rows_seen, tile.columns_seen
    return tuple(part.stop - part.start for part in parts)


def run_decoded(run: DeviceRun, decoder: DeviceSession, resolution: Resolution) -> list[Image.Image]:
    """Decode what a run drew, which has been waited for."""
    return decode_on_device(run.device, decoder, run.tokens, run.cells, resolution.factor, resolution.halo)


def decode_on_device(
    device: Device, decoder: DeviceSession, grids: Tensor, cells: Int32, factor: int, halo: int | None
) -> list[Image.Image]:
    """Decode tokens on a device to images of ``factor`` pixels per token.

    ``cells`` int32 [N, h, w] say where in ``grids`` the tokens lie. ``halo`` is that of
    :func:`smalti.codec.tiles.decode_tiled`.
    """
    count, height, width = cells.shape
    # By shape, since each has its own session, and few are kept.
    jobs = sorted(tiles(count, height, width, factor, halo), key=_shape)
    seen = [np.ascontiguousarray(cells[job.images, job.rows_seen, job.columns_seen]) for job in jobs]
    largest = max(part.size for part in seen)
    table = np.concatenate([np.arange(largest, dtype=np.int32), *(part.reshape(-1) for part in seen)])
    pixels = np.empty((count, height * factor, width * factor, 3), np.uint8)
    room = largest * factor**2 * 3
    shapes: dict[str, tuple[tuple[int, ...], str]] = {
        "table": (table.shape, "int32"),
        "tokens": ((largest,), "int32"),
        "pixels": ((room,), "uint8"),
    }
    with device.pinned(room) as landing, Arena(device, shapes) as arena:
        try:
            device.upload(arena["table"], table)
            first = arena["table"].address + 4 * largest
            for job, part in zip(jobs, seen):
                decoded = _decoded(device, decoder, grids, arena, first, part.shape, factor, landing)
                top, left = (job.rows.start - job.rows_seen.start), (job.columns.start - job.columns_seen.start)
                tall, wide = (job.rows.stop - job.rows.start), (job.columns.stop - job.columns.start)
                pixels[
                    job.images,
                    job.rows.start * factor : job.rows.stop * factor,
                    job.columns.start * factor : job.columns.stop * factor,
                ] = decoded[:, top * factor : (top + tall) * factor, left * factor : (left + wide) * factor]
                first += 4 * part.size
        finally:
            device.settle()
    return [Image.fromarray(image) for image in pixels]


def _decoded(
    device: Device,
    decoder: DeviceSession,
    grids: Tensor,
    arena: Arena,
    cells: int,
    shape: tuple[int, ...],
    factor: int,
    landing: int,
) -> Pixels:
    """Decode one tile of ``shape`` [n, h, w] whose cells lie at an address; return pixels in pinned memory."""
    count, height, width = shape
    tokens = arena["tokens"]._replace(shape=shape)
    small.move(
        device.kernels,
        source=grids.address,
        target=tokens.address,
        take=cells,
        put=arena["table"].address,
        count=count * height * width,
        stream=device.stream,
    )
    images = arena["pixels"]._replace(shape=(count, height * factor, width * factor, 3))
    decoder.queue({"tokens": tokens}, {"images": images})
    device.download_to(landing, images)
    device.wait()
    memory = (ctypes.c_uint8 * images.nbytes).from_address(landing)
    return np.ctypeslib.as_array(memory).reshape(images.shape)
