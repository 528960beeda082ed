"""Checks of the values that a caller gives. Errors name the value and say what is allowed."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any, SupportsIndex

from smalti.bundle.manifest import Latent
from smalti.errors import UsageError


def number(name: str, value: Any, least: float, most: float) -> float:
    """Return ``value`` as a float. Raises UsageError unless it is a number, ``least`` .. ``most``."""
    found = float(value) if isinstance(value, numbers.Real) else math.nan
    if not least <= found <= most:
        raise UsageError(f"{name} {value}: allowed are {least:g} .. {most:g}")
    return found


def whole(name: str, value: SupportsIndex) -> int:
    """Return ``value`` as an int. Raises UsageError unless it is a whole number."""
    try:
        return operator.index(value)
    except TypeError:
        raise UsageError(f"{name} {value!r}: a whole number is needed") from None


def share_pair(name: str, value: Any) -> tuple[float, float]:
    """Return two shares from two numbers, or from one number for both. Raises UsageError unless 0 < share <= 1."""
    try:
        first, last = (value, value) if isinstance(value, numbers.Real) else value
        pair = float(first), float(last)
    except (TypeError, ValueError):
        pair = math.nan, math.nan
    if isinstance(value, str) or not all(0 < end <= 1 for end in pair):
        raise UsageError(f"{name} {value!r}: a number above 0 and at most 1 is needed, or two: first step's and last's")
    return pair


def window_stride(asked: SupportsIndex | None, canvas: tuple[int, int], latent: Latent) -> int | None:
    """Return the number of tokens from one window to the next; None when the canvas is one window.

    ``canvas`` is its rows and columns of tokens. Raises UsageError for a stride outside 1 .. the shorter side of the
    grid.
    """
    side = min(latent.grid)
    stride = whole("stride", max(1, side // 2) if asked is None else asked)
    if not 1 <= stride <= side:
        raise UsageError(f"stride {stride}: allowed are 1 .. {side} tokens; more would leave gaps between windows")
    return None if canvas == latent.grid else stride
