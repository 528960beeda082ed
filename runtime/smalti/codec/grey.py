"""Pixels as tokens (McKinney and Willcocks 2022, section 4.2): each grey level is a code, so no graph is needed.

With K codes, token t is the grey value round(255 t / (K - 1)); with K = 256 it is the value itself.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Pixels = NDArray[np.uint8]

LUMINANCE = (19595, 38470, 7471)
"""Weights of red, green and blue in units of 2^-16 (ITU-R BT.601, as in Pillow); their sum is 2^16."""


def to_pixels(tokens: Int32, codes: int) -> Pixels:
    """Return the grey pixels (uint8 [N, h, w, 3], three equal values) of tokens int32 [N, h, w], 0 .. codes - 1."""
    return np.repeat(_levels(codes)[tokens][..., None], 3, axis=3)


def to_tokens(pixels: Pixels, codes: int) -> Int32:
    """Return tokens (int32 [N, H, W], 0 .. codes - 1) of pixels uint8 [N, H, W, 3]: the level nearest to the luminance.

    Of two equally near levels, the darker one is taken. Pixels from :func:`to_pixels` give their tokens back.
    """
    red, green, blue = (pixels[..., channel].astype(np.uint32) * weight for channel, weight in enumerate(LUMINANCE))
    return _nearest(codes)[(red + green + blue + (1 << 15)) >> 16]


@cache
def _levels(codes: int) -> Pixels:
    """Return the grey value of each token: uint8 [K], rounded half up."""
    token = np.arange(codes)
    return ((2 * 255 * token + codes - 1) // (2 * (codes - 1))).astype(np.uint8)


@cache
def _nearest(codes: int) -> Int32:
    """Return the token whose grey value is nearest to each value: int32 [256]."""
    distance = np.abs(np.arange(256)[:, None] - _levels(codes).astype(np.int64))
    return distance.argmin(axis=1).astype(np.int32)
