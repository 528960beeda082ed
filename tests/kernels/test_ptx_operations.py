"""What the PTX interpreter computes is what Python's integers and exact fractions say, of every family and width."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.ptx.small import computed
from helpers.ptx.values import bits_of, dtype_of

EXAMPLES = settings(max_examples=3, deadline=None)
KINDS = [f"{letter}{bits}" for bits in (16, 32, 64) for letter in "us"]
NAN32, NAN16 = 0x7FFFFFFF, 0x7FFF


def wrapped(value: int, kind: str) -> int:
    """An integer as a value of a type."""
    bits = bits_of(kind)
    value &= (1 << bits) - 1
    return value - (1 << bits) if kind[0] == "s" and value >> (bits - 1) else value


def unsigned(value: int, bits: int) -> int:
    return value & ((1 << bits) - 1)


def truncated(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def numbers(kind: str) -> st.SearchStrategy[int]:
    """Values of an integer type, the edges more often."""
    bits = bits_of(kind)
    edges = [0, 1, 2, 3, 31, 32, 33, 63, 64, -1, -2, 1 << (bits - 1), (1 << (bits - 1)) - 1, 1 << (bits // 2)]
    any_bits = st.integers(0, (1 << bits) - 1)
    return st.one_of(st.sampled_from(edges), any_bits).map(lambda value: wrapped(value, kind))


def check(data: Any, opcode: str, result: str, kinds: tuple[str, ...], function: Callable[..., int | None]) -> None:
    """Compare an instruction on 32 drawn operands with a function of Python's integers; None is not compared."""
    columns = [data.draw(st.lists(numbers(kind), min_size=32, max_size=32)) for kind in kinds]
    arrays = [np.array(column, dtype_of(kind)) for column, kind in zip(columns, kinds, strict=True)]
    found = computed(opcode, result, kinds, *arrays).tolist()
    for value, row in zip(found, zip(*columns, strict=True), strict=True):
        expected = function(*row)
        assert expected is None or value == wrapped(expected, result), (opcode, row)


def shifted_right(value: int, amount: int) -> int:
    return value >> min(amount, 64)


INTEGERS: dict[str, tuple[str, tuple[str, ...], Callable[..., int | None]]] = {}
for kind in KINDS:
    bits = bits_of(kind)
    two = (kind, kind)
    INTEGERS |= {
        f"add.{kind}": (kind, two, lambda a, b: a + b),
        f"sub.{kind}": (kind, two, lambda a, b: a - b),
        f"mul.lo.{kind}": (kind, two, lambda a, b: a * b),
        f"mul.hi.{kind}": (kind, two, lambda a, b, bits=bits: (a * b) >> bits),
        f"mad.lo.{kind}": (kind, (kind,) * 3, lambda a, b, c: a * b + c),
        f"mad.hi.{kind}": (kind, (kind,) * 3, lambda a, b, c, bits=bits: ((a * b) >> bits) + c),
        f"div.{kind}": (kind, two, lambda a, b: truncated(a, b) if b else None),
        f"rem.{kind}": (kind, two, lambda a, b: a - truncated(a, b) * b if b else None),
        f"min.{kind}": (kind, two, min),
        f"max.{kind}": (kind, two, max),
        f"shr.{kind}": (kind, (kind, "u32"), shifted_right),
        f"selp.{kind}": (kind, (*two, "pred"), lambda a, b, which: a if which else b),
    }
    if bits < 64:
        wide = f"{kind[0]}{2 * bits}"
        INTEGERS[f"mul.wide.{kind}"] = (wide, two, lambda a, b: a * b)
        INTEGERS[f"mad.wide.{kind}"] = (wide, (*two, wide), lambda a, b, c: a * b + c)
    if kind[0] == "s":
        INTEGERS[f"abs.{kind}"] = (kind, (kind,), abs)
        INTEGERS[f"neg.{kind}"] = (kind, (kind,), lambda a: -a)
    else:
        raw = f"b{bits}"
        INTEGERS |= {
            f"and.{raw}": (kind, two, lambda a, b: a & b),
            f"or.{raw}": (kind, two, lambda a, b: a | b),
            f"xor.{raw}": (kind, two, lambda a, b: a ^ b),
            f"not.{raw}": (kind, (kind,), lambda a: ~a),
            f"shl.{raw}": (kind, (kind, "u32"), lambda a, amount: a << min(amount, 64)),
        }


