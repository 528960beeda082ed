"""Plans of draws that begin from an image: a part of it is drawn anew, or it is varied as a whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smalti.bundle.manifest import Latent, Resolution
from smalti.codec.fit import Fit, reduce
from smalti.codec.masks import matched, paste, patches
from smalti.drawing.draw import Images, Plan
from smalti.errors import UsageError
from smalti.families.base import Settings
from smalti.families.checks import share, whole
from smalti.saving.recipe import Origin, digest
from smalti_kernels import STREAM_SUBSET, random_words

Int32 = NDArray[np.int32]
Pixels = NDArray[np.uint8]
Repaint = NDArray[np.bool_]
VARIED = 2**32 - 1
"""The step whose noise chooses what is varied; no run has so many steps."""


def of_inpaint(pixels: Pixels, repaint: Repaint, feather: int, fit: Fit | None) -> Origin:
    """Return what an inpainting begins from, for its recipe: an image and its mask as they were read."""
    return Origin(call="inpaint", image=digest(pixels), mask=digest(repaint), feather=_feather(feather), fit=fit)


def of_outpaint(pixels: Pixels, margins: Sequence[int], feather: int, fit: Fit | None) -> Origin:
    """Return what an outpainting begins from: an image as it was read, and the pixels that are added on its sides."""
    left, top, right, bottom = (whole("margins", side) for side in margins)
    added = (left, top, right, bottom)
    return Origin(call="outpaint", image=digest(pixels), margins=added, feather=_feather(feather), fit=fit)


def _feather(feather: int) -> int:
    if (found := whole("feather", feather)) < 0:
        raise UsageError(f"feather {found}: 0 or more pixels")
    return found


def inpainted(
    tokens: Int32,
    pixels: Pixels,
    repaint: Repaint,
    settings: Settings,
    resolution: Resolution,
    latent: Latent,
    origin: Origin,
) -> Plan:
    """Plan to draw anew the tokens of an image that ``repaint`` touches; its recipe says that it has this ``origin``.

    ``tokens`` int32 [1, h, w] are the image's, seen without what is repainted. Its ``pixels`` uint8
    [H, W, 3] are put around what is drawn; a picture at another size, such as a preview, gets them reduced.
    """
    start = tokens.copy()
    start[0][patches(repaint, resolution.factor)] = latent.codes

    def finish(images: Images) -> Images:
        return [_around(drawn, pixels, repaint, origin.feather, match=not latent.pixels) for drawn in images]

    return Plan(np.repeat(start, len(settings.seeds), axis=0), settings, finish, origin)


def varied(tokens: Int32, settings: Settings, latent: Latent, origin: Origin) -> Plan:
    """Plan to draw anew a share, the ``strength`` of ``origin``, of an image's tokens int32 [1, h, w].

    Each seed draws others, and at least one: those at the positions of the smallest words of its own noise.
    """
    strength = share("strength", origin.strength)
    height, width = tokens.shape[1:]
    count = max(1, round(strength * height * width))
    row, column = np.divmod(np.arange(height * width, dtype=np.int64), width)
    start = np.repeat(tokens, len(settings.seeds), axis=0)
    for index, seed in enumerate(settings.seeds):
        words = random_words(seed, stream=STREAM_SUBSET, step=VARIED, y=row, x=column)[:, 0]
        start[index].reshape(-1)[np.argsort(words, kind="stable")[:count]] = latent.codes
    return Plan(start, settings, origin=origin)


def _around(drawn: Image.Image, pixels: Pixels, repaint: Repaint, feather: int, *, match: bool) -> Image.Image:
    height, width = repaint.shape
    if drawn.size != (width, height):
        scale = width // drawn.width
        pixels, repaint, feather = reduce(pixels, scale), patches(repaint, scale), feather // scale
    if match:  # a decoder misses the colours of an image; grey levels are what they are
        drawn = matched(drawn, pixels, repaint)
    return paste(drawn, pixels, repaint, feather)
