"""The arithmetic of `spec.mixtures` as Triton kernels: a program takes one row and goes through it chunk by chunk.

`smalti_mix` adds the shares of windows to a canvas, `smalti_mixture` turns the sums into logits, and `smalti_posterior`
turns a row of logits into what takes noise away. Each equals `spec.mixtures` bit for bit.
"""

# Triton's language has no types that a checker could follow: every operator on a tensor is resolved by its compiler.
# pyright: basic, reportInvalidTypeForm=false

from __future__ import annotations

from smalti_kernels.impl.triton.parts import (
    FLAG_GUIDED,
    FLAG_TRUNCATED,
    FORBIDDEN,
    LIMIT,
    SHARE_BITS,
    UNIT,
    fixed_of,
    guided_of,
    jit,
    log_ratio_of,
    reach_of,
    tl,
    weight_of,
)


@jit
def _values(logits, uncond, start, lane, vocabulary, guidance, flags):
    """Guided logits of one row at columns `lane` [1, SIZE], float32; -inf beyond the vocabulary."""
    inside = lane < vocabulary
    value = tl.load(logits + start + lane, mask=inside, other=-float("inf"))
    if flags & FLAG_GUIDED:
        value = guided_of(value, tl.load(uncond + start + lane, mask=inside, other=0), guidance)
    return value


@jit
def _distance(value, most, scale):
    """Distances below the fixed-point score `most`, uint32; FORBIDDEN where the logit is -inf."""
    distance = (most - fixed_of(value * scale)).to(tl.uint32, bitcast=True)
    return tl.where(value == -float("inf"), FORBIDDEN, distance)


@jit
def _greatest(logits, uncond, start, vocabulary, guidance, scale, flags, CHUNK: tl.constexpr):
    """The greatest fixed-point score of a row, int32, and whether the row is a distribution."""
    lane = tl.arange(0, CHUNK)[None, :]
    peak = tl.full([1, CHUNK], -float("inf"), tl.float32)
    check = tl.zeros([1, CHUNK], tl.int32)
    for first in range(0, vocabulary, CHUNK):
        value = _values(logits, uncond, start, first + lane, vocabulary, guidance, flags) * scale
        check |= (value != value).to(tl.int32)
        peak = tl.maximum(peak, value)
    greatest = tl.max(tl.max(peak, axis=1), axis=0)
    sound = (tl.abs(greatest) <= LIMIT) & (tl.max(tl.max(check, axis=1), axis=0) == 0)
    return fixed_of(tl.where(sound, greatest, 0.0)), sound


@jit
def _mass(logits, uncond, start, most, reach, tables, vocabulary, guidance, scale, flags, CHUNK: tl.constexpr):
    """The weights of all tokens within `reach` of the greatest, added up: uint64, at least 1."""
    lane = tl.arange(0, CHUNK)[None, :]
    mass = tl.zeros([1, CHUNK], tl.uint64)
    for first in range(0, vocabulary, CHUNK):
        value = _values(logits, uncond, start, first + lane, vocabulary, guidance, flags)
        distance = _distance(value, most, scale)
        mass += tl.where(distance <= reach, weight_of(distance, tables), 0).to(tl.uint64)
    whole = tl.sum(tl.sum(mass, axis=1), axis=0)
    return tl.where(whole == 0, whole + 1, whole)


@jit
def _share(value, most, reach, whole, scale, tables):
    """Shares of logits in units of 2^-31, uint64."""
    distance = _distance(value, most, scale)
    weight = tl.where(distance <= reach, weight_of(distance, tables), 0)
    return (weight.to(tl.uint64) << SHARE_BITS) // whole


@jit
def _logits_of(sums, whole, tables):
    """Logarithms of sums / whole as float32, exact multiples of 2^-16 nats; -inf for 0."""
    least = tl.where(sums == 0, sums + 1, sums)
    units = log_ratio_of(least, tables) - log_ratio_of(whole, tables)
    return tl.where(sums == 0, -float("inf"), units.to(tl.float32) * UNIT)


