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

from smalti_kernels.impl.triton.parts import (
    ALIGNMENT,
    BF16,
    BITS_OF_ONE,
    BOUND_SLACK,
    BOUND_UNITS,
    ERROR_FORBIDDEN,
    ERROR_GUIDED,
    ERROR_INFINITE,
    ERROR_NAN,
    ERROR_RANGE,
    FARTHEST,
    FLAG_GUIDED,
    FLAG_LOGPROB,
    FORBIDDEN,
    LIMIT,
    NEVER,
    SAFE_BOUND,
    any_row,
    fixed_of,
    guided_of,
    gumbel_of,
    jit,
    log_ratio_of,
    noise_word,
    reach_of,
    row_key,
    single_of,
    tl,
    token_word,
    weight_of,
)


@jit
def _fixed_at(place, wanted, logits, uncond, guidance, degree, flags, LOGITS: tl.constexpr):
    """Scaled logits as integers, int32 [ROWS], of one element for each wanted row; read again from memory."""
    value = single_of(tl.load(logits + place, mask=wanted, other=0), LOGITS)
    if flags & FLAG_GUIDED:
        value = guided_of(value, single_of(tl.load(uncond + place, mask=wanted, other=0), LOGITS), guidance)
    return fixed_of(value * degree)


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
    if LOGITS == BF16:
        # Not as a filler of the load: Triton 3.7 packs two fillers of 16 bits into a word, and sign-extends the first.
        value = single_of(tl.load(logits + place, mask=read, other=0), LOGITS)
        value = tl.where(read, value, -float("inf"))
    else:
        value = single_of(tl.load(logits + place, mask=read, other=-float("inf")), LOGITS)
    if flags & FLAG_GUIDED:
        value = guided_of(value, single_of(tl.load(uncond + place, mask=read, other=0), LOGITS), guidance)
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
        # Twice: a row is first judged by its logits as they came (no flags: no guidance), then guided, which is scored.
        value = _chunk(logits, uncond, starts, inside, first, vocabulary, guidance, flags & 0, ROWS, SIZE, LOGITS)
        broken |= (value != value).to(tl.int32)
        most = tl.where(value > most, value, most)
        value = _chunk(logits, uncond, starts, inside, first, vocabulary, guidance, flags, ROWS, SIZE, LOGITS)
        guided_broken |= (value != value).to(tl.int32)
        guided_most = tl.where(value > guided_most, value, guided_most)
        fixed = fixed_of(value * degree[:, None])
        score = fixed + gumbel_of(noise_word(token_word(first + lane), key0[:, None], key1[:, None]), tables)
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
    words = token_word(lane)
    for group in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = group * ROWS + tl.arange(0, ROWS)
        inside = row < rows
        grid = tl.load(sample + row, mask=inside, other=0)
        place = tl.load(position + row, mask=inside, other=0)
        degree = tl.load(scale + grid)
        starts = row.to(tl.int64) * stride
        key0, key1 = row_key(seeds, grid, tl.load(step + row, mask=inside, other=0), place // width, place % width)

        # Fixed-point scores below `least` are cut off.
        least = tl.full([ROWS], NEVER, tl.int32)
        sound = inside
        if HELD:
            held = _chunk(logits, uncond, starts, inside, 0, vocabulary, guidance, flags, ROWS, HELD, LOGITS)
            greatest = tl.max(held, axis=1)
            # A sum is NaN if a term is: max passes over it, and what is cut off is not looked at again.
            total = tl.sum(held, axis=1)
            sound &= (tl.abs(greatest * degree) <= LIMIT) & (total == total)
            most = fixed_of(greatest * degree)
            # Differences of two int32 fit uint32, in which they wrap to the right value.
            distance = (most[:, None] - fixed_of(held * degree[:, None])).to(tl.uint32, bitcast=True)
            distance = tl.where(held == -float("inf"), FORBIDDEN, distance)
            top_k = tl.load(keep + 2 * grid)
            reach, whole = reach_of(distance, tables, top_k, tl.load(keep + 2 * grid + 1), HELD)
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
                fixed = fixed_of(value * degree[:, None])
                scaled = tl.where(fixed < least[:, None], -float("inf"), scaled)
            h = noise_word(words, (key0 + token_word(tl.full([ROWS], first, tl.int32)))[:, None], key1[:, None])
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
        while any_row(going):
            column = at + lane
            candidate = tl.min(tl.where(best == top[:, None], column, vocabulary), axis=1)
            fixed = _fixed_at(starts + candidate, going, logits, uncond, guidance, degree, flags, LOGITS)
            found = fixed + gumbel_of(noise_word(token_word(candidate), key0, key1), tables)
            better = going & ((found > score) | ((found == score) & (candidate < token)))
            score = tl.where(better, found, score)
            token = tl.where(better, candidate, token)
            reached = score.to(tl.float32) * BOUND_UNITS - (BITS_OF_ONE + BOUND_SLACK)
            best = tl.where(column == candidate[:, None], -float("inf"), best)
            top = tl.max(best, axis=1)
            going &= top >= reached
        # A lane's second bound was not kept: should it reach the best score, look again.
        again = inside & ~(sound & (tl.max(second, axis=1) < reached))
        if any_row(again):
            # A search keeps six values for each lane: fewer lanes, so that it needs no more registers than the rest.
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
            if HELD:
                highest = most
            else:
                peak = tl.full([ROWS, CHUNK], -float("inf"), tl.float32)
                for first in range(0, vocabulary, CHUNK):
                    value = _chunk(
                        logits, uncond, starts, inside, first, vocabulary, guidance, flags, ROWS, CHUNK, LOGITS
                    )
                    peak = tl.maximum(peak, value)
                highest = fixed_of(tl.max(peak, axis=1) * degree)
                mass = tl.zeros([ROWS, CHUNK], tl.uint64)
                for first in range(0, vocabulary, CHUNK):
                    value = _chunk(
                        logits, uncond, starts, inside, first, vocabulary, guidance, flags, ROWS, CHUNK, LOGITS
                    )
                    away = (highest[:, None] - fixed_of(value * degree[:, None])).to(tl.uint32, bitcast=True)
                    mass += tl.where(value == -float("inf"), 0, weight_of(away, tables)).to(tl.uint64)
                whole = tl.sum(mass, axis=1)
            fixed = _fixed_at(starts + token, drawn, logits, uncond, guidance, degree, flags, LOGITS)
            ratio = log_ratio_of(whole, tables)
            tl.store(logprob + row, tl.where(drawn, fixed - highest - ratio, 0), mask=inside)
