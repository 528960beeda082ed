"""Integer arithmetic of PTX on arrays: everything wraps, and shifts take any amount.

Functions work in the dtype of their first operand, whose sign decides which shift, division or comparison is meant.
"""

from __future__ import annotations

import numpy as np

from helpers.ptx.values import Values, undefined


def width(x: Values) -> int:
    """Bits of an element."""
    return 8 * x.dtype.itemsize


def unsigned(x: Values) -> Values:
    """The same bits without a sign."""
    return x.view(f"u{x.dtype.itemsize}")


def shift_left(x: Values, amount: Values) -> Values:
    """Shift in zeros from below; an amount of the width or more gives 0."""
    bits = width(x)
    if amount.size == 1:
        by = amount.item()
        return x << x.dtype.type(by) if by < bits else np.zeros_like(x)
    return np.where(amount < bits, x << np.minimum(amount, bits - 1).astype(x.dtype), x.dtype.type(0))


def shift_right(x: Values, amount: Values) -> Values:
    """Shift in zeros from above, or the sign; an amount of the width or more leaves nothing else."""
    bits = width(x)
    if x.dtype.kind == "i":
        amount = np.minimum(amount, bits - 1)
    if amount.size == 1:
        by = amount.item()
        return x >> x.dtype.type(by) if by < bits else np.zeros_like(x)
    return np.where(amount < bits, x >> np.minimum(amount, bits - 1).astype(x.dtype), x.dtype.type(0))


def funnel(left: bool, wrap: bool):
    """``shf``: 32 bits of the 64 that `low` and `high` are, shifted by an amount modulo 32, or of at most 32."""

    def shift(low: Values, high: Values, amount: Values) -> Values:
        by = (amount & 31 if wrap else np.minimum(amount, 32)).astype(np.uint64)
        both = (high.astype(np.uint64) << np.uint64(32)) | low
        return ((both << by) >> np.uint64(32) if left else both >> by).astype(np.uint32)

    return shift


def _ones(count: Values, like: Values) -> Values:
    """Masks of `count` low bits, 0 to 255; the width or more gives all of them."""
    one = np.ones((1, 1), unsigned(like).dtype)
    return shift_left(np.broadcast_to(one, count.shape), count) - one


def _field(x: Values, start: Values, length: Values) -> tuple[Values, Values]:
    """The start of a field, 0 to 255, and a mask as long as what of the field lies inside the width."""
    start, length = start & 255, length & 255
    inside = np.minimum(length, np.maximum(width(x), start) - start)
    return start, _ones(inside, x)


def extract(x: Values, start: Values, length: Values) -> Values:
    """``bfe``: a field's bits; with a sign, the field's last bit also fills what lies above."""
    start, mask = _field(x, start, length)
    bits = unsigned(x)
    field = shift_right(bits, start) & mask
    if x.dtype.kind == "u":
        return field
    last = np.minimum(start + (length & 255) - 1, width(x) - 1)
    negative = ((shift_right(bits, last) & bits.dtype.type(1)) != 0) & ((length & 255) != 0)
    return np.where(negative, field | ~mask, field).view(x.dtype)


def insert(field: Values, x: Values, start: Values, length: Values) -> Values:
    """``bfi``: `x` with the low bits of `field` in place of a field of its own."""
    start, mask = _field(x, start, length)
    mask = shift_left(mask, start)
    return (x & ~mask) | (shift_left(field, start) & mask)


def count_ones(x: Values) -> Values:
    """``popc``."""
    return np.bitwise_count(x).astype(np.uint32)


def _smeared(x: Values) -> Values:
    """The greatest set bit and all below it."""
    by = 1
    while by < width(x):
        x = x | (x >> x.dtype.type(by))
        by *= 2
    return x


def leading_zeros(x: Values) -> Values:
    """``clz``: the width for 0."""
    return np.uint32(width(x)) - count_ones(_smeared(x))