def field_of(bits: int, signed: bool) -> Callable[[int, int, int], int]:
    """``bfe``, as NVIDIA's pseudocode has it."""

    def extract(a: int, start: int, length: int) -> int:
        a, start, length = unsigned(a, bits), start & 255, length & 255
        sign = a >> min(start + length - 1, bits - 1) & 1 if signed and length else 0
        chosen = (a >> (start + at) & 1 if at < length and start + at < bits else sign for at in range(bits))
        return sum(bit << at for at, bit in enumerate(chosen))

    return extract


def inserted(bits: int) -> Callable[[int, int, int, int], int]:
    """``bfi``, as NVIDIA's pseudocode has it."""

    def insert(a: int, b: int, start: int, length: int) -> int:
        start, length = start & 255, length & 255
        for at in range(length):
            if start + at < bits:
                b = b & ~(1 << (start + at)) | (a >> at & 1) << (start + at)
        return b

    return insert


def highest(value: int, bits: int) -> int:
    """Index of the greatest bit that is not the sign; -1 if none is."""
    return unsigned(~value if value < 0 else value, bits).bit_length() - 1


def funnel(left: bool, clamp: bool) -> Callable[[int, int, int], int]:
    def shift(low: int, high: int, amount: int) -> int:
        amount = min(amount, 32) if clamp else amount & 31
        both = high << 32 | low
        return both << amount >> 32 if left else both >> amount

    return shift


def permuted(a: int, b: int, selector: int) -> int:
    both, result = b << 32 | a, 0
    for at in range(4):
        digit = selector >> 4 * at & 15
        byte = both >> 8 * (digit & 7) & 255
        result |= (255 * (byte >> 7) if digit & 8 else byte) << 8 * at
    return result


def saturated(value: int) -> int:
    return max(-(2**31), min(2**31 - 1, value))


for bits in (32, 64):
    u, s, raw = f"u{bits}", f"s{bits}", f"b{bits}"
    INTEGERS |= {
        f"bfe.{u}": (u, (u, "u32", "u32"), field_of(bits, False)),
        f"bfe.{s}": (s, (s, "u32", "u32"), field_of(bits, True)),
        f"bfi.{raw}": (u, (u, u, "u32", "u32"), inserted(bits)),
        f"popc.{raw}": ("u32", (u,), int.bit_count),
        f"clz.{raw}": ("u32", (u,), lambda a, bits=bits: bits - a.bit_length()),
        f"brev.{raw}": (u, (u,), lambda a, bits=bits: int(f"{a:0{bits}b}"[::-1], 2)),
        f"bfind.{u}": ("u32", (u,), lambda a, bits=bits: highest(a, bits)),
        f"bfind.{s}": ("u32", (s,), lambda a, bits=bits: highest(a, bits)),
        f"bfind.shiftamt.{u}": ("u32", (u,), lambda a, bits=bits: bits - 1 - highest(a, bits) if a else -1),
    }
