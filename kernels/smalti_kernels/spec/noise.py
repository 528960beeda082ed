"""Noise as a pure function of its coordinates: Philox row keys, a 32-bit mixer per token, a Gumbel in fixed point.

Nothing here keeps a state. The noise of a token is a function of (seed, stream, step, y, x, token), so any row can be
drawn alone, in any order and in any batch. Every operation is integer arithmetic modulo 2^32 except one conversion from
int32 to float32 (IEEE, round to nearest even), which only finds the leading bit of a word. No compiler can contract,
reassociate or approximate these operations, so other devices repeat them bit for bit::

    row key   k0 k1 k2 k3 = Philox4x32-10(counter = (x, y, step, stream), key = (seed mod 2^32, seed div 2^32))
    word      h = mix(mix(token * 0x9E3779B9 + k0) ^ k1)
    Gumbel    v = float32(int32(h | 1)), u = bits of v; sign, exponent and the 6 leading mantissa bits of u name a cell;
              g = LEVEL[cell] + ((RISE[cell] * (low 17 bits of u)) >> 17), in units of 2^-16

Source of Philox: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable
from functools import cache
from typing import Any, Final, NamedTuple, SupportsIndex, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smalti_kernels.errors import SamplingError

Seeds: TypeAlias = SupportsIndex | Iterable[SupportsIndex] | NDArray[np.integer[Any]]
"""Integers from 0 to 2^64 - 1: one, a sequence, or an array of any integer dtype."""

STREAM_START: Final = 0
"""Noise of a run's start tokens."""
STREAM_ORDER: Final = 1
"""Noise of the order in which positions are visited."""
STREAM_SUBSET: Final = 2
"""Noise that chooses the positions that a step redraws."""
STREAM_DRAW: Final = 3
"""Noise of the categorical draw."""
STREAM_LABEL: Final = 4
"""Noise of a label that the caller did not choose."""

FRACTION_BITS: Final = 16
"""Fractional bits of scores and of the fixed-point Gumbel."""
CELL_BITS: Final = 6
"""Mantissa bits that name a cell of the Gumbel table: 64 cells for each octave of the noise word."""
GUMBEL_SHA256: Final = "bd978b3dbc2539edda2d3178a760ea18a1c157f3890887d3ab384e7ff5f5be38"
"""sha256 of the table's LEVEL as little-endian int32. A change of the table changes the specification."""

_REST_BITS: Final = 23 - CELL_BITS
_OCTAVES: Final = 32
_WORD: Final = 1 << 32
_UINT32_MAX: Final = _WORD - 1
_UINT64_MAX: Final = (1 << 64) - 1

_PHILOX_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
_PHILOX_WEYL: Final = (0x9E3779B9, 0xBB67AE85)
_HALVES: Final = np.dtype([("low", "<u4"), ("high", "<u4")])
"""A product's two halves; it has eight bytes in the machine's order, and smalti runs on little-endian ones."""
TOKEN_WEYL: Final = np.uint32(0x9E3779B9)
"""A token times this is its word. Odd, so that tokens have different words."""
# lowbias32 with the constants of its revised search (bias 0.107). Both multipliers are odd, so it is a bijection.
MIX_FIRST: Final = np.uint32(0x21F0AAAD)
"""First multiplier of the mixer."""
MIX_SECOND: Final = np.uint32(0xD35A2D97)
"""Second multiplier of the mixer."""
_SHIFT_15: Final = np.uint32(15)
_SHIFT_16: Final = np.uint32(16)
_ONE: Final = np.uint32(1)


def as_seeds(seeds: Seeds) -> NDArray[np.uint64]:
    """Convert seeds to uint64 in the same shape.

    Python integers are converted exactly, even in a list that NumPy would turn into float64.

    Raises SamplingError when a seed is not an integer, or lies outside 0 .. 2^64 - 1.
    """
    if isinstance(seeds, np.ndarray):
        given = cast("NDArray[Any]", seeds)
        if given.dtype.kind == "u" or (given.dtype.kind == "i" and not (given.size and int(given.min()) < 0)):
            return given.astype(np.uint64)
    listed: NDArray[np.object_] = np.asarray(seeds, dtype=object)
    exact: list[int] = []
    for seed in listed.ravel().tolist():
        try:
            value = operator.index(seed)
        except TypeError:
            raise SamplingError(f"seeds must be integers from 0 to 2^64 - 1; got {seed!r}") from None
        if not 0 <= value <= _UINT64_MAX:
            raise SamplingError(f"seeds must be integers from 0 to 2^64 - 1; got {value}")
        exact.append(value)
    return np.array(exact, dtype=np.uint64).reshape(listed.shape)


