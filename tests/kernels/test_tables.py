"""Integer exponentials and logarithms: the formulas in Python integers, how close they are, and how they are packed."""

from __future__ import annotations

import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from smalti_kernels.spec import noise, tables


def specified_weight(d: int) -> int:
    """The weight from the module's description alone."""
    if d >= tables.FAR:
        return 0
    t = d + (d >> 1) - ((939 * d - (d >> 3)) >> 14)
    cell = round(65535 * 2 ** (-((t >> 10) % 64) / 64))
    return (cell * (65536 - ((706 * (t % 1024)) >> 10))) >> (t >> 16)


@given(st.integers(0, 2**32 - 1) | st.integers(0, tables.FAR + 10))
def test_weights_follow_the_specification(d):
    assert tables.weights(np.array([d], np.uint32)).tolist() == [specified_weight(d)]


def test_weights_are_close_to_the_exponential():
    d = np.arange(tables.FAR + 2, dtype=np.uint32)
    weight = tables.weights(d)
    exact = np.exp(d / -65536) * tables.WEIGHT_ONE
    assert weight[0] == tables.WEIGHT_ONE
    assert np.abs(weight - exact)[:-2].max() < tables.WEIGHT_ONE * 5e-5
    assert np.all(np.abs(weight - exact)[:-2] <= exact[:-2] * 5e-5 + 1)
    assert np.all(weight[-2:] == 0)
    assert weight[-3] > 0
    # The integer products stay within 32 bits: they would wrap, and the fit above would fail, otherwise.
    assert 939 * tables.FAR < 2**32


@given(st.integers(tables.WEIGHT_ONE, tables.WEIGHT_ONE << 20))
def test_logarithms_follow_the_specification(total):
    def ln(value: int) -> int:
        (bits,) = struct.unpack("<I", struct.pack("<f", np.float32(value)))
        part = bits >> 16 & 127
        level, after = (round(np.log1p(i / 128) * 65536) for i in (part, part + 1))
        return ((2907270 * ((bits >> 23) - 127)) >> 6) + level + (((after - level) * (bits & 0xFFFF)) >> 16)

    found = int(tables.log_ratio(np.array([total], np.uint64))[0])
    assert found == ln(total) - ln(tables.WEIGHT_ONE)
    assert abs(found - np.log(total / tables.WEIGHT_ONE) * 65536) < 2


def test_the_logarithm_of_one_is_zero_and_logarithms_rise():
    totals = np.unique((tables.WEIGHT_ONE * np.exp(np.linspace(0, 12, 20_000))).astype(np.uint64))
    assert tables.log_ratio(np.array([tables.WEIGHT_ONE], np.uint64)).tolist() == [0]
    assert np.all(np.diff(tables.log_ratio(totals)) >= 0)


def test_tables_do_not_hang_on_the_last_bits_of_libm():
    for exact in (tables.exact_exp2(), tables.exact_ln()):
        assert np.abs(np.abs(exact - np.rint(exact)) - 0.5).min() > 1e-3


def test_packed_tables_hold_what_they_say():
    words = tables.packed_tables().view(np.uint32).astype(np.int64)
    gumbel = noise.gumbel_table()
    assert words.shape == (tables.TABLE_WORDS,)
    cells = words[: tables.GUMBEL_WORDS].reshape(gumbel.level.shape)
    assert np.array_equal((cells >> 11) - tables.GUMBEL_BIAS, gumbel.level)
    assert np.array_equal((cells & 0x7FF) * np.array([-1, 1])[:, None, None], gumbel.rise)
    assert words[tables.EXP2_AT : tables.LN_AT].tolist() == [round(65535 * 2 ** (-j / 64)) for j in range(64)]
    ln = words[tables.LN_AT :]
    assert (ln >> 16).tolist() == [round(np.log1p(i / 128) * 65536) for i in range(128)]
    assert np.array_equal((ln >> 16) + (ln & 0xFFFF), np.append(ln[1:] >> 16, round(np.log(2) * 65536)))