INTEGERS |= {
    "add.sat.s32": ("s32", ("s32", "s32"), lambda a, b: saturated(a + b)),
    "sub.sat.s32": ("s32", ("s32", "s32"), lambda a, b: saturated(a - b)),
    "shf.l.wrap.b32": ("u32", ("u32",) * 3, funnel(True, False)),
    "shf.l.clamp.b32": ("u32", ("u32",) * 3, funnel(True, True)),
    "shf.r.wrap.b32": ("u32", ("u32",) * 3, funnel(False, False)),
    "shf.r.clamp.b32": ("u32", ("u32",) * 3, funnel(False, True)),
    "prmt.b32": ("u32", ("u32",) * 3, permuted),
}
COMPARISONS = {"eq": "__eq__", "ne": "__ne__", "lt": "__lt__", "le": "__le__", "gt": "__gt__", "ge": "__ge__"}
INTEGERS |= {
    f"setp.{name}.{kind}": ("pred", (kind, kind), lambda a, b, method=method: getattr(a, method)(b))
    for name, method in COMPARISONS.items()
    for kind in KINDS
}


@pytest.mark.parametrize("opcode", INTEGERS)
def test_integers(opcode):
    result, kinds, function = INTEGERS[opcode]

    @EXAMPLES
    @given(st.data())
    def run(data: Any) -> None:
        check(data, opcode, result, kinds, function)

    run()


WIDTHS = ("u8", "s8", *KINDS)


@pytest.mark.parametrize("source", WIDTHS)
@pytest.mark.parametrize("target", WIDTHS)
@settings(max_examples=1, deadline=None)
@given(st.data())
def test_integers_as_other_integers(target, source, data):
    check(data, f"cvt.{target}.{source}", target, (source,), lambda a: a)
    low, high = int(np.iinfo(dtype_of(target)).min), int(np.iinfo(dtype_of(target)).max)
    check(data, f"cvt.sat.{target}.{source}", target, (source,), lambda a: max(low, min(high, a)))


_EDGES = """
00000000 80000000 00000001 80000001 007fffff 00800000 3f800000 bf800000 4b000000 4b000001 cb000000 4f000000 4effffff
cf000000 cf000001 4f7fffff 4f800000 5f000000 df000000 5f800000 7f7fffff ff7fffff 7f800000 ff800000 7fc00000 ffc00001
7fa00000 3f000000 3fc00000 477fe000 477ff000 477fefff 33000000 33000001 3f808000 3f818000 3f808001 40200000
"""
FLOATS = np.array([int(digits, 16) for digits in _EDGES.split()], np.uint32)


def singles(seed: int, count: int = 2048) -> np.ndarray:
    """float32 of any bits, one another's negatives and neighbours, and the special ones."""
    rng = np.random.default_rng(seed)
    some = rng.integers(0, 2**32, count, np.uint32)
    small = (rng.standard_normal(count) * 10.0 ** rng.integers(-9, 10, count)).astype(np.float32).view(np.uint32)
    return np.concatenate([FLOATS, some, small]).view(np.float32)


def pairs() -> tuple[np.ndarray, np.ndarray]:
    a, b = singles(1), np.random.default_rng(2).permutation(singles(3))
    every = np.meshgrid(FLOATS.view(np.float32), FLOATS.view(np.float32))
    return np.concatenate([a, every[0].ravel(), a[:99]]), np.concatenate([b, every[1].ravel(), -a[:99]])


def one_nan(values: np.ndarray) -> np.ndarray:
    """Bits of floats, in which every NaN is canonical."""
    bits = values.view(f"u{values.itemsize}")
    return np.where(np.isnan(values), bits.dtype.type(NAN32 if values.itemsize == 4 else NAN16), bits)


EXACT: dict[str, Callable[..., Any]] = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}


@pytest.mark.parametrize("name", EXACT)
def test_float_arithmetic_is_rounded_once(name):
    a, b = pairs()
    found = computed(f"{name}.rn.f32", "f32", ("f32", "f32"), a, b)
    with np.errstate(all="ignore"):
        # float64 has more than twice as many digits: rounded again, its result is the nearest float32.
        expected = EXACT[name](a.astype(np.float64), b.astype(np.float64)).astype(np.float32)
    normal = ~(np.abs(expected) < 2.0**-126)
    assert np.array_equal(found.view(np.uint32)[normal], one_nan(expected)[normal])
    for x, y, z in zip(a[~normal][:200].tolist(), b[~normal][:200].tolist(), found[~normal][:200].tolist()):
        if name == "div" and math.isinf(y):
            assert z == 0
            continue
        exact = {"add": Fraction.__add__, "sub": Fraction.__sub__, "mul": Fraction.__mul__, "div": Fraction.__truediv__}
        assert abs(Fraction(z) - exact[name](Fraction(x), Fraction(y))) <= Fraction(1, 2**150)


