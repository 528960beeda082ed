"""Run a bundle's encoder and decoder on many images in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smalti.bundle.manifest import Latent, Resolution
from smalti.codec.fit import WAYS, Fit, fitted, reduce
from smalti.codec.pictures import Picture, all_pixels
from smalti.codec.tiles import Decode, Encode, decode_tiled, encode_tiled
from smalti.errors import UsageError

Int32 = NDArray[np.int32]
Pixels = NDArray[np.uint8]

AT_ONCE = 2**20
"""Most pixels per call of an encoder or decoder, which bounds its memory: 16 images of 256x256."""


def same_sized(images: Sequence[Picture], resolution: Resolution, fit: Fit | None = None) -> list[Pixels]:
    """Return the pixels (uint8 [H, W, 3]) of images of one size, once each is brought to one that fits.

    Raises UsageError when there are no images, their sizes differ, or sides are not multiples of the resolution's
    factor and ``fit`` is None.
    """
    factor = resolution.factor
    arrays = [fitted(array, factor, fit) for array in all_pixels(images)]
    if not arrays or any(array.shape != arrays[0].shape for array in arrays):
        raise UsageError("one or more images are needed, all of one size")
    height, width, _ = arrays[0].shape
    if height % factor or width % factor:
        near = [max(1, round(side / factor)) * factor for side in (width, height)]
        raise UsageError(
            f"image size {width}x{height}: sides must be multiples of {factor}; resize to {near[0]}x{near[1]}, "
            f"or say {WAYS}"
        )
    return arrays


def encode_images(
    encode: Encode, images: Sequence[Picture], resolution: Resolution, latent: Latent, fit: Fit | None = None
) -> Int32:
    """Encode images of one size at ``resolution`` to tokens int32 [N, h, w].

    ``encode`` takes pixels uint8 [n, H, W, 3], ``latent.factor`` per token, to which images are reduced. Raises
    UsageError as :func:`same_sized` does.
    """
    scale = resolution.factor // latent.factor
    arrays = [reduce(array, scale) for array in same_sized(images, resolution, fit)]
    each = at_once(arrays[0].shape[0] * arrays[0].shape[1], latent.halo)
    batches = (np.stack(arrays[start : start + each]) for start in range(0, len(arrays), each))
    return np.concatenate([encode_tiled(encode, batch, latent.factor, latent.encoder_halo) for batch in batches])


def decode_images(decode: Decode, tokens: Int32, factor: int, halo: int | None) -> list[Image.Image]:
    """Decode tokens int32 [N, h, w] to N images, ``factor`` pixels per token. ``decode`` takes tokens of any h and w.

    ``halo`` is that of :func:`smalti.codec.tiles.decode_tiled`.
    """
    each = at_once(tokens.shape[1] * tokens.shape[2] * factor**2, halo)
    batches = (tokens[first : first + each] for first in range(0, len(tokens), each))
    return [Image.fromarray(image) for batch in batches for image in decode_tiled(decode, batch, factor, halo)]


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


def at_once(pixels: int, halo: int | None) -> int:
    """Return how many images of so many pixels one call takes; one where the whole image is needed at once."""
    return 1 if halo is None else max(1, AT_ONCE // pixels)