@jit(do_not_specialize=["stride", "vocabulary", "fresh"])
def smalti_mix(logits, begin, entry, importance, tables, total, broken, stride, vocabulary, fresh, CHUNK: tl.constexpr):
    """Add the shares of rows of logits, times their importance, to one row of sums: see `forms.MIX`."""
    row = tl.program_id(0)
    lane = tl.arange(0, CHUNK)[None, :]
    sums = total + row.to(tl.int64) * vocabulary
    flags = fresh & 0
    if fresh:
        for first in range(0, vocabulary, CHUNK):
            nothing = tl.zeros([1, CHUNK], tl.int64)
            tl.store(sums + first + lane, nothing, mask=first + lane < vocabulary)
        tl.store(broken + row, 0)
        tl.debug_barrier()
    for at in range(tl.load(begin + row), tl.load(begin + row + 1)):
        start = tl.load(entry + at).to(tl.int64) * stride
        weight = tl.load(importance + at).to(tl.uint64, bitcast=True)
        most, sound = _greatest(logits, logits, start, vocabulary, 1.0, 65536.0, flags, CHUNK)
        whole = _mass(logits, logits, start, most, FORBIDDEN, tables, vocabulary, 1.0, 65536.0, flags, CHUNK)
        if sound:
            for first in range(0, vocabulary, CHUNK):
                value = _values(logits, logits, start, first + lane, vocabulary, 1.0, flags)
                added = _share(value, most, FORBIDDEN, whole, 65536.0, tables) * weight
                before = tl.load(sums + first + lane, mask=first + lane < vocabulary, other=0)
                after = before + added.to(tl.int64, bitcast=True)
                tl.store(sums + first + lane, after, mask=first + lane < vocabulary)
        else:
            tl.store(broken + row, 1)
        tl.debug_barrier()


@jit(do_not_specialize=["stride", "vocabulary"])
def smalti_mixture(total, broken, tables, logits, stride, vocabulary, CHUNK: tl.constexpr):
    """Turn one row of sums into logits: see `forms.MIXTURE`."""
    row = tl.program_id(0)
    lane = tl.arange(0, CHUNK)[None, :]
    sums = total + row.to(tl.int64) * vocabulary
    whole = tl.zeros([1, CHUNK], tl.uint64)
    for first in range(0, vocabulary, CHUNK):
        whole += tl.load(sums + first + lane, mask=first + lane < vocabulary, other=0).to(tl.uint64, bitcast=True)
    everything = tl.sum(tl.sum(whole, axis=1), axis=0)
    everything = tl.where(everything == 0, everything + 1, everything)
    unsound = tl.load(broken + row) != 0
    for first in range(0, stride, CHUNK):
        column = first + lane
        part = tl.load(sums + column, mask=column < vocabulary, other=0).to(tl.uint64, bitcast=True)
        value = _logits_of(part, everything, tables)
        value = tl.where(unsound & (column < vocabulary), float("nan"), value)
        tl.store(logits + row.to(tl.int64) * stride + column, value, mask=column < stride)


@jit(do_not_specialize=["guidance", "scale", "signal", "noise", "favour", "stride", "vocabulary", "length", "flags"])
def smalti_posterior(
    logits,
    uncond,
    tokens,
    sample,
    position,
    tables,
    out,
    guidance,
    scale,
    signal,
    noise,
    favour,
    top_k,
    top_p,
    stride,
    vocabulary,
    length,
    flags,
    CHUNK: tl.constexpr,
    HELD: tl.constexpr,
):
    """Turn one row of logits into the logits of a posterior: see `forms.POSTERIOR`."""
    row = tl.program_id(0)
    lane = tl.arange(0, CHUNK)[None, :]
    start = row.to(tl.int64) * stride
    most, sound = _greatest(logits, uncond, start, vocabulary, guidance, scale, flags, CHUNK)
    reach = tl.zeros([1], tl.uint32) + FORBIDDEN
    if HELD:  # noqa: SIM102 - known when compiled, and the flags when launched
        if flags & FLAG_TRUNCATED:
            columns = tl.arange(0, HELD)[None, :]
            held = _values(logits, uncond, start, columns, vocabulary, guidance, flags)
            keep = tl.zeros([1], tl.int32)
            reach, _ = reach_of(_distance(held, most, scale), tables, keep + top_k, keep + top_p, HELD)
    bound = tl.max(reach.to(tl.int64), axis=0).to(tl.uint32)
    whole = _mass(logits, uncond, start, most, bound, tables, vocabulary, guidance, scale, flags, CHUNK)
    # 2^62, the whole of a probability in units of 2^-62.
    everything = (whole - whole) + 4611686018427387904
    grid, place = tl.load(sample + row), tl.load(position + row)
    favoured = tl.load(tokens + grid.to(tl.int64) * length + place)
    for first in range(0, stride, CHUNK):
        column = first + lane
        value = _values(logits, uncond, start, column, vocabulary, guidance, flags)
        share = _share(value, most, bound, whole, scale, tables)
        chance = share * signal.to(tl.uint64) + noise.to(tl.uint64)
        answer = _logits_of(chance, everything, tables)
        answer = tl.where(column == favoured, answer + favour.to(tl.float32) * UNIT, answer)
        answer = tl.where(sound, answer, float("nan"))
        answer = tl.where(column < vocabulary, answer, -float("inf"))
        tl.store(out + start + column, answer, mask=column < stride)