def test_float_arithmetic_on_pairs_and_on_mixed_types():
    a, b = pairs()
    a, b = a[:2000], b[:2000]
    packed = a.view(np.uint64)[:1000], b.view(np.uint64)[:1000]
    for name in ("add", "sub", "mul"):
        found = computed(f"{name}.rn.f32x2", "b64", ("b64", "b64"), *packed)
        single = computed(f"{name}.rn.f32", "f32", ("f32", "f32"), a, b)
        assert np.array_equal(found.view(np.uint32), single.view(np.uint32))
    halves = np.random.default_rng(1).integers(0, 2**16, 2000, np.uint16)
    for kind, wide in (("f16", halves.view(np.float16)), ("bf16", halves.view(ml_dtypes.bfloat16))):
        found = computed(f"sub.rn.f32.{kind}", "f32", (kind, "f32"), halves.view(dtype_of(kind)), b)
        with np.errstate(all="ignore"):
            assert np.array_equal(found.view(np.uint32), one_nan(wide.astype(np.float32) - b))


@pytest.mark.parametrize("kind", ["f32", "f16"])
@pytest.mark.parametrize("name", ["min", "max", "min.NaN", "max.NaN"])
def test_extremes_of_floats(name, kind):
    a, b = pairs()
    if kind == "f16":
        with np.errstate(all="ignore"):
            a, b = a.astype(np.float16), b.astype(np.float16)
    found = computed(f"{name}.{kind}", kind, (kind, kind), a, b)
    for x, y, z in zip(a.tolist(), b.tolist(), found.tolist()):
        if math.isnan(x) or math.isnan(y):
            other = y if math.isnan(x) else x
            expected = math.nan if "NaN" in name else other
        else:
            # The sign decides between zeros.
            expected = (max if name.startswith("max") else min)((x, y), key=lambda v: (v, math.copysign(1, v)))
        assert (math.isnan(z) and math.isnan(expected)) or (z, math.copysign(1, z)) == (
            expected,
            math.copysign(1, expected),
        )
    assert np.array_equal(found.view(f"u{found.itemsize}"), one_nan(found))


def test_signs_of_floats():
    a = singles(4)
    bits = a.view(np.uint32)
    assert np.array_equal(computed("abs.f32", "f32", ("f32",), a).view(np.uint32), bits & np.uint32(NAN32))
    assert np.array_equal(computed("neg.f32", "f32", ("f32",), a).view(np.uint32), bits ^ np.uint32(1 << 31))


@pytest.mark.parametrize("name", [*COMPARISONS, *(f"{name}u" for name in COMPARISONS), "num", "nan"])
def test_comparisons_of_floats(name):
    a, b = pairs()
    for kind in ("f32", "f16"):
        with np.errstate(all="ignore"):
            x, y = a.astype(dtype_of(kind)), b.astype(dtype_of(kind))
        nan = np.isnan(x) | np.isnan(y)
        if name in ("num", "nan"):
            expected = nan == (name == "nan")
        else:
            plain = name if name in COMPARISONS else name[:-1]
            expected = np.where(nan, name != plain, getattr(x, COMPARISONS[plain])(y))
        assert np.array_equal(computed(f"setp.{name}.{kind}", "pred", (kind, kind), x, y), expected)


