"""Find the token of the greatest score in each row; `reference` defines the score, and `scores` computes it.

Few tokens are scored. Two ways lead to the same tokens:

**Peaked rows**, as those of a trained network. The exact score of the token with the greatest logit comes first.
Another token can only reach it by a Gumbel of at least the difference. Tokens whose logits lie within the Gumbel of a
rare noise word of that score are near, and get their noise. Any other would need a noise word below the rare one; those
are few, and `tokens_below` finds them from the words. So no noise is computed for most tokens.

**All rows**: the noise of every token, and a cheap upper bound of its score. -ln(p) is at least the Gumbel
-ln(-ln(1 - p)), and the bits of a float32 are at most its logarithm: between powers of two they are a chord of it. So
the score, in the bound's units, is at most

    bound = logit * scale * BOUND_UNITS + bits(2^31) - bits(float32(noise >> 1))

The token with the row's greatest bound is scored exactly, then every token whose bound reaches that score.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from smalti_kernels.spec.inverse import tokens_below
from smalti_kernels.spec.noise import FRACTION_BITS, TOKEN_WEYL, gumbel, mix, token_noise, token_words
from smalti_kernels.spec.scratch import Scratch

Float32 = NDArray[np.float32]
UInt32 = NDArray[np.uint32]
Int32 = NDArray[np.int32]
Integers = NDArray[np.intp]
Refuse = Callable[[Integers], None]
"""Raises SamplingError for the first of some rows that has no answer."""

SCORE_LIMIT: Final = 1 << 30
"""Bound on `abs(logit * scale)`. It stands for 16384 nats, so adding the Gumbel cannot overflow int32."""

BOUND_UNITS: Final = float(1 << 23) / ((1 << FRACTION_BITS) * float(np.log(2.0)))
"""Units of a bound (2^-23 octaves, the spacing of float32's exponent bits) in a unit of a score (2^-16 nats)."""
BOUND_SLACK: Final = float(1 << 18)
"""2^-5 octaves, more than all rounding between a bound and a score. At scores of 16384 nats, float32 rounding uses half
of it; the table's Gumbel is within 6e-5 nats of the exact one."""
SAFE_BOUND: Final = 16128.0 * (1 << FRACTION_BITS) * BOUND_UNITS
"""If a row's greatest bound lies within +- this, the row has an answer and no token clamped at -2^30 can win."""

PEAKED_LIMIT: Final = np.float32(16064 << FRACTION_BITS)
"""If a row's greatest scaled logit lies within +- this, so does its greatest bound within +-SAFE_BOUND."""
PEAKED_SLACK: Final = 4096.0
"""2^-4 nats, more than all rounding between a scaled logit and the logit that is compared."""
PEAKED_VOCABULARY: Final = 2048
"""With fewer tokens, leaving some out costs more than it spares."""
PEAKED_SHARE: Final = 6
"""Rows are peaked where at most one token of so many is near."""

# Elements whose noise is computed at once: as many as stay in a core's cache, with all that is computed from them.
_PART_ELEMENTS: Final = 1 << 17
_NEVER: Final = np.int32(-(2**31))
# Zero exponent of the bound: bits(float32(noise >> 1)) of p = 1, that is of 2^31.
_BITS_OF_ONE: Final = float((127 + 31) << 23)


def best_tokens(values: Float32, scale: Float32, keys: UInt32, scratch: Scratch, refuse: Refuse) -> Int32:
    """The token of the greatest score of each row; the lowest wins a tie.

    Args:
        values: logits, float32 [rows, V], not written to; -inf forbids a token.
        scale: float32 [rows], 65536 / temperature.
        keys: row keys, uint32 [rows, 4].
        scratch: this thread's.
        refuse: called with rows that may have no answer; what it does not refuse is drawn.

    Returns:
        int32 [rows].
    """
    rows, vocabulary = values.shape
    if vocabulary >= PEAKED_VOCABULARY and rows:
        drawn = _of_peaked(values, scale, keys, scratch)
        if drawn is not None:
            return drawn
    drawn = np.empty(rows, np.int32)
    per_part = max(1, _PART_ELEMENTS // vocabulary)
    for start in range(0, rows, per_part):
        part = slice(start, min(start + per_part, rows))

        def refuse_here(some: Integers, before: int = start) -> None:
            refuse(some + before)

        drawn[part] = _of_any(values[part], scale[part], keys[part], scratch, refuse_here)
    return drawn


def scores(noise: UInt32, values: Float32, scale: Float32) -> Int32:
    """The exact scores, int32 [n], of tokens given by their noise words, logits and scales, all [n]."""
    score = np.empty(noise.shape, np.int32)
    gumbel(noise.copy(), out=score, scratch=np.empty_like(noise), index=np.empty(noise.shape, np.intp))
    score += fixed_point(values, scale)
    score[values == -np.inf] = _NEVER
    return score


def fixed_point(values: Float32, scale: Float32) -> Int32:
    """Scaled logits as integers in units of 2^-16 nats, clamped from below; non-finite values are checked elsewhere."""
    scaled = np.maximum(values * scale, np.float32(-SCORE_LIMIT))
    return np.rint(scaled, out=scaled).astype(np.int32)


@lru_cache(maxsize=16)
def _rare(vocabulary: int) -> tuple[int, int]:
    """The rare noise word, and the Gumbel that no word from there on exceeds.

    Each word below it costs a row about a fifth of a near token, and half as many words bring 0.7 nats more of these.
    """
    word = max(1, vocabulary // 8)
    found, given = np.empty(1, np.int32), np.array([word], np.uint32)
    gumbel(given, out=found, scratch=np.empty_like(given), index=np.empty(1, np.intp))
    return word, int(found[0])


def _of_peaked(values: Float32, scale: Float32, keys: UInt32, scratch: Scratch) -> Int32 | None:
    """The tokens of peaked rows, int32 [rows]; None where too many tokens are near, or a row may have no answer."""
    rows, vocabulary = values.shape
    which = np.arange(rows, dtype=np.intp)
    first = values.argmax(axis=1)
    greatest = values[which, first]
    if not bool((np.abs(greatest * scale) <= PEAKED_LIMIT).all()):
        return None
    rare, gumbel_of_rare = _rare(vocabulary)
    noise = first.astype(np.uint32)
    _noise(noise, keys[:, 0], keys[:, 1])
    lead = scores(noise, greatest, scale)
    least = ((lead - (gumbel_of_rare + PEAKED_SLACK)) / scale).astype(np.float32)
    cells = scratch.array("best.near", (-(-values.size // 8) * 8,), np.bool_)
    cells[values.size :] = False
    np.greater_equal(values, least[:, None], out=cells[: values.size].reshape(values.shape))
    count = int(np.count_nonzero(cells))
    if count * PEAKED_SHARE > values.size:
        return None
    near = _where(cells, count)
    starts = np.arange(0, values.size, vocabulary, dtype=np.intp)
    sizes = np.diff(np.searchsorted(near, starts), append=near.size)
    near_noise = near.astype(np.uint32)
    # The word of a token is its product with an odd number, modulo 2^32; that of the row's start is taken off its key.
    _noise(
        near_noise,
        np.repeat(keys[:, 0] - starts.astype(np.uint32) * TOKEN_WEYL, sizes),
        np.repeat(keys[:, 1], sizes),
    )
    units = scale * np.float32(BOUND_UNITS)
    bound = values.reshape(-1)[near] * (units[0] if (units == units[0]).all() else np.repeat(units, sizes))
    bound -= _lowered(near_noise, np.empty_like(near_noise), np.empty(near.shape, np.float32))
    likely = np.flatnonzero(bound >= np.repeat(_least_bound(lead), sizes))
    far_row, far, far_noise = tokens_below(
        keys,
        rare,
        vocabulary,
        out=scratch.array("best.words", (rows, rare), np.uint32),
        scratch=scratch.array("best.mixed", (rows, rare), np.uint32),
    )
    row, token = np.divmod(near[likely], vocabulary)
    row, token = np.concatenate((which, row, far_row)), np.concatenate((first, token, far))
    noise = np.concatenate((noise, near_noise[likely], far_noise))
    return _first_of_best(row, token, scores(noise, values[row, token], scale[row]), rows)


def _of_any(values: Float32, scale: Float32, keys: UInt32, scratch: Scratch, refuse: Refuse) -> Int32:
    """The tokens of some rows, int32 [rows]."""
    shape = count, vocabulary = values.shape
    noise, mixed = scratch.array("best.noise", shape, np.uint32), scratch.array("best.mixing", shape, np.uint32)
    bound = scratch.array("best.bound", shape, np.float32)
    token_noise(keys, _words(vocabulary), out=noise, scratch=mixed)
    lowered = _lowered(noise, mixed, bound)
    np.multiply(values, (scale * np.float32(BOUND_UNITS))[:, None], out=bound)
    np.subtract(bound, lowered, out=bound)

    which = np.arange(count, dtype=np.intp)
    first = bound.argmax(axis=1)
    greatest = bound[which, first] + np.float32(_BITS_OF_ONE)
    doubtful = ~(np.abs(greatest) <= SAFE_BOUND)
    least = _least_bound(scores(noise[which, first], values[which, first], scale))
    least[doubtful] = np.inf
    near = scratch.array("best.near", shape, np.bool_)
    np.greater_equal(bound, least[:, None], out=near)
    if bool(doubtful.any()):
        refuse(np.flatnonzero(doubtful))
        # The bound is not valid near the clamp, or where the scale overflows it: score every token.
        near[doubtful] = True
    found = np.flatnonzero(near)
    if found.size <= count:
        return first.astype(np.int32)
    row, token = np.divmod(found, vocabulary)
    return _first_of_best(row, token, scores(noise[row, token], values[row, token], scale[row]), count)


def _first_of_best(row: Integers, token: Integers, score: Int32, rows: int) -> Int32:
    """The token of the greatest score in each of the rows 0 .. rows - 1, the lowest if several have it."""
    order = np.lexsort((token, ~score, row))  # ~ reverses integers, and does not overflow
    return token[order[np.searchsorted(row[order], np.arange(rows))]].astype(np.int32)


def _lowered(noise: UInt32, scratch: UInt32, single: Float32) -> Float32:
    """bits(float32(noise >> 1)) as float32, of the shape of all three; `scratch` and `single` are overwritten."""
    np.right_shift(noise, np.uint32(1), out=scratch)
    np.copyto(single, scratch.view(np.int32))
    np.copyto(scratch.view(np.float32), single.view(np.int32))
    return scratch.view(np.float32)


def _least_bound(score: Int32) -> Float32:
    """The least bound of a token that may reach a score; float32 of the shape of `score`."""
    return (score * BOUND_UNITS - (_BITS_OF_ONE + BOUND_SLACK)).astype(np.float32)


def _noise(tokens: UInt32, first: UInt32, second: UInt32) -> None:
    """Turn tokens into their noise words, in place; `first` and `second` are words 0 and 1 of their rows' keys."""
    scratch = np.empty_like(tokens)
    np.multiply(tokens, TOKEN_WEYL, out=tokens)
    np.add(tokens, first, out=tokens)
    mix(tokens, scratch)
    np.bitwise_xor(tokens, second, out=tokens)
    mix(tokens, scratch)


def _where(cells: NDArray[np.bool_], count: int) -> Integers:
    """Indices of what is true in bool [8 * n], ascending; `count` things are."""
    if count * 8 > cells.size:
        return np.flatnonzero(cells)
    eights = cells.view(np.uint64)
    some = np.flatnonzero(eights != 0)
    inside = np.flatnonzero(eights[some].view(np.bool_))
    return (some << 3).take(inside >> 3) + (inside & 7)


@lru_cache(maxsize=4)
def _words(vocabulary: int) -> UInt32:
    words = token_words(vocabulary)
    words.flags.writeable = False
    return words
