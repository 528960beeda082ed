"""The pieces of the Triton kernel: noise, Gumbel, fixed-point scores, weights and the bisections of a truncation.

Each repeats, operation by operation, what `noise`, `tables`, `reference` and `truncation` define in NumPy, on values of
any shape (per row [ROWS], per token [ROWS, tokens]). Without Triton this file can be imported, but nothing in it works.
"""

# Triton's language has no types that a checker could follow: every operator on a tensor is resolved by its compiler.
# pyright: basic, reportInvalidTypeForm=false

from __future__ import annotations

import importlib
from typing import Any

from smalti_kernels.impl import abi, reference
from smalti_kernels.spec import mixtures, noise, tables, truncation


def _plain(function: Any = None, **_: Any) -> Any:
    """A decorator that leaves the function as it is."""
    return _plain if function is None else function


try:
    tl: Any = importlib.import_module("triton.language")
    jit: Any = importlib.import_module("triton").jit
    constant: Any = tl.constexpr
except ImportError:
    tl, jit, constant = None, _plain, _plain

FLAG_GUIDED = constant(abi.FLAG_GUIDED)
FLAG_TRUNCATED = constant(abi.FLAG_TRUNCATED)
FLAG_LOGPROB = constant(abi.FLAG_LOGPROB)
ERROR_NAN = constant(abi.ERROR_NAN)
ERROR_INFINITE = constant(abi.ERROR_INFINITE)
ERROR_FORBIDDEN = constant(abi.ERROR_FORBIDDEN)
ERROR_RANGE = constant(abi.ERROR_RANGE)
ERROR_GUIDED = constant(abi.ERROR_GUIDED)
BF16 = constant(abi.LOGITS.index("bf16"))
ALIGNMENT = constant(abi.ALIGNMENT)

STREAM_DRAW = constant(noise.STREAM_DRAW)
LIMIT = constant(float(reference.SCORE_LIMIT))
NEVER = constant(-(2**31))
BOUND_UNITS = constant(reference.BOUND_UNITS)
BOUND_SLACK = constant(reference.BOUND_SLACK)
SAFE_BOUND = constant(reference.SAFE_BOUND)
# bits(float32(2^32)): the noise word is converted whole here, where the reference halves it first.
BITS_OF_ONE = constant(float((127 + 32) << 23))

GUMBEL_BIAS = constant(tables.GUMBEL_BIAS)
EXP2_AT = constant(tables.EXP2_AT)
LN_AT = constant(tables.LN_AT)
LN_ONE = constant(tables.LN_ONE)
LN_OCTAVE = constant(tables.LN_OCTAVE)
FAR = constant(tables.FAR)
FORBIDDEN = constant(int(truncation.FORBIDDEN))
FARTHEST = constant(truncation.FARTHEST)
P_BITS = constant(truncation.P_BITS)
P_ONE = constant(truncation.P_ONE)
SHARE_BITS = constant(mixtures.SHARE_BITS)
UNIT = constant(1 / (1 << noise.FRACTION_BITS))


@jit
def row_key(seeds, grid, step, y, x):
    """First two words of Philox4x32-10 of counter (x, y, step, stream) under the grid's seed."""
    k0 = tl.load(seeds + 2 * grid).to(tl.uint32, bitcast=True)
    k1 = tl.load(seeds + 2 * grid + 1).to(tl.uint32, bitcast=True)
    c0, c1, c2 = x.to(tl.uint32), y.to(tl.uint32), step.to(tl.uint32, bitcast=True)
    c3 = (c2 ^ c2) + STREAM_DRAW
    for _ in tl.static_range(10):
        first = c0.to(tl.uint64) * 0xD2511F53
        second = c2.to(tl.uint64) * 0xCD9E8D57
        c0, c2 = (second >> 32).to(tl.uint32) ^ c1 ^ k0, (first >> 32).to(tl.uint32) ^ c3 ^ k1
        c1, c3 = second.to(tl.uint32), first.to(tl.uint32)
        k0 += 0x9E3779B9
        k1 += 0xBB67AE85
    return c0, c1


@jit
def mix_once(h):
    """One round of the 32-bit mixer of `noise.mix`."""
    h ^= h >> 16
    h *= 0x21F0AAAD
    h ^= h >> 15
    h *= 0xD35A2D97
    return h ^ (h >> 15)


@jit
def noise_word(word, key0, key1):
    """Noise words, uint32, of token words."""
    return mix_once(mix_once(word + key0) ^ key1)


@jit
def token_word(column):
    """What a token brings to the mixer, uint32, from its index as int32."""
    return column.to(tl.uint32, bitcast=True) * 0x9E3779B9


