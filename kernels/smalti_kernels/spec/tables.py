"""Integer exponentials and logarithms, and all tables of the specification packed for the kernel.

Confidences are compared between samples and devices, so they are integers too: exp and log are read from small tables
and interpolated in integer arithmetic. With d = a distance below the row's greatest score, in units of 2^-16 nats:

    t       = d + (d >> 1) - ((939 * d - (d >> 3)) >> 14)                  d * log2(e), in units of 2^-16 octaves
    weight  = (EXP2[(t >> 10) mod 64] * (65536 - ((706 * (t mod 1024)) >> 10))) >> (t >> 16);   0 from FAR on
    log(s)  : u = bits of float32(s); octave = (u >> 23) - 127; part = the next 7 bits; rest = the last 16 bits
              ((2907270 * octave) >> 6) + LN[part] + ((RISE[part] * rest) >> 16), in units of 2^-16 nats

A weight of 65535 * 65536 stands for 1. Everything fits 32 bits unsigned, except sums of weights, which need 64.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smalti_kernels.spec.noise import gumbel_table
from smalti_kernels.spec.scratch import PART_ELEMENTS, scratch_of_thread

FAR: Final = 1_453_000
"""Distances from here on have weight 0: 22.17 nats, just under 32 octaves. All products still fit 32 bits."""
WEIGHT_ONE: Final = 65535 * 65536
"""The weight of distance 0."""

EXP2_CELLS: Final = 64
LN_CELLS: Final = 128
LN_OCTAVE: Final = 2_907_270
"""ln 2 in units of 2^-22."""

GUMBEL_WORDS: Final = 2 * 32 * 64
EXP2_AT: Final = GUMBEL_WORDS
"""Index of the table of exponentials in the packed tables."""
LN_AT: Final = EXP2_AT + EXP2_CELLS
"""Index of the table of logarithms in the packed tables."""
TABLE_WORDS: Final = LN_AT + LN_CELLS
GUMBEL_BIAS: Final = 1 << 18
"""Added to a Gumbel level so that it is positive and fits 21 bits."""
GUMBEL_RISE_BITS: Final = 11
LN_RISE_BITS: Final = 16


def exact_exp2() -> NDArray[np.float64]:
    """65535 * 2^(-j / 64) before rounding, float64 [64]; a test measures how far each lies from a half."""
    return 65535.0 * np.exp2(-np.arange(EXP2_CELLS) / EXP2_CELLS)


def exact_ln() -> NDArray[np.float64]:
    """ln(1 + i / 128) in units of 2^-16 before rounding, float64 [129]; a test measures how far each is from a half."""
    return np.log1p(np.arange(LN_CELLS + 1) / LN_CELLS) * 65536.0


@cache
def _mantissas() -> NDArray[np.uint32]:
    """The weight's mantissa for every fraction of an octave, uint32 [65536], by the formula of this module."""
    fraction = np.arange(1 << 16, dtype=np.uint32)
    cell = np.rint(exact_exp2()).astype(np.uint32)[fraction >> np.uint32(10)]
    mantissas = cell * (np.uint32(65536) - ((np.uint32(706) * (fraction & np.uint32(1023))) >> np.uint32(10)))
    mantissas.flags.writeable = False
    return mantissas


def weights(distance: NDArray[np.uint32], out: NDArray[np.uint32] | None = None) -> NDArray[np.uint32]:
    """exp(-distance / 65536) in units of 1 / WEIGHT_ONE.

    Args:
        distance: uint32 of any shape, in units of 2^-16 nats; every value is allowed.
        out: C-contiguous uint32 of that shape for the result, or None for a new array.

    Returns:
        uint32 of that shape. The error is at most one unit plus 5e-5 of the exact value; weights of neighbouring
        distances may be out of order by as much.
    """
    found = np.empty(distance.shape, np.uint32) if out is None else out
    flat, into = distance.reshape(-1), found.reshape(-1)
    for start in range(0, flat.size, PART_ELEMENTS):
        _weights(flat[start : start + PART_ELEMENTS], into[start : start + PART_ELEMENTS])
    return found


