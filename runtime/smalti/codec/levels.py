"""What the numbers of pictures and masks mean: levels 0 .. 255 of whatever type, or a refusal.

=============================  =========================================================================
type                           levels from black to white
=============================  =========================================================================
bool                           False, True
uint8                          0 .. 255
uint16, PIL's I;16             0 .. 65535
other integers, PIL's I        0 .. 255 where no value is above 255, as Pillow has them; else 0 .. 65535
floats                         0 .. 1
PIL's F                        0 .. 1 where no value is above 1; else 0 .. 255, as Pillow has them
=============================  =========================================================================

All else is refused; nothing is clipped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalti.errors import UsageError

Levels = NDArray[np.uint8]

SLACK = 1 / 512
"""How far floats may leave their range, half a level: arithmetic and resizing overshoot."""


def to_levels(values: NDArray[Any], what: str, pillow: bool = False) -> Levels:
    """Return values of any shape as levels uint8 of the same shape.

    ``what`` names them in messages; ``pillow`` says that they are a PIL image's. Raises UsageError for values outside
    the range of their type, and for types that have none.
    """
    kind = values.dtype.kind
    if kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    if kind in "iu":
        return _of_integers(values, what)
    if kind == "f":
        return _of_floats(values, what, pillow)
    raise UsageError(f"{what}: values of type {values.dtype} mean no brightness; give uint8 0 .. 255, or floats 0 .. 1")


def to_switches(values: NDArray[Any], what: str, pillow: bool = False) -> Levels:
    """Return a mask's values as levels, as :func:`to_levels` does; integers 0 and 1 are off and on.

    Integers of more than 8 bits that are neither 0 and 1 nor 0 and 255, and none above 255, may be anything. They
    raise UsageError, but for those of PIL's I, which are as Pillow has them.
    """
    if values.dtype.kind not in "iu" or not values.size:
        return to_levels(values, what, pillow)
    least, most = int(values.min()), int(values.max())
    if least >= 0 and most <= 1:
        return np.where(values, 255, 0).astype(np.uint8)
    if values.dtype == np.uint8 or (pillow and values.dtype == np.int32) or least < 0 or most > 255:
        return to_levels(values, what, pillow)
    if not np.isin(values, (0, 255)).all():
        raise UsageError(
            f"{what}: {values.dtype} values {least} .. {most} may be shades, classes or counts; "
            "compare them first, such as mask > 127, or give 0 and 1"
        )
    return values.astype(np.uint8)


def _of_integers(values: NDArray[Any], what: str) -> Levels:
    least, most = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if least < 0 or most > 65535:
        raise UsageError(
            f"{what}: {values.dtype} values {least} .. {most}; integers are 0 .. 255 or 0 .. 65535, so scale them first"
        )
    if most <= 255 and values.dtype.newbyteorder("=") != np.uint16:
        return values.astype(np.uint8)
    return (values.astype(np.uint16) >> 8).astype(np.uint8)  # as Pillow reads the 16 bits of colours


def _of_floats(values: NDArray[Any], what: str, pillow: bool) -> Levels:
    if not np.isfinite(values).all():
        raise UsageError(f"{what}: some values are no finite numbers (NaN or infinite); replace them first")
    least, most = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    white = 255.0 if pillow and most > 1 + SLACK else 1.0
    if least < -SLACK * white or most > white * (1 + SLACK):
        if most <= 1 + SLACK and least >= -1 - SLACK:
            advice = "(x + 1) / 2 brings -1 .. 1 there"
        elif least >= 0 and most <= 255:
            advice = "divide by 255, or round to uint8"
        else:
            advice = "scale them first"
        raise UsageError(f"{what}: {values.dtype} values {least:.6g} .. {most:.6g}; floats are 0 .. 1: {advice}")
    return np.clip(np.rint(values.astype(np.float64) * (255 / white)), 0, 255).astype(np.uint8)
