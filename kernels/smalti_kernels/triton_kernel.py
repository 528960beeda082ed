"""The draw as a Triton kernel: the specification of `reference`, bit for bit, in one pass over the logits.

A program draws one group of rows after another, going through their logits chunk by chunk. It bounds every token's
score from above with nothing but the mixer, two conversions and two float operations, then scores exactly the few
tokens whose bound reaches the best score (`reference` does the same, and says why the bound holds). Only those look at
the Gumbel table. A row whose bounds are not sound (NaN, infinities, scores beside the limit) is searched again, every
token exactly. Truncation first finds its threshold with the row held in registers; log-probabilities read the row
again, which the cache still has.

All integer arithmetic wraps modulo 2^32 and no float operation may be fused: compile with `abi.COMPILE_OPTIONS`. There
are no atomics, and nothing depends on the number of programs or on the order in which they run.

Importing this file without Triton works, so that the package can be walked; drawing then does not.
"""

# Triton's language has no types that a checker could follow: every operator on a tensor is resolved by its compiler.
# pyright: basic, reportInvalidTypeForm=false

from __future__ import annotations

import importlib
from typing import Any

from smalti_kernels import abi, noise, reference, tables, truncation


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


@jit
def _row_key(seeds, grid, step, y, x):
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
def _mix(h):
    """One round of the 32-bit mixer of `noise.mix`."""
    h ^= h >> 16
    h *= 0x21F0AAAD
    h ^= h >> 15
    h *= 0xD35A2D97
    return h ^ (h >> 15)


@jit
def _noise(word, key0, key1):
    """Noise words, uint32, of token words."""
    return _mix(_mix(word + key0) ^ key1)


@jit
def _word(column):
    """What a token brings to the mixer, uint32, from its index as int32."""
    return column.to(tl.uint32, bitcast=True) * 0x9E3779B9


@jit
def _gumbel(h, tables):
    """Fixed-point Gumbels of noise words: the packed table's cell and its interpolation."""
    bits = (h | 1).to(tl.int32, bitcast=True).to(tl.float32).to(tl.uint32, bitcast=True)
    rising = bits >> 31
    cell = ((bits >> 17) & 0x3FFF) - 127 * 64 + (rising << 11)
    word = tl.load(tables + cell).to(tl.uint32, bitcast=True)
    rise = (word & 0x7FF).to(tl.int32)
    rise = tl.where(rising == 1, rise, -rise)
    return (word >> 11).to(tl.int32) - GUMBEL_BIAS + ((rise * (bits & 0x1FFFF).to(tl.int32)) >> 17)


@jit
def _fixed(scaled):
    """Scaled logits rounded to the nearest even integer, int32, after the clamp from below."""
    scaled = tl.maximum(scaled, -LIMIT)
    size = tl.abs(scaled)
    # From 2^23 on every float32 is an integer; below, adding and taking away 2^23 rounds as float32 does.
    size = tl.where(size < 8388608.0, (size + 8388608.0) - 8388608.0, size).to(tl.int32)
    return tl.where(scaled < 0, -size, size)