def _weights(distance: NDArray[np.uint32], out: NDArray[np.uint32]) -> None:
    scratch, shape = scratch_of_thread(), distance.shape
    d, part = scratch.array("tables.d", shape, np.uint32), scratch.array("tables.part", shape, np.uint32)
    index, near = scratch.array("tables.index", shape, np.intp), scratch.array("tables.near", shape, np.bool_)
    np.minimum(distance, np.uint32(FAR), out=d)
    octaves = out
    np.multiply(d, np.uint32(939), out=octaves)
    np.right_shift(d, np.uint32(3), out=part)
    np.subtract(octaves, part, out=octaves)
    np.right_shift(octaves, np.uint32(14), out=octaves)
    np.right_shift(d, np.uint32(1), out=part)
    np.add(d, part, out=part)
    np.subtract(part, octaves, out=octaves)
    np.bitwise_and(octaves, np.uint32(0xFFFF), out=index, casting="same_kind")
    np.take(_mantissas(), index, out=part, mode="wrap")
    np.right_shift(octaves, np.uint32(16), out=octaves)
    np.right_shift(part, octaves, out=out)
    np.less(d, np.uint32(FAR), out=near)
    np.multiply(out, near, out=out)


@cache
def _ln_table() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    level = np.rint(exact_ln()).astype(np.int64)
    return level[:-1], np.diff(level)


def log_ratio(sums: NDArray[np.uint64]) -> NDArray[np.int32]:
    """ln(sum / WEIGHT_ONE) in units of 2^-16 nats.

    Args:
        sums: uint64 of any shape, sums of weights, at least WEIGHT_ONE.

    Returns:
        int32 of that shape, at least 0 and exactly 0 for WEIGHT_ONE; within 2 units of the exact logarithm.
    """
    return logarithm(sums) - np.int32(LN_ONE)


@cache
def _ln_by_float_bits() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The logarithm at the start of each cell, and the next one's rise, by the upper 16 bits of a float32 of 1 or more.

    Two int32 arrays [2^15]; they hold the octaves of uint64, 0 .. 64.
    """
    level, rise = _ln_table()
    octaves = ((LN_OCTAVE * np.arange(65)) >> 6)[:, None] + level
    found = np.zeros((2, 256, LN_CELLS), np.int32)
    found[0, 127:192], found[1, 127:192] = octaves, rise
    found.flags.writeable = False
    return found[0].ravel(), found[1].ravel()


def logarithm(values: NDArray[np.uint64]) -> NDArray[np.int32]:
    """ln(values) in units of 2^-16 nats: int32 of the shape of ``values``, uint64, at least 1. See the module."""
    found = np.empty(values.shape, np.int32)
    flat, into = values.reshape(-1), found.reshape(-1)
    for start in range(0, flat.size, PART_ELEMENTS):
        _logarithm(flat[start : start + PART_ELEMENTS], into[start : start + PART_ELEMENTS])
    return found


def _logarithm(values: NDArray[np.uint64], out: NDArray[np.int32]) -> None:
    level, rise = _ln_by_float_bits()
    scratch, shape = scratch_of_thread(), values.shape
    bits, rest = scratch.array("tables.bits", shape, np.int32), scratch.array("tables.rest", shape, np.int32)
    cell = scratch.array("tables.index", shape, np.intp)
    np.copyto(bits.view(np.float32), values, casting="same_kind")
    np.right_shift(bits, np.int32(16), out=cell)
    np.bitwise_and(bits, np.int32(0xFFFF), out=rest)
    # Less than 2^9 * 2^16: it fits int32.
    np.take(rise, cell, out=bits, mode="wrap")
    np.multiply(rest, bits, out=rest)
    np.right_shift(rest, np.int32(16), out=rest)
    np.take(level, cell, out=bits, mode="wrap")
    np.add(rest, bits, out=out)


LN_ONE: Final = int(logarithm(np.array(WEIGHT_ONE, np.uint64)))
"""What the table gives for ln(WEIGHT_ONE), in units of 2^-16 nats."""


@cache
def packed_tables() -> NDArray[np.int32]:
    """All tables as the kernel reads them, int32 [TABLE_WORDS], read-only.

    First come the Gumbel words [sign, octave, part]: (level + GUMBEL_BIAS) << 11 | |rise|, where the rise is negative
    for sign 0 and positive for sign 1. Then come the 64 exponentials, then LN << 16 | rise. All are uint32 words viewed
    as int32.
    """
    gumbel = gumbel_table()
    level = (gumbel.level.astype(np.int64) + GUMBEL_BIAS).ravel()
    rise = np.abs(gumbel.rise.astype(np.int64)).ravel()
    ln, ln_rise = _ln_table()
    parts: list[NDArray[Any]] = [
        level << GUMBEL_RISE_BITS | rise,
        np.rint(exact_exp2()).astype(np.int64),
        ln << LN_RISE_BITS | ln_rise,
    ]
    packed = np.concatenate(parts).astype(np.uint32).view(np.int32)
    packed.flags.writeable = False
    return packed
