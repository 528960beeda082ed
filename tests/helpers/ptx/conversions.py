"""``cvt``: from any type to any other, exactly as rounded or clamped as the instruction says."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from helpers.ptx.floats import Function, canonical, narrow_bfloat, narrow_half, widen_bfloat
from helpers.ptx.values import Values, bits_of, dtype_of

_ROUNDINGS: dict[str, Callable[[Values], Values]] = {
    "rni": np.rint,
    "rzi": np.trunc,
    "rmi": np.floor,
    "rpi": np.ceil,
}
_WIDENED: dict[str, Function] = {
    "f32": lambda x: x,
    "f16": lambda x: canonical(x.astype(np.float32)),
    "bf16": widen_bfloat,
}
_NARROWED: dict[str, Function] = {"f16": narrow_half, "bf16": narrow_bfloat}


def _integer(kind: str) -> bool:
    return kind[0] in "us" and bits_of(kind) in (8, 16, 32, 64)


def conversion(modifiers: tuple[str, ...], target: str, source: str) -> Function | None:
    """The function of a conversion with these modifiers; None where it is not supported."""
    if _integer(source) and _integer(target):
        return _between_integers(modifiers, target)
    if _integer(source) and target in ("f32", "f16") and modifiers == ("rn",):
        # Integers that float32 has to round are beyond float16, so that nothing is rounded twice.
        return lambda x: x.astype(np.float32).astype(dtype_of(target))
    if source in _WIDENED and _integer(target) and len(modifiers) <= 2 and set(modifiers[1:]) <= {"sat"}:
        rounding = _ROUNDINGS.get(modifiers[0]) if modifiers else None
        return None if rounding is None else partial(_to_integer, rounding, dtype_of(target), _WIDENED[source])
    if source in _WIDENED and target == "f32":
        if not modifiers and source != "f32":
            return _WIDENED[source]
        rounding = _ROUNDINGS.get(modifiers[0]) if len(modifiers) == 1 else None
        return None if rounding is None or source != "f32" else lambda x: canonical(rounding(x))
    if source == "f32" and target in _NARROWED and modifiers == ("rn",):
        return _NARROWED[target]
    return None


def pair_conversion(target: str) -> Function:
    """The function that rounds two float32 to 16 bits each; the first one becomes the upper half."""
    narrow = _NARROWED[target]

    def convert(high: Values, low: Values) -> Values:
        return (narrow(high).view(np.uint16).astype(np.uint32) << np.uint32(16)) | narrow(low).view(np.uint16)

    return convert


def _between_integers(modifiers: tuple[str, ...], target: str) -> Function | None:
    wanted = dtype_of(target)
    if not modifiers:
        return lambda x: x.astype(wanted)
    return (lambda x: _clamped(x, wanted)) if modifiers == ("sat",) else None


def _clamped(x: Values, wanted: np.dtype[Any]) -> Values:
    """Integers of another type, at its limits where they do not fit."""
    own, new = np.iinfo(x.dtype), np.iinfo(wanted)
    return np.clip(x, max(own.min, new.min), min(own.max, new.max)).astype(wanted)


def _to_integer(rounding: Callable[[Values], Values], wanted: np.dtype[Any], widen: Function, x: Values) -> Values:
    """Rounded floats, at the type's limits where they do not fit; of NaN, 0, or of 64 bits the topmost bit."""
    x = widen(x)
    limits = np.iinfo(wanted)
    if wanted == np.int32 and bool((np.abs(x) < 2.0**31).all()):
        return (x if rounding is np.trunc else rounding(x)).astype(np.int32)
    whole = rounding(x.astype(np.float64))
    fits = (whole >= limits.min) & (whole < float(limits.max) + (wanted.itemsize < 8))
    result = np.where(fits, whole, 0).astype(wanted)
    result = np.where(whole < limits.min, wanted.type(limits.min), result)
    result = np.where(~fits & (whole > 0), wanted.type(limits.max), result)
    of_nan = limits.min if wanted == np.int64 else 1 << 63 if wanted == np.uint64 else 0
    return np.where(np.isnan(x), wanted.type(of_nan), result)