@jit
def gumbel_of(h, tables):
    """Fixed-point Gumbels of noise words: the packed table's cell and its interpolation."""
    bits = (h | 1).to(tl.int32, bitcast=True).to(tl.float32).to(tl.uint32, bitcast=True)
    rising = bits >> 31
    cell = ((bits >> 17) & 0x3FFF) - 127 * 64 + (rising << 11)
    word = tl.load(tables + cell).to(tl.uint32, bitcast=True)
    rise = (word & 0x7FF).to(tl.int32)
    rise = tl.where(rising == 1, rise, -rise)
    return (word >> 11).to(tl.int32) - GUMBEL_BIAS + ((rise * (bits & 0x1FFFF).to(tl.int32)) >> 17)


@jit
def fixed_of(scaled):
    """Scaled logits rounded to the nearest even integer, int32, after the clamp from below."""
    scaled = tl.maximum(scaled, -LIMIT)
    size = tl.abs(scaled)
    # From 2^23 on every float32 is an integer; below, adding and taking away 2^23 rounds as float32 does.
    size = tl.where(size < 8388608.0, (size + 8388608.0) - 8388608.0, size).to(tl.int32)
    return tl.where(scaled < 0, -size, size)


@jit
def single_of(values, LOGITS: tl.constexpr):
    """Logits of any type as float32; bfloat16 comes as its bits."""
    if LOGITS == BF16:
        return (values.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return values.to(tl.float32)


@jit
def guided_of(logit, uncond, guidance):
    """Three float32 operations; an infinite logit stays as it is."""
    return tl.where(tl.abs(logit) == float("inf"), logit, uncond + guidance * (logit - uncond))


@jit
def weight_of(distance, tables):
    """exp(-distance) as `tables.weights` has it, uint32."""
    d = tl.minimum(distance, FAR)
    t = d + (d >> 1) - ((d * 939 - (d >> 3)) >> 14)
    cell = tl.load(tables + EXP2_AT + ((t >> 10) & 63)).to(tl.uint32, bitcast=True)
    weight = (cell * (65536 - (((t & 1023) * 706) >> 10))) >> (t >> 16)
    return tl.where(distance < FAR, weight, 0)


@jit
def log_ratio_of(total, tables):
    """ln(total / WEIGHT_ONE) in units of 2^-16 nats, int32, of a uint64."""
    bits = total.to(tl.float32).to(tl.int32, bitcast=True)
    word = tl.load(tables + LN_AT + ((bits >> 16) & 127)).to(tl.uint32, bitcast=True)
    level = (word >> 16).to(tl.int32) + (((word & 0xFFFF).to(tl.int32) * (bits & 0xFFFF)) >> 16)
    return ((((bits >> 23) - 127) * LN_OCTAVE) >> 6) + level - LN_ONE


@jit
def any_row(condition):
    """Whether a condition holds for any row, as a number."""
    return tl.max(condition.to(tl.int32), axis=0) > 0


@jit
def reach_of(distance, tables, top_k, top_p, HELD: tl.constexpr):
    """The bisections of a row: the distance within which tokens are kept, and what all its tokens weigh."""
    # Where a thread holds 32 tokens, registers for their weights too would not do on every device.
    AGAIN: tl.constexpr = HELD > 8192
    zero = (top_k - top_k).to(tl.uint32)
    low, reach = zero, zero + FARTHEST
    going = top_k > 0
    while any_row(going):
        middle = low + ((reach - low) >> 1)
        count = tl.sum((distance <= middle[:, None]).to(tl.int32), axis=1)
        enough = count >= top_k
        low = tl.where(going & ~enough, middle + 1, low)
        reach = tl.where(going & enough, middle, reach)
        going &= (low < reach) & (count != top_k)

    # One loop, so that the sum is compiled once: first over all tokens, then over what top-k left, then for top-p.
    weight = weight_of(distance, tables)
    low, near, middle = zero, tl.minimum(reach, FAR), zero + FARTHEST
    whole, need = zero.to(tl.uint64), zero.to(tl.uint64)
    turn = tl.max(zero.to(tl.int32), axis=0)
    going = zero == 0
    while any_row(going):
        if AGAIN:
            # The turn never gets that far, but the compiler cannot know, and so cannot keep the weights instead.
            weight = weight_of(distance + (turn >> 30).to(tl.uint32), tables)
        mass = tl.sum(tl.where(distance <= middle[:, None], weight, 0).to(tl.uint64), axis=1)
        whole = tl.where(turn == 0, mass, whole)
        need = tl.where(turn == 1, (mass * top_p.to(tl.uint64)) >> P_BITS, need)
        enough = mass >= need
        low = tl.where(going & (turn > 1) & ~enough, middle + 1, low)
        near = tl.where(going & (turn > 1) & enough, middle, near)
        going &= (top_p < P_ONE) & ((turn < 2) | ((low < near) & (mass != need)))
        middle = tl.where(turn == 0, reach, low + ((near - low) >> 1))
        turn += 1
    return tl.where(top_p < P_ONE, near, reach), whole
