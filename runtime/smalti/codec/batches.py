"""Run a bundle's encoder and decoder on many images in bounded memory."""

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
"""Most tokens per call of the decoder, which bounds its memory: 16 images of 256x256 with 16 pixels per token."""


def over_images(
    graph: Callable[[NDArray[np.uint8]], NDArray[Number]],
    images: Sequence[Image.Image | NDArray[np.uint8]],
    latent: Latent,
) -> NDArray[Number]:
    """Apply ``graph``, which takes pixels uint8 [n, H, W, 3], to images of one size; return one row per image.

    Raises UsageError when there are no images, their sizes differ, or sides are not multiples of the bundle's factor.
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
    """Decode tokens int32 [N, h, w] to N images. ``decode`` takes tokens of any h and w."""
    each = _at_once(latent, tokens.shape[1] * tokens.shape[2])
    batches = (tokens[first : first + each] for first in range(0, len(tokens), each))
    return [
        Image.fromarray(image) for batch in batches for image in decode_tiled(decode, batch, latent.factor, latent.halo)
    ]


def check_tokens(tokens: NDArray[np.integer[Any]], codes: int) -> Int32:
    """Convert tokens (integers [N, h, w] or [h, w]) to int32 [N, h, w].

    Raises UsageError unless all are 0 .. codes - 1.
    """
    grids = np.asarray(tokens)
    grids = grids[None] if grids.ndim == 2 else grids
    if grids.ndim != 3 or grids.dtype.kind not in "iu" or not grids.size:
        raise UsageError(f"tokens must be integers [N, h, w] with no side empty; got {grids.dtype} {list(grids.shape)}")
    if grids.min() < 0 or grids.max() >= codes:
        raise UsageError(f"tokens must be 0 .. {codes - 1}; got {grids.min()} .. {grids.max()}")
    return grids.astype(np.int32)


def _at_once(latent: Latent, tokens: int) -> int:
    """Return how many images of this many tokens one call takes; one when the decoder needs the whole canvas."""
    return 1 if latent.halo is None else max(1, DECODE_TOKENS // tokens)