def find_bit(distance: bool):
    """``bfind``: index of the greatest bit that is not the sign, or its distance from the top; 2^32 - 1 if none is."""

    def find(x: Values) -> Values:
        bits = unsigned(x ^ (x >> x.dtype.type(width(x) - 1)) if x.dtype.kind == "i" else x)
        index = count_ones(_smeared(bits)) - np.uint32(1)
        return np.where(bits == 0, index, np.uint32(width(x) - 1) - index) if distance else index

    return find


def reverse_bits(x: Values) -> Values:
    """``brev``."""
    result = np.zeros_like(x)
    one = x.dtype.type(1)
    for at in range(width(x)):
        result |= ((x >> x.dtype.type(at)) & one) << x.dtype.type(width(x) - 1 - at)
    return result


def permute_bytes(low: Values, high: Values, selector: Values) -> Values:
    """``prmt``: four bytes chosen from eight by the selector's digits; a digit's top bit spreads the byte's sign."""
    both = (high.astype(np.uint64) << np.uint64(32)) | low
    result = np.zeros((1, 1), np.uint32)
    for at in range(4):
        digit = (selector >> np.uint32(4 * at)) & np.uint32(15)
        byte = ((both >> (8 * (digit & 7)).astype(np.uint64)) & np.uint64(255)).astype(np.uint32)
        byte = np.where(digit & 8, (byte >> np.uint32(7)) * np.uint32(255), byte)
        result = result | (byte << np.uint32(8 * at))
    return result


def by_table(a: Values, b: Values, c: Values, table: Values) -> Values:
    """``lop3``: any function of three bits, given by the table of its eight results."""
    result = np.zeros((1, 1), np.uint32)
    for case in range(8):
        if table.item() >> case & 1:
            result = result | ((a if case & 4 else ~a) & (b if case & 2 else ~b) & (c if case & 1 else ~c))
    return result


def multiply_wide(a: Values, b: Values) -> Values:
    """The whole product of two numbers, twice as wide."""
    wide = np.dtype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")
    return a.astype(wide) * b.astype(wide)


def multiply_high(a: Values, b: Values) -> Values:
    """The upper half of the product."""
    if width(a) < 64:
        return (multiply_wide(a, b) >> width(a)).astype(a.dtype)
    high = _high_of_64(unsigned(a), unsigned(b))
    if a.dtype.kind == "i":
        high = high - np.where(a < 0, unsigned(b), np.uint64(0)) - np.where(b < 0, unsigned(a), np.uint64(0))
    return high.view(a.dtype)


def _high_of_64(a: Values, b: Values) -> Values:
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    middle = (a >> half) * (b & low) + (((a & low) * (b & low)) >> half)
    other = (a & low) * (b >> half) + (middle & low)
    return (a >> half) * (b >> half) + (middle >> half) + (other >> half)


def divide(a: Values, b: Values) -> Values:
    """The quotient towards 0; what a division by 0 gives is not defined."""
    zero = b == 0
    quotient = _magnitude(a) // np.where(zero, unsigned(b).dtype.type(1), _magnitude(b))
    if a.dtype.kind == "i":
        quotient = np.where((a < 0) != (b < 0), -quotient, quotient)
    result = quotient.view(a.dtype)
    return np.where(zero, undefined(a.dtype), result) if zero.any() else result


def remainder(a: Values, b: Values) -> Values:
    """What a division towards 0 leaves; of a division by 0, it is not defined."""
    result = a - divide(a, b) * b
    zero = b == 0
    return np.where(zero, undefined(a.dtype), result) if zero.any() else result


def _magnitude(x: Values) -> Values:
    """Absolute values without a sign; the least number's fits, too."""
    return unsigned(np.abs(x)) if x.dtype.kind == "i" else x


def add_saturated(a: Values, b: Values) -> Values:
    """The sum of two int32, at the limit where it does not fit."""
    return np.clip(a.astype(np.int64) + b, -(2**31), 2**31 - 1).astype(np.int32)


def subtract_saturated(a: Values, b: Values) -> Values:
    """The difference of two int32, at the limit where it does not fit."""
    return np.clip(a.astype(np.int64) - b, -(2**31), 2**31 - 1).astype(np.int32)
