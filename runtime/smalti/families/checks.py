"""Checks of the values that a caller gives. Errors name the value and say what is allowed."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any, Final, SupportsIndex, cast

import numpy as np

from smalti.bundle.manifest import Latent
from smalti.errors import UsageError, beyond

LONGEST: Final = 80
"""Characters of a value that an error shows."""


def number(name: str, value: Any, least: float, most: float, others: str = "") -> float:
    """Return ``value`` as a float. Raises UsageError unless it is a number, ``least`` .. ``most``; True is none.

    ``others`` says what else is allowed.
    """
    try:
        found = float(value) if _real(value) else math.nan
    except OverflowError:  # a whole number that no float can hold
        found = math.inf
    if not least <= found <= most:
        raise UsageError(f"{name} {shown(value)}: allowed are {least:g} .. {most:g}" + (f" {others}" if others else ""))
    return found


def share(name: str, value: Any) -> float:
    """Return ``value`` as a float. Raises UsageError unless it is a number above 0, at most 1."""
    try:
        found = float(value) if _real(value) else math.nan
    except OverflowError:
        found = math.inf
    if not 0 < found <= 1:
        raise UsageError(f"{name} {shown(value)}: a number above 0, at most 1, is needed")
    return found


def whole(name: str, value: Any) -> int:
    """Return ``value`` as an int. Raises UsageError unless it is a whole number; True is none."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise UsageError(f"{name} {shown(value)}: a whole number is needed") from None


def _real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(cast(object, value), bool)


def shown(value: Any) -> str:
    """Return a value as an error shows it: on one line, and not longer than one."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # of a class that is not ours
        text = f"of type {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def listed(name: str, value: Any, what: str, most: int) -> list[Any]:
    """Return the items of a list, tuple, range or array. ``what`` says in words what the items are.

    Raises UsageError for anything else, among it what can be read only once, and for more than ``most`` items before
    they are listed.
    """
    flat = isinstance(value, np.ndarray) and cast("np.ndarray[Any, Any]", value).ndim == 1
    if isinstance(value, str | bytes | bytearray | memoryview) or not (flat or isinstance(value, Sequence)):
        raise UsageError(f"{name} {shown(value)}: a list of {what} is needed")
    items = cast(Sequence[Any], value)
    try:
        count = len(items)
    except OverflowError:  # a range beyond what Python can count
        count = most + 1
    if count > most:
        raise beyond("count", f"{name}: at most {most} {what} in one call; make several calls")
    return list(items)


def share_pair(name: str, value: Any) -> tuple[float, float]:
    """Return two shares from two numbers, or from one number for both. Raises UsageError unless 0 < share <= 1."""
    try:
        first, last = (value, value) if isinstance(value, numbers.Real) else value
        pair = (float(first), float(last)) if _real(first) and _real(last) else (math.nan, math.nan)
    except (TypeError, ValueError, OverflowError):
        pair = math.nan, math.nan
    if not all(0 < end <= 1 for end in pair):
        raise UsageError(
            f"{name} {shown(value)}: a number above 0 and at most 1 is needed, or two: first step's and last's"
        )
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
