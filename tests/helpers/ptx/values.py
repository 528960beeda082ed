"""Types of PTX as NumPy dtypes, literals as bits, and the pattern that stands for what is not defined."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]
"""One value for each thread: [programs, threads], where either is 1 if all values along it are equal."""

_LETTERS = {"b": "u", "u": "u", "s": "i", "f": "f"}
_RAW = {"bf16": np.dtype(np.uint16), "pred": np.dtype(np.bool_)}
INTEGERS = frozenset(f"{letter}{bits}" for letter in "us" for bits in (16, 32, 64))
BITS = frozenset({"b16", "b32", "b64"})

# Every half of it is NaN as float16 and as bfloat16, so that it is noticed as a float too; no address begins like this.
_UNDEFINED = 0xFFA5FFA5FFA5FFA5


def bits_of(kind: str) -> int:
    """Width of a type: 32 for ``s32``; 1 for ``pred``."""
    return 1 if kind == "pred" else int(kind.lstrip("bfsu"))


def dtype_of(kind: str) -> np.dtype[Any]:
    """The dtype of a type; bfloat16 is its bits."""
    if kind in _RAW:
        return _RAW[kind]
    return np.dtype(f"{_LETTERS[kind[0]]}{bits_of(kind) // 8}")


def raw_dtype(bits: int) -> np.dtype[Any]:
    """The dtype of a register that nothing is known of but its width."""
    return dtype_of("pred" if bits == 1 else f"b{bits}")


def undefined(dtype: np.dtype[Any]) -> Values:
    """What a register holds that nothing was written to, and what a division by zero gives, [1, 1]."""
    if dtype == np.bool_:
        return np.ones((1, 1), np.bool_)
    return np.full((1, 1), _UNDEFINED & ((1 << (8 * dtype.itemsize)) - 1), f"u{dtype.itemsize}").view(dtype)


def undefined_bytes(programs: int, size: int) -> NDArray[np.uint8]:
    """Memory that nothing was written to, [programs, size]; the size is divisible by 8."""
    return np.full((programs, size // 8), _UNDEFINED, np.uint64).view(np.uint8)


def literal(text: str, kind: str) -> Values:
    """A number in an instruction as a value of a type, [1, 1].

    Raises NotImplementedError for decimal fractions, and for a float whose bits do not have the type's width.
    """
    bits = bits_of(kind)
    if found := re.fullmatch(r"0([fFdD])([0-9a-fA-F]+)", text):
        number, width = int(found[2], 16), 32 if found[1] in "fF" else 64
        if width != bits:
            raise NotImplementedError(f"the literal {text} as {kind}")
    elif re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?", text):
        number = _integer(text.rstrip("U"))
    else:
        raise NotImplementedError(f"the operand {text} as {kind}")
    if kind == "pred":
        return np.full((1, 1), number != 0)
    return np.full((1, 1), number & ((1 << bits) - 1), f"u{bits // 8}").view(dtype_of(kind))


def _integer(text: str) -> int:
    """An integer of PTX, in which a leading 0 means octal as in C."""
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    octal = re.fullmatch(r"0\d+", digits)
    return sign * int(digits, 8 if octal else 0)
