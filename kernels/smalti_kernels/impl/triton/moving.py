"""Small Triton kernels that move what is on the device: tokens from place to place, and logits into wider rows."""

# Triton's language has no types that a checker could follow: every operator on a tensor is resolved by its compiler.
# pyright: basic, reportInvalidTypeForm=false

from __future__ import annotations

from smalti_kernels.impl.triton.parts import jit, tl


@jit(do_not_specialize=["count", "filler"])
def smalti_move(source, target, take, put, count, filler, BLOCK: tl.constexpr):
    """Put elements of `source`, or a filler, at places of `target`: see `forms.MOVE`."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < count
    origin = tl.load(take + index, mask=inside, other=-1)
    place = tl.load(put + index, mask=inside, other=-1)
    value = tl.load(source + origin, mask=origin >= 0, other=0)
    tl.store(target + place, tl.where(origin >= 0, value, filler), mask=place >= 0)


@jit(do_not_specialize=["stride", "vocabulary"])
def smalti_widen(logits, wide, stride, vocabulary, CHUNK: tl.constexpr):
    """Copy one row of logits to a row that -inf fills up: see `forms.WIDEN`."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, CHUNK)
    for first in range(0, stride, CHUNK):
        column = first + lane
        value = tl.load(logits + row * vocabulary + column, mask=column < vocabulary, other=-float("inf"))
        tl.store(wide + row * stride + column, value, mask=column < stride)


@jit(do_not_specialize=["rows", "call"])
def smalti_note(errors, noted, rows, call, BLOCK: tl.constexpr):
    """Note the first row that has an error, unless one is noted already: see `forms.NOTE`."""
    lane = tl.arange(0, BLOCK)
    nowhere = 2147483647
    lowest = tl.full([BLOCK], nowhere, tl.int32)
    for first in range(0, rows, BLOCK):
        error = tl.load(errors + first + lane, mask=first + lane < rows, other=0)
        lowest = tl.minimum(lowest, tl.where(error != 0, first + lane, nowhere))
    row = tl.min(lowest, axis=0)
    if row != nowhere:  # noqa: SIM102 - memory is read only then
        if tl.load(noted) == 0:
            tl.store(noted + 1, row)
            tl.store(noted + 2, tl.load(errors + row))
            tl.store(noted, call)