ROUNDINGS: dict[str, Callable[[float], int]] = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("target", WIDTHS)
def test_floats_as_integers(target, rounding):
    limits = np.iinfo(dtype_of(target))
    for kind, values in (("f32", singles(5, 300)), ("f16", np.arange(0, 65536, 41, dtype=np.uint16).view(np.float16))):
        found = computed(f"cvt.{rounding}.{target}.{kind}", target, (kind,), values)
        for x, z in zip(values.tolist(), found.tolist()):
            if math.isnan(x):
                expected = 0 if limits.bits < 64 else limits.min if target[0] == "s" else 1 << 63
            elif math.isinf(x):
                expected = limits.max if x > 0 else limits.min
            else:
                expected = max(limits.min, min(limits.max, ROUNDINGS[rounding](x)))
            assert z == expected, x


def size_of(bits: int, kind: Any) -> Fraction:
    """A positive float given by its bits; infinity counts as what would follow the greatest number."""
    number, before = (
        float(np.array(max(0, given), f"u{np.dtype(kind).itemsize}").view(kind)) for given in (bits, bits - 1)
    )
    return Fraction(2) ** math.ceil(math.log2(before)) if math.isinf(number) else Fraction(number)


def is_nearest(exact: Fraction, bits: int, kind: Any) -> bool:
    """Whether a float given by its bits is the one nearest to a number, the even one where two are as near."""
    top = 8 * np.dtype(kind).itemsize - 1
    bits &= (1 << top) - 1
    infinite = int(np.array(np.inf, kind).view(f"u{np.dtype(kind).itemsize}"))
    distance = abs(abs(exact) - size_of(bits, kind))
    others = [abs(abs(exact) - size_of(other, kind)) for other in (bits - 1, bits + 1) if 0 <= other <= infinite]
    return (bits == infinite and abs(exact) > size_of(bits, kind)) or all(
        distance < other or (distance == other and bits % 2 == 0) for other in others
    )


@pytest.mark.parametrize("source", ["u32", "s32", "u64", "s64", "u16"])
@settings(max_examples=8, deadline=None)
@given(st.data())
def test_integers_as_floats(source, data):
    width = bits_of(source)
    sized = st.integers(0, width - 1).flatmap(lambda shift: numbers(source).map(lambda value: value >> shift))
    values = data.draw(st.lists(sized, min_size=32, max_size=32))
    found = computed(f"cvt.rn.f32.{source}", "f32", (source,), np.array(values, dtype_of(source)))
    for value, bits in zip(values, found.view(np.uint32).tolist()):
        assert (bits >> 31 == 1) == (value < 0)
        assert is_nearest(Fraction(value), bits, np.float32)


@pytest.mark.parametrize(("target", "dtype"), [("f16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_floats_as_narrower_floats(target, dtype):
    values = np.concatenate([FLOATS.view(np.float32), singles(6, 400)])
    found = computed(f"cvt.rn.{target}.f32", target, ("f32",), values)
    assert (found.view(np.uint16)[np.isnan(values)] == NAN16).all()
    for x, bits in zip(values.tolist(), found.view(np.uint16).tolist()):
        if math.isfinite(x):
            assert is_nearest(Fraction(x), bits, dtype), x
            assert bits >> 15 == (math.copysign(1, x) < 0)
        elif math.isinf(x):
            assert float(np.array(bits, np.uint16).view(dtype)) == x
    high, low = values[:400], values[400:800]
    both = computed(f"cvt.rn.{target}x2.f32", "b32", ("f32", "f32"), high, low)
    halves = found.view(np.uint16).astype(np.uint32)
    assert np.array_equal(both, halves[:400] << np.uint32(16) | halves[400:800])


def test_narrower_floats_as_floats():
    bits = np.arange(65536, dtype=np.uint16)
    halves = computed("cvt.f32.f16", "f32", ("f16",), bits.view(np.float16))
    assert np.array_equal(halves.view(np.uint32), one_nan(bits.view(np.float16).astype(np.float32)))
    brains = computed("cvt.f32.bf16", "f32", ("bf16",), bits)
    assert np.array_equal(brains.view(np.uint32), bits.astype(np.uint32) << np.uint32(16))
