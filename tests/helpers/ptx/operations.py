"""Which function an opcode is, and the types of its operands and of its result.

Everything here works on arrays and knows nothing of registers, threads or memory. What is not listed is not supported:
an opcode is looked up with all of its modifiers, and none is passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from helpers.ptx import floats, integers
from helpers.ptx.conversions import conversion, pair_conversion
from helpers.ptx.values import BITS, INTEGERS, Values, bits_of

_SIGNED = frozenset({"s16", "s32", "s64"})
_FLOATS = frozenset({"f16", "f32"})
_WHOLE = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "sqrt": np.sqrt}
_LOGIC = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.bitwise_not}
_EQUAL = {"eq": np.equal, "ne": np.not_equal}
_ORDERED = {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}
_UNSIGNED = {"lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}


class Operation(NamedTuple):
    """What an opcode computes."""

    result: str
    """Type of the result."""
    operands: tuple[str, ...]
    """Types of the operands; a register may be wider for those that are narrower than 32 bits."""
    apply: Callable[..., Values]


def operation(opcode: tuple[str, ...], count: int) -> Operation | None:
    """The operation of an opcode with that many operands; None where it is not supported."""
    name, *modifiers = opcode
    family = _FAMILIES.get(name)
    found = None if family is None else family(name, tuple(modifiers))
    if found is not None and name in ("min", "max") and found.result == "f32" and count == 3:
        return found._replace(operands=("f32", "f32", "f32"))  # from sm_100 on
    return found if found is not None and len(found.operands) == count else None


def _sums(name: str, modifiers: tuple[str, ...]) -> Operation | None:
    """Of ``add`` and ``sub``."""
    match modifiers:
        case (kind,) if kind in INTEGERS:
            return Operation(kind, (kind, kind), _WHOLE[name])
        case ("sat", "s32"):
            clamped = {"add": integers.add_saturated, "sub": integers.subtract_saturated}[name]
            return Operation("s32", ("s32", "s32"), clamped)
        case ("rn", "f32", "f16"):
            return Operation("f32", ("f16", "f32"), floats.of_mixed(_WHOLE[name]))
        case ("rn", "f32", "bf16"):
            return Operation("f32", ("bf16", "f32"), floats.of_mixed_bfloat(_WHOLE[name]))
    return _rounded(name, modifiers)


def _rounded(name: str, modifiers: tuple[str, ...]) -> Operation | None:
    """Float operations; without ``.rn`` the assembler may contract them, so that they have no certain result."""
    count = 1 if name == "sqrt" else 2
    match modifiers:
        case ("rn", "f32"):
            return Operation("f32", ("f32",) * count, floats.rounded(_WHOLE[name]))
        case ("rn", "f16") if name in ("add", "sub", "mul"):
            # Products and sums of float16 that are first rounded to float32 are the same after the second rounding.
            return Operation("f16", ("f16", "f16"), floats.rounded(_WHOLE[name]))
        case ("rn", "f32x2") if name in ("add", "sub", "mul"):
            return Operation("b64", ("b64", "b64"), floats.of_pairs(_WHOLE[name]))
    return None


def _products(name: str, modifiers: tuple[str, ...]) -> Operation | None:
    """Of ``mul`` and ``mad``."""
    match modifiers:
        case ("lo", kind) if kind in INTEGERS:
            result, multiply = kind, np.multiply
        case ("hi", kind) if kind in INTEGERS:
            result, multiply = kind, integers.multiply_high
        case ("wide", "s16" | "u16" | "s32" | "u32" as kind):
            result, multiply = f"{kind[0]}{2 * bits_of(kind)}", integers.multiply_wide
        case _:
            return _rounded(name, modifiers) if name == "mul" else None
    if name == "mul":
        return Operation(result, (kind, kind), multiply)
    return Operation(result, (kind, kind, result), lambda a, b, c: multiply(a, b) + c)


def _quotients(name: str, modifiers: tuple[str, ...]) -> Operation | None:
    """Of ``div`` and ``rem``."""
    match modifiers:
        case (kind,) if kind in INTEGERS:
            return Operation(kind, (kind, kind), integers.divide if name == "div" else integers.remainder)
    return _rounded(name, modifiers) if name == "div" else None


def _extremes(name: str, modifiers: tuple[str, ...]) -> Operation | None:
    """Of ``min`` and ``max``."""
    match modifiers:
        case (kind,) if kind in INTEGERS:
            return Operation(kind, (kind, kind), np.minimum if name == "min" else np.maximum)
        case (kind,) if kind in _FLOATS:
            return Operation(kind, (kind, kind), floats.least if name == "min" else floats.greatest)
        case ("NaN", kind) if kind in _FLOATS:
            function = floats.least_or_nan if name == "min" else floats.greatest_or_nan
            return Operation(kind, (kind, kind), function)
    return None


def _signs(name: str, modifiers: tuple[str, ...]) -> Operation | None:
    """Of ``abs`` and ``neg``."""
    match modifiers:
        case (kind,) if kind in _SIGNED:
            return Operation(kind, (kind,), np.abs if name == "abs" else np.negative)
        case (kind,) if kind in _FLOATS:
            return Operation(kind, (kind,), floats.absolute if name == "abs" else floats.negative)
    return None


def _logic(name: str, modifiers: tuple[str, ...]) -> Operation | None:
    match modifiers:
        case (kind,) if kind in BITS or kind == "pred":
            return Operation(kind, (kind,) * (1 if name == "not" else 2), _LOGIC[name])
    return None


def _shifts(name: str, modifiers: tuple[str, ...]) -> Operation | None:
    """Of ``shl``, ``shr`` and ``shf``."""
    match (name, *modifiers):
        case ("shl", kind) if kind in BITS:
            return Operation(kind, (kind, "u32"), integers.shift_left)
        case ("shr", kind) if kind in INTEGERS | BITS:
            return Operation(kind, (kind, "u32"), integers.shift_right)
        case ("shf", "l" | "r" as side, "wrap" | "clamp" as mode, "b32"):
            return Operation("b32", ("b32", "b32", "u32"), integers.funnel(side == "l", mode == "wrap"))
    return None


def _fields(name: str, modifiers: tuple[str, ...]) -> Operation | None:
    """Of what counts, finds and moves bits."""
    match (name, *modifiers):
        case ("bfe", "u32" | "s32" | "u64" | "s64" as kind):
            return Operation(kind, (kind, "u32", "u32"), integers.extract)
        case ("bfi", "b32" | "b64" as kind):
            return Operation(kind, (kind, kind, "u32", "u32"), integers.insert)
        case ("popc" | "clz", "b32" | "b64" as kind):
            return Operation("u32", (kind,), integers.count_ones if name == "popc" else integers.leading_zeros)
        case ("brev", "b32" | "b64" as kind):
            return Operation(kind, (kind,), integers.reverse_bits)
        case ("bfind", "u32" | "s32" | "u64" | "s64" as kind):
            return Operation("u32", (kind,), integers.find_bit(distance=False))
        case ("bfind", "shiftamt", "u32" | "s32" | "u64" | "s64" as kind):
            return Operation("u32", (kind,), integers.find_bit(distance=True))
        case ("prmt", "b32"):
            return Operation("b32", ("b32", "b32", "b32"), integers.permute_bytes)
        case ("lop3", "b32"):
            return Operation("b32", ("b32", "b32", "b32", "u32"), integers.by_table)
    return None


def _conversions(name: str, modifiers: tuple[str, ...]) -> Operation | None:
    match modifiers:
        case ("rn", "f16x2" | "bf16x2" as target, "f32"):
            return Operation("b32", ("f32", "f32"), pair_conversion(target.removesuffix("x2")))
        case (*how, target, source):
            function = conversion(tuple(how), target, source)
            return None if function is None else Operation(target, (source,), function)
    return None


def _selections(name: str, modifiers: tuple[str, ...]) -> Operation | None:
    match modifiers:
        case (kind,) if kind in INTEGERS | BITS | _FLOATS:
            return Operation(kind, (kind, kind, "pred"), lambda a, b, which: np.where(which, a, b))
    return None


def comparison(modifiers: tuple[str, ...]) -> Operation | None:
    """What ``setp`` compares, without what it may combine the result with; None where it is not supported."""
    match modifiers:
        case (name, kind) if name in _EQUAL and kind in INTEGERS | BITS | _FLOATS:
            return Operation("pred", (kind, kind), _comparing(_EQUAL[name], name, kind))
        case (name, kind) if name in _ORDERED and kind in INTEGERS | _FLOATS:
            return Operation("pred", (kind, kind), _ORDERED[name])
        case (name, kind) if name in _UNSIGNED and kind in ("u16", "u32", "u64"):
            return Operation("pred", (kind, kind), _UNSIGNED[name])
        case ("num" | "nan" as name, kind) if kind in _FLOATS:
            return Operation("pred", (kind, kind), _are_numbers if name == "num" else _is_any_nan)
        case (name, kind) if name.endswith("u") and name[:-1] in _EQUAL | _ORDERED and kind in _FLOATS:
            compare = (_EQUAL | _ORDERED)[name[:-1]]
            return Operation("pred", (kind, kind), lambda a, b: compare(a, b) | _is_any_nan(a, b))
    return None


def _comparing(compare: Any, name: str, kind: str) -> Callable[..., Values]:
    """Unlike NumPy's, ``ne`` of floats does not hold for NaN."""
    return (lambda a, b: compare(a, b) & _are_numbers(a, b)) if name == "ne" and kind in _FLOATS else compare


def _is_any_nan(a: Values, b: Values) -> Values:
    return np.isnan(a) if a is b else np.isnan(a) | np.isnan(b)


def _are_numbers(a: Values, b: Values) -> Values:
    return ~_is_any_nan(a, b)


_FAMILIES: dict[str, Callable[[str, tuple[str, ...]], Operation | None]] = {
    **dict.fromkeys(("add", "sub"), _sums),
    **dict.fromkeys(("mul", "mad"), _products),
    **dict.fromkeys(("div", "rem"), _quotients),
    **dict.fromkeys(("min", "max"), _extremes),
    **dict.fromkeys(("abs", "neg"), _signs),
    **dict.fromkeys(("and", "or", "xor", "not"), _logic),
    **dict.fromkeys(("shl", "shr", "shf"), _shifts),
    **dict.fromkeys(("bfe", "bfi", "popc", "clz", "brev", "bfind", "prmt", "lop3"), _fields),
    "sqrt": _rounded,
    "cvt": _conversions,
    "selp": _selections,
}
