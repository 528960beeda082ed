"""Float arithmetic of PTX on arrays: float32 and float16, rounded to nearest even, subnormals kept, NaN canonical."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from helpers.ptx.values import Values

Function = Callable[..., Values]

_ALL_BUT_SIGN = {2: np.uint16(0x7FFF), 4: np.uint32(0x7FFFFFFF)}
"""Bits by the size of a float: these are canonical NaN, too."""


def canonical(x: Values) -> Values:
    """The same floats with one NaN, that which the device makes."""
    nan = np.isnan(x)
    if not nan.any():
        return x
    return np.where(nan, _ALL_BUT_SIGN[x.dtype.itemsize].view(x.dtype), x)


def rounded(function: Callable[..., Any]) -> Function:
    """An operation of NumPy, whose results are rounded to nearest even, as one of PTX."""

    def apply(*operands: Values) -> Values:
        return canonical(function(*operands))

    return apply


def of_mixed(function: Callable[..., Any]) -> Function:
    """An operation on a float16 and a float32, in float32."""

    def apply(a: Values, b: Values) -> Values:
        return canonical(function(a.astype(np.float32), b))

    return apply


def of_mixed_bfloat(function: Callable[..., Any]) -> Function:
    """An operation on a bfloat16, given as its bits, and a float32, in float32."""

    def apply(a: Values, b: Values) -> Values:
        return canonical(function(widen_bfloat(a), b))

    return apply


def of_pairs(function: Callable[..., Any]) -> Function:
    """An operation on the two float32 in 64 bits each."""

    def apply(*operands: Values) -> Values:
        low, high = (
            canonical(function(*((x >> np.uint64(shift)).astype(np.uint32).view(np.float32) for x in operands)))
            for shift in (0, 32)
        )
        return low.view(np.uint32) | (high.view(np.uint32).astype(np.uint64) << np.uint64(32))

    return apply


def greatest(*operands: Values) -> Values:
    """``max``: a NaN gives way to a number, and -0 to +0."""
    return _extreme(np.fmax, np.bitwise_and, operands)


def least(*operands: Values) -> Values:
    """``min``: a NaN gives way to a number, and +0 to -0."""
    return _extreme(np.fmin, np.bitwise_or, operands)


def greatest_or_nan(*operands: Values) -> Values:
    """``max.NaN``: the greatest, or NaN if any is."""
    return _extreme(np.maximum, np.bitwise_and, operands)


def least_or_nan(*operands: Values) -> Values:
    """``min.NaN``: the least, or NaN if any is."""
    return _extreme(np.minimum, np.bitwise_or, operands)


def _extreme(choose: Any, of_zeros: Any, operands: tuple[Values, ...]) -> Values:
    result = operands[0]
    for operand in operands[1:]:
        first, result = result, choose(result, operand)
        if choose in (np.fmax, np.fmin) and operand.size == 1 and abs(operand.item()) > 0:
            continue  # neither NaN nor a zero of another sign can come of it
        number = (result < 0) | (result > 0)
        if not number.all():
            raw = f"u{result.dtype.itemsize}"
            zeros = of_zeros(first.view(raw), operand.view(raw)).view(result.dtype)
            result = canonical(np.where((first == 0) & (operand == 0), zeros, result))
    return result


def absolute(x: Values) -> Values:
    """The float without its sign, of NaN too."""
    return np.abs(x)


def negative(x: Values) -> Values:
    """The float with the other sign, of NaN too."""
    return np.negative(x)


def widen_bfloat(bits: Values) -> Values:
    """bfloat16, given as its bits, as float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def narrow_bfloat(x: Values) -> Values:
    """The bits of the bfloat16 nearest to a float32, even ones where two are as near."""
    bits = x.view(np.uint32)
    near = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint32(0x7FFF), near).astype(np.uint16)


def narrow_half(x: Values) -> Values:
    """The float16 nearest to a float32, an even one where two are as near."""
    return canonical(x.astype(np.float16))