def as_words(name: str, values: ArrayLike) -> NDArray[np.uint64]:
    """Widen integers from 0 to 2^32 - 1 to uint64, so that their products are exact.

    Raises SamplingError, which names the argument, when `values` are not integers or lie outside that range.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        if array.size:
            raise SamplingError(f"{name} must be integers from 0 to 2^32 - 1; got dtype {array.dtype}")
        array = array.astype(np.int64)
    if array.size and not (int(array.min()) >= 0 and int(array.max()) <= _UINT32_MAX):
        raise SamplingError(f"{name} must be from 0 to 2^32 - 1; got {int(array.min())} .. {int(array.max())}")
    return array.astype(np.uint64)


def philox4x32(counter: tuple[NDArray[np.uint64], ...], key: tuple[NDArray[np.uint64], ...]) -> NDArray[np.uint32]:
    """Philox4x32-10 (Salmon et al. 2011).

    Args:
        counter: four arrays of one shape [...], uint64, values below 2^32.
        key: two arrays of that shape, uint64, values below 2^32.

    Returns:
        The four output words, uint32 [..., 4].
    """
    # Words 0 and 2 are multiplied, words 1 and 3 are mixed in: each pair is one array, which halves the calls of NumPy.
    factors = np.array(_PHILOX_MULTIPLIERS, np.uint64).reshape(2, *(1,) * counter[0].ndim)
    weyl = np.array(_PHILOX_WEYL, np.uint32).reshape(factors.shape)
    rounds = np.arange(10, dtype=np.uint32).reshape(10, *(1,) * factors.ndim)
    multiplied = np.array(counter[0::2]).astype(np.uint32)
    mixed = np.array(counter[1::2]).astype(np.uint32)
    for key_of_round in np.array(key).astype(np.uint32) + rounds * weyl:
        product = np.multiply(multiplied, factors, dtype=np.uint64)
        halves = product.view(_HALVES)[::-1]
        multiplied = halves["high"] ^ mixed
        np.bitwise_xor(multiplied, key_of_round, out=multiplied)
        mixed = halves["low"]
    words = np.empty((*counter[0].shape, 4), np.uint32)
    words[..., 0], words[..., 1], words[..., 2], words[..., 3] = multiplied[0], mixed[0], multiplied[1], mixed[1]
    return words


def random_words(seeds: Seeds, *, stream: ArrayLike, step: ArrayLike, y: ArrayLike, x: ArrayLike) -> NDArray[np.uint32]:
    """Four uniform 32-bit words for each (seed, stream, step, y, x); the inputs broadcast against each other.

    The words are Philox4x32-10 (Salmon et al. 2011) of counter (x, y, step, stream) under key (low, high half of seed).
    They depend on nothing else: not on the batch, the order, or the device.

    Args:
        seeds: integers from 0 to 2^64 - 1.
        stream: one of the `STREAM_` constants; any integer below 2^32 works.
        step: index of the step in its run, 0 to 2^32 - 1.
        y: row of the token grid, 0 to 2^32 - 1.
        x: column of the token grid, 0 to 2^32 - 1.

    Returns:
        uint32 [..., 4], where [...] is the broadcast shape of the inputs.

    Raises SamplingError when an input is not an integer or is out of range, or when the shapes do not broadcast.
    """
    words = (as_words("x", x), as_words("y", y), as_words("step", step), as_words("stream", stream))
    try:
        key, *counter = np.broadcast_arrays(as_seeds(seeds), *words)
    except ValueError as error:
        raise SamplingError(f"seeds, stream, step, y and x must broadcast against each other: {error}") from None
    return philox4x32(tuple(counter), (key & np.uint64(_UINT32_MAX), key >> np.uint64(32)))


def token_words(count: int) -> NDArray[np.uint32]:
    """The mixer's input for tokens 0 .. count - 1: token * 0x9E3779B9 mod 2^32, uint32 [count]."""
    return np.arange(count, dtype=np.uint32) * TOKEN_WEYL


def mix(words: NDArray[np.uint32], scratch: NDArray[np.uint32]) -> None:
    """One round of the 32-bit mixer, in place: xor-shift 16, multiply, xor-shift 15, multiply, xor-shift 15.

    Args:
        words: uint32 of any shape, overwritten.
        scratch: uint32 of the same shape, overwritten.
    """
    np.right_shift(words, _SHIFT_16, out=scratch)
    np.bitwise_xor(words, scratch, out=words)
    np.multiply(words, MIX_FIRST, out=words)
    np.right_shift(words, _SHIFT_15, out=scratch)
    np.bitwise_xor(words, scratch, out=words)
    np.multiply(words, MIX_SECOND, out=words)
    np.right_shift(words, _SHIFT_15, out=scratch)
    np.bitwise_xor(words, scratch, out=words)


def token_noise(
    keys: NDArray[np.uint32], words: NDArray[np.uint32], *, out: NDArray[np.uint32], scratch: NDArray[np.uint32]
) -> None:
    """Noise bits of every token of some rows: mix(mix(token word + k0) ^ k1).

    Within a row, the map from token to noise is a bijection of 32-bit words, so two tokens never have the same bits.

    Args:
        keys: row keys, uint32 [rows, 4]; the first two words are used.
        words: `token_words(V)`, uint32 [V].
        out: uint32 [rows, V], overwritten with the noise.
        scratch: uint32 [rows, V], overwritten.
    """
    np.add(words, keys[:, 0:1], out=out)
    mix(out, scratch)
    np.bitwise_xor(out, keys[:, 1:2], out=out)
    mix(out, scratch)


