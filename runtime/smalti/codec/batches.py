"""Images to tokens and back, in bounded memory: what stands around a bundle's encoder and decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smalti.bundle.manifest import Latent
from smalti.codec.tiles import Decode, decode_tiled
from smalti.errors import UsageError
from smalti.images import to_array

Int32 = NDArray[np.int32]
Encode = Callable[[NDArray[np.uint8]], Int32]
Number = TypeVar("Number", np.int32, np.float32)

DECODE_TOKENS = 4096
"""Tokens decoded in one call of the decoder, which bounds its memory; sixteen images of 256x256 at f=16."""


def over_images(
    graph: Callable[[NDArray[np.uint8]], NDArray[Number]],
    images: Sequence[Image.Image | NDArray[np.uint8]],
    latent: Latent,
) -> NDArray[Number]:
    """What a ``graph`` of pixels uint8 [n, H, W, 3] gives for images of one size, a row for each.

    Raises UsageError for sizes that do not fit.
    """
    if isinstance(images, Image.Image):
        raise UsageError("a list of images is needed; put the one in brackets")
    arrays = [to_array(image) for image in images]
    if not arrays or any(array.shape != arrays[0].shape for array in arrays):
        raise UsageError("one or more images are needed, all of one size")
    factor, (height, width, _) = latent.factor, arrays[0].shape
    if height % factor or width % factor or not height or not width:
        near = [max(1, round(side / factor)) * factor for side in (width, height)]
        raise UsageError(
            f"image size {width}x{height}: sides must be multiples of {factor}; resize to {near[0]}x{near[1]}"
        )
    each = _at_once(latent, height * width // factor**2)
    parts = [graph(np.stack(arrays[first : first + each])) for first in range(0, len(arrays), each)]
    return np.concatenate(parts)


def decode_images(decode: Decode, tokens: Int32, latent: Latent) -> list[Image.Image]:
    """Images of tokens int32 [N, h, w], by a ``decode`` that takes any h and w."""
    each = _at_once(latent, tokens.shape[1] * tokens.shape[2])
    batches = (tokens[first : first + each] for first in range(0, len(tokens), each))
    return [
        Image.fromarray(image) for batch in batches for image in decode_tiled(decode, batch, latent.factor, latent.halo)
    ]


def check_tokens(tokens: NDArray[np.integer[Any]], codes: int) -> Int32:
    """Tokens (integers [N, h, w] or [h, w]) as int32 [N, h, w]; UsageError unless all are 0 .. codes - 1."""
    grids = np.asarray(tokens)
    grids = grids[None] if grids.ndim == 2 else grids
    if grids.ndim != 3 or grids.dtype.kind not in "iu" or not grids.size:
        raise UsageError(f"tokens must be integers [N, h, w] with no side empty; got {grids.dtype} {list(grids.shape)}")
    if grids.min() < 0 or grids.max() >= codes:
        raise UsageError(f"tokens must be 0 .. {codes - 1}; got {grids.min()} .. {grids.max()}")
    return grids.astype(np.int32)


def _at_once(latent: Latent, tokens: int) -> int:
    """Images of so many tokens for one call: one at a time where canvases are taken whole, as by large decoders."""
    return 1 if latent.halo is None else max(1, DECODE_TOKENS // tokens)
