"""Embed images of any sizes: each is seen at the size that the encoder was trained on, with half of its detail.

Small copies of a picture lack its details, and an encoder sees blur as a feature of its own. So details that a copy of
half the size would not have are taken from all pictures first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smalti.bundle.manifest import Latent
from smalti.codec.batches import at_once
from smalti.codec.pictures import Picture, all_pixels
from smalti.errors import UsageError

Pixels = NDArray[np.uint8]
Float32 = NDArray[np.float32]


def embed_images(embed: Callable[[Pixels], Float32], images: Sequence[Picture], latent: Latent) -> Float32:
    """Embed images of any sizes: float32 [N, D]. ``embed`` takes pixels uint8 [n, H, W, 3] of one size.

    Raises UsageError when there are no images, or one cannot be read.
    """
    arrays = [_seen(array, latent) for array in all_pixels(images)]
    if not arrays:
        raise UsageError("one or more images are needed")
    shapes: dict[tuple[int, ...], list[int]] = {}
    for index, array in enumerate(arrays):
        shapes.setdefault(array.shape, []).append(index)
    rows: dict[int, Float32] = {}
    for shape, own in shapes.items():
        each = at_once(shape[0] * shape[1], latent.halo)
        for first in range(0, len(own), each):
            part = own[first : first + each]
            rows |= zip(part, embed(np.stack([arrays[index] for index in part])))
    return np.stack([rows[index] for index in range(len(arrays))])


def _seen(pixels: Pixels, latent: Latent) -> Pixels:
    """An image at about the area of the bundle's own pictures, in its own proportions; sides fit the factor."""
    height, width, _ = pixels.shape
    rows, columns = latent.grid
    scale = (rows * columns / (height * width)) ** 0.5  # tokens per pixel
    most = 4 * max(latent.grid)
    tall, wide = (min(most, max(1, round(side * scale))) * latent.factor for side in (height, width))
    image = Image.fromarray(pixels)
    for size in ((min(width, wide // 2), min(height, tall // 2)), (wide, tall)):
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=None)
    return np.asarray(image)