class GumbelTable(NamedTuple):
    """Piecewise linear Gumbel quantiles, in units of 2^-16, for every cell of the noise word.

    A cell is (sign, octave, part): sign is the top bit of the noise, w = `abs(int32(noise | 1))`, octave is
    floor(log2 w), part is the next six bits of w, all three read from float32(w). With p = w / 2^32 the Gumbel is
    -ln(-log1p(-p)) for sign 0, where small p give large Gumbels, and -ln(-ln p) for sign 1; the two meet at p = 1/2.
    Both tails keep their relative precision.
    """

    level: NDArray[np.int32]
    """Value at the start of each cell, int32 [2, 32, 64]; octave 31 is the single point w = 2^31."""
    rise: NDArray[np.int32]
    """Level of the next cell less this level, int32 [2, 32, 64], so the quantile is continuous and monotone."""

    @property
    def sha256(self) -> str:
        """sha256 of `level` as little-endian int32 in C order (`rise` follows from it)."""
        return hashlib.sha256(self.level.astype("<i4").tobytes()).hexdigest()


def exact_levels() -> NDArray[np.float64]:
    """The Gumbel quantile at the start of every cell in units of 2^-16, before rounding: float64 [2, 32, 64].

    Every value is well conditioned: an error of a few units in the last place of log and log1p changes it by less than
    1e-8. None lies within 1e-4 of a half, so every libm rounds to the same table; a test measures that distance.
    """
    part = np.arange(1 << CELL_BITS) / (1 << CELL_BITS)
    w = np.ldexp(1.0 + part[None, :], np.arange(_OCTAVES)[:, None])
    # The greatest word is w = 2^31, reached by rounding to float32.
    p = np.minimum(w, 2.0**31) / _WORD
    exponentials = np.stack((-np.log1p(-p), -np.log(p)))
    return -np.log(exponentials) * (1 << FRACTION_BITS)


@cache
def gumbel_table() -> GumbelTable:
    """The table, built once per process; both arrays are read-only."""
    level = np.rint(exact_levels()).astype(np.int32)
    flat = level.reshape(2, -1)
    rise = np.diff(flat, axis=1, append=flat[:, -1:]).reshape(level.shape)
    level.flags.writeable = False
    rise.flags.writeable = False
    return GumbelTable(level, rise)


@cache
def _by_float_bits() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The table indexed by the leading 15 bits of a float32: two int32 arrays [2^15], levels and rises."""
    table = gumbel_table()
    spread: list[NDArray[np.int32]] = []
    for values in table:
        full = np.zeros((2, 256, 1 << CELL_BITS), np.int32)
        full[:, 127 : 127 + _OCTAVES] = values
        spread.append(full.ravel())
    return spread[0], spread[1]


def gumbel(
    noise: NDArray[np.uint32], *, out: NDArray[np.int32], scratch: NDArray[np.uint32], index: NDArray[np.intp]
) -> None:
    """Fixed-point standard Gumbel of each noise word, in units of 2^-16.

    Args:
        noise: uint32 of any shape, overwritten.
        out: int32 of that shape, overwritten with values from `GUMBEL_MIN` to `GUMBEL_MAX`.
        scratch: uint32 of that shape, overwritten.
        index: intp of that shape, overwritten.
    """
    level, rise = _by_float_bits()
    np.bitwise_or(noise, _ONE, out=noise)
    # One IEEE conversion from int32 to float32 yields sign, octave and leading bits, without count-leading-zeros.
    np.copyto(scratch.view(np.float32), noise.view(np.int32), casting="same_kind")
    np.right_shift(scratch, np.uint32(_REST_BITS), out=noise)
    np.copyto(index, noise, casting="same_kind")
    np.bitwise_and(scratch, np.uint32((1 << _REST_BITS) - 1), out=scratch)
    rest, rises = scratch.view(np.int32), noise.view(np.int32)
    # Every index is in range by construction; with mode "wrap", np.take writes to `out` without a copy.
    np.take(rise, index, out=rises, mode="wrap")
    np.multiply(rest, rises, out=rest)
    np.right_shift(rest, np.int32(_REST_BITS), out=rest)
    np.take(level, index, out=out, mode="wrap")
    np.add(out, rest, out=out)


GUMBEL_MIN: Final = int(gumbel_table().level.min())
"""Least fixed-point Gumbel, -ln(32 ln 2) * 65536: about -3.1 nats."""
GUMBEL_MAX: Final = int(gumbel_table().level.max())
"""Greatest fixed-point Gumbel, 32 ln 2 * 65536: about 22.2 nats, the tail that one draw in 2^31 reaches."""