@jit
def _single(values, LOGITS: tl.constexpr):
    """Logits of any type as float32; bfloat16 comes as its bits."""
    if LOGITS == BF16:
        return (values.to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return values.to(tl.float32)


@jit
def _guided(logit, uncond, guidance):
    """Three float32 operations; an infinite logit stays as it is."""
    return tl.where(tl.abs(logit) == float("inf"), logit, uncond + guidance * (logit - uncond))


@jit
def _fixed_at(place, wanted, logits, uncond, guidance, degree, flags, LOGITS: tl.constexpr):
    """Scaled logits as integers, int32 [ROWS], of one element for each wanted row; read again from memory."""
    value = _single(tl.load(logits + place, mask=wanted, other=0), LOGITS)
    if flags & FLAG_GUIDED:
        value = _guided(value, _single(tl.load(uncond + place, mask=wanted, other=0), LOGITS), guidance)
    return _fixed(value * degree)


@jit
def _weights(distance, tables):
    """exp(-distance) as `tables.weights` has it, uint32."""
    d = tl.minimum(distance, FAR)
    t = d + (d >> 1) - ((d * 939 - (d >> 3)) >> 14)
    cell = tl.load(tables + EXP2_AT + ((t >> 10) & 63)).to(tl.uint32, bitcast=True)
    weight = (cell * (65536 - (((t & 1023) * 706) >> 10))) >> (t >> 16)
    return tl.where(distance < FAR, weight, 0)


@jit
def _log_ratio(total, tables):
    """ln(total / WEIGHT_ONE) in units of 2^-16 nats, int32, of a uint64."""
    bits = total.to(tl.float32).to(tl.int32, bitcast=True)
    word = tl.load(tables + LN_AT + ((bits >> 16) & 127)).to(tl.uint32, bitcast=True)
    level = (word >> 16).to(tl.int32) + (((word & 0xFFFF).to(tl.int32) * (bits & 0xFFFF)) >> 16)
    return ((((bits >> 23) - 127) * LN_OCTAVE) >> 6) + level - LN_ONE


@jit
def _mass(distance, weight, limit, tables, AGAIN: tl.constexpr):
    """Sum of each row's weights within a distance, uint64 [ROWS]; with AGAIN the weights are computed anew."""
    if AGAIN:
        weight = _weights(distance, tables)
    return tl.sum(tl.where(distance <= limit[:, None], weight, 0).to(tl.uint64), axis=1)


@jit
def _any(condition):
    """Whether a condition holds for any row, as a number."""
    return tl.max(condition.to(tl.int32), axis=0) > 0


@jit
def _reach(distance, tables, top_k, top_p, HELD: tl.constexpr):
    """Distance within which each row's tokens are kept, uint32 [ROWS]: by bisection, what `truncation` finds."""
    # Where a thread holds 32 tokens, registers for their weights too would not be enough on every device.
    AGAIN: tl.constexpr = HELD > 8192
    weight = distance
    if not AGAIN:
        weight = _weights(distance, tables)
    zero = (top_k - top_k).to(tl.uint32)
    low, reach = zero, zero + FARTHEST
    going = top_k > 0
    while _any(going):
        middle = low + ((reach - low) >> 1)
        count = tl.sum((distance <= middle[:, None]).to(tl.int32), axis=1)
        enough = count >= top_k
        low = tl.where(going & ~enough, middle + 1, low)
        reach = tl.where(going & enough, middle, reach)
        going &= (low < reach) & (count != top_k)

    total = _mass(distance, weight, reach, tables, AGAIN)
    need = (total * top_p.to(tl.uint64)) >> P_BITS
    low, near = zero, tl.minimum(reach, FAR)
    going = top_p < P_ONE
    while _any(going):
        middle = low + ((near - low) >> 1)
        mass = _mass(distance, weight, middle, tables, AGAIN)
        enough = mass >= need
        low = tl.where(going & ~enough, middle + 1, low)
        near = tl.where(going & enough, middle, near)
        going &= (low < near) & (mass != need)
    return tl.where(top_p < P_ONE, near, reach)


@jit
def _chunk(
    logits,
    uncond,
    starts,
    inside,
    first,
    vocabulary,
    guidance,
    flags,
    ROWS: tl.constexpr,
    SIZE: tl.constexpr,
    LOGITS: tl.constexpr,
):
    """Guided logits [ROWS, SIZE] of columns first, first + 1, ...; -inf beyond the vocabulary, as in its last group."""
    lane = tl.arange(0, SIZE)[None, :]
    # Whole groups of 16 are read or not, so that reads stay wide; what rounds up the last one is -inf in memory.
    read = inside[:, None] & (first + lane // ALIGNMENT * ALIGNMENT < vocabulary)
    place = starts[:, None] + (first + lane)
    nothing: tl.constexpr = 0xFF80 if LOGITS == BF16 else -float("inf")
    value = _single(tl.load(logits + place, mask=read, other=nothing), LOGITS)
    if flags & FLAG_GUIDED:
        value = _guided(value, _single(tl.load(uncond + place, mask=read, other=0), LOGITS), guidance)
    return value


@jit
def _search(
    logits,
    uncond,
    tables,
    starts,
    inside,
    key0,
    key1,
    least,
    guidance,
    degree,
    vocabulary,
    flags,
    ROWS: tl.constexpr,
    SIZE: tl.constexpr,
    LOGITS: tl.constexpr,
):
    """Score every token exactly: each row's token, and why there is none (ERROR_ bits, 0 if there is one)."""
    lane = tl.arange(0, SIZE)[None, :]
    best = tl.full([ROWS, SIZE], NEVER, tl.int32)
    token = tl.zeros([ROWS, SIZE], tl.int32)
    broken, guided_broken = token, token
    most = tl.full([ROWS, SIZE], -float("inf"), tl.float32)
    guided_most = most
    for first in range(0, vocabulary, SIZE):
        value = _chunk(logits, uncond, starts, inside, first, vocabulary, guidance, flags & 0, ROWS, SIZE, LOGITS)
        broken |= (value != value).to(tl.int32)
        most = tl.where(value > most, value, most)
        value = _chunk(logits, uncond, starts, inside, first, vocabulary, guidance, flags, ROWS, SIZE, LOGITS)
        guided_broken |= (value != value).to(tl.int32)
        guided_most = tl.where(value > guided_most, value, guided_most)
        fixed = _fixed(value * degree[:, None])
        score = fixed + _gumbel(_noise(_word(first + lane), key0[:, None], key1[:, None]), tables)
        score = tl.where((value == -float("inf")) | (fixed < least[:, None]), NEVER, score)
        better = score > best
        best = tl.where(better, score, best)
        token = tl.where(better, first + lane, token)
    token = tl.min(tl.where(best == tl.max(best, axis=1)[:, None], token, vocabulary), axis=1)
    greatest, guided_greatest = tl.max(most, axis=1), tl.max(guided_most, axis=1)
    error = tl.where(tl.abs(guided_greatest * degree) <= LIMIT, 0, ERROR_RANGE)
    error = tl.where(guided_greatest == -float("inf"), ERROR_FORBIDDEN | ERROR_GUIDED, error)
    error = tl.where(guided_greatest == float("inf"), ERROR_INFINITE | ERROR_GUIDED, error)
    error = tl.where(tl.max(guided_broken, axis=1) > 0, ERROR_NAN | ERROR_GUIDED, error)
    error = tl.where(greatest == -float("inf"), ERROR_FORBIDDEN, error)
    error = tl.where(greatest == float("inf"), ERROR_INFINITE, error)
    return token, tl.where(tl.max(broken, axis=1) > 0, ERROR_NAN, error)


@jit(do_not_specialize=["guidance", "rows", "vocabulary", "length", "width", "flags"])
def smalti_sample(
    logits,
    uncond,
    tokens,
    sample,
    position,
    step,
    seeds,
    scale,
    keep,
    tables,
    changed,
    logprob,
    errors,
    guidance,
    rows,
    vocabulary,
    stride,
    length,
    width,
    flags,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    HELD: tl.constexpr,
    LOGITS: tl.constexpr,
):
    """Draw rows in groups of ROWS, one group for each turn of each program: see `abi.ARGUMENTS`."""
    lane = tl.arange(0, CHUNK)[None, :]
    words = _word(lane)
    for group in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = group * ROWS + tl.arange(0, ROWS)
        inside = row < rows
        grid = tl.load(sample + row, mask=inside, other=0)
        place = tl.load(position + row, mask=inside, other=0)
        degree = tl.load(scale + grid)
        starts = row.to(tl.int64) * stride
        key0, key1 = _row_key(seeds, grid, tl.load(step + row, mask=inside, other=0), place // width, place % width)

        # Fixed-point scores below `least` are cut off.
        least = tl.full([ROWS], NEVER, tl.int32)
        sound = inside
        if HELD:
            held = _chunk(logits, uncond, starts, inside, 0, vocabulary, guidance, flags, ROWS, HELD, LOGITS)
            greatest = tl.max(held, axis=1)
            # A sum is NaN if a term is: max passes over it, and what is cut off is not looked at again.
            total = tl.sum(held, axis=1)
            sound &= (tl.abs(greatest * degree) <= LIMIT) & (total == total)
            most = _fixed(greatest * degree)
            # Differences of two int32 fit uint32, in which they wrap to the right value.
            distance = (most[:, None] - _fixed(held * degree[:, None])).to(tl.uint32, bitcast=True)
            distance = tl.where(held == -float("inf"), FORBIDDEN, distance)
            top_k = tl.load(keep + 2 * grid)
            reach = _reach(distance, tables, top_k, tl.load(keep + 2 * grid + 1), HELD)
            # Scores begin at -2^30: a lower threshold cuts nothing off, and might not fit int32.
            lowest = tl.maximum(most.to(tl.int64) - reach.to(tl.int64), -FARTHEST)
            least = tl.where(sound, lowest.to(tl.int32), least)

        # The greatest bound of every lane, where it is, and the second greatest.
        best = tl.full([ROWS, CHUNK], -float("inf"), tl.float32)
        second, check = best, tl.zeros([ROWS, CHUNK], tl.float32)
        at = tl.zeros([ROWS, CHUNK], tl.int32)
        for first in range(0, vocabulary, CHUNK):
            value = _chunk(logits, uncond, starts, inside, first, vocabulary, guidance, flags, ROWS, CHUNK, LOGITS)
            scaled = value * (degree * BOUND_UNITS)[:, None]
            if HELD:
                fixed = _fixed(value * degree[:, None])
                scaled = tl.where(fixed < least[:, None], -float("inf"), scaled)
            h = _noise(words, (key0 + _word(tl.full([ROWS], first, tl.int32)))[:, None], key1[:, None])
            bound = scaled - h.to(tl.float32).to(tl.int32, bitcast=True).to(tl.float32)
            check += bound
            better = bound > best
            second = tl.maximum(second, tl.minimum(best, bound))
            at = tl.where(better, first, at)
            best = tl.where(better, bound, best)

        top = tl.max(best, axis=1)
        # A sum is NaN if a term is: max passes over it.
        total = tl.sum(check, axis=1)
        sound &= (tl.abs(top + BITS_OF_ONE) <= SAFE_BOUND) & (total == total)
        token = tl.zeros([ROWS], tl.int32)
        error = tl.zeros([ROWS], tl.int32)
        score = tl.full([ROWS], NEVER, tl.int32)
        reached = tl.full([ROWS], -float("inf"), tl.float32)
        # Down from the greatest bound, until no bound left reaches the best score.
        going = sound
        while _any(going):
            column = at + lane
            candidate = tl.min(tl.where(best == top[:, None], column, vocabulary), axis=1)
            fixed = _fixed_at(starts + candidate, going, logits, uncond, guidance, degree, flags, LOGITS)
            found = fixed + _gumbel(_noise(_word(candidate), key0, key1), tables)
            better = going & ((found > score) | ((found == score) & (candidate < token)))
            score = tl.where(better, found, score)
            token = tl.where(better, candidate, token)
            reached = score.to(tl.float32) * BOUND_UNITS - (BITS_OF_ONE + BOUND_SLACK)
            best = tl.where(column == candidate[:, None], -float("inf"), best)
            top = tl.max(best, axis=1)
            going &= top >= reached
        # A lane's second bound was not kept: should it reach the best score, look again.
        again = inside & ~(sound & (tl.max(second, axis=1) < reached))
        if _any(again):
            SIZE: tl.constexpr = CHUNK // 4
            other, reason = _search(
                logits,
                uncond,
                tables,
                starts,
                inside,
                key0,
                key1,
                least,
                guidance,
                degree,
                vocabulary,
                flags,
                ROWS,
                SIZE,
                LOGITS,
            )
            token, error = tl.where(again, other, token), tl.where(again, reason, error)

        cell = tokens + grid.to(tl.int64) * length + place
        before = tl.load(cell, mask=inside, other=0)
        drawn = inside & (error == 0)
        tl.store(cell, token, mask=drawn)
        tl.store(changed + row, (drawn & (token != before)).to(tl.int8), mask=inside)
        tl.store(errors + row, error, mask=inside)
        if flags & FLAG_LOGPROB:
            peak = tl.full([ROWS, CHUNK], -float("inf"), tl.float32)
            for first in range(0, vocabulary, CHUNK):
                value = _chunk(logits, uncond, starts, inside, first, vocabulary, guidance, flags, ROWS, CHUNK, LOGITS)
                peak = tl.maximum(peak, value)
            highest = _fixed(tl.max(peak, axis=1) * degree)
            mass = tl.zeros([ROWS, CHUNK], tl.uint64)
            for first in range(0, vocabulary, CHUNK):
                value = _chunk(logits, uncond, starts, inside, first, vocabulary, guidance, flags, ROWS, CHUNK, LOGITS)
                away = (highest[:, None] - _fixed(value * degree[:, None])).to(tl.uint32, bitcast=True)
                mass += tl.where(value == -float("inf"), 0, _weights(away, tables)).to(tl.uint64)
            fixed = _fixed_at(starts + token, drawn, logits, uncond, guidance, degree, flags, LOGITS)
            ratio = _log_ratio(tl.sum(mass, axis=1), tables)
            tl.store(logprob + row, tl.where(drawn, fixed - highest - ratio, 0), mask=inside)
