"""Two kernels that do one part of a draw each, for `kernel_speed.py` to time: what no draw on that device can beat."""

from __future__ import annotations

import triton
import triton.language as tl

from smalti_kernels.impl.triton.parts import noise_word, token_word


@triton.jit
def read(logits, out, vocabulary, BLOCK: tl.constexpr):
    """Read each row once and keep its maximum."""
    row = tl.program_id(0)
    best = tl.full([BLOCK], -float("inf"), tl.float32)
    for first in range(0, vocabulary, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = column < vocabulary
        value = tl.load(logits + row.to(tl.int64) * vocabulary + column, mask=inside, other=-float("inf"))
        best = tl.maximum(best, value.to(tl.float32))
    tl.store(out + row, tl.max(best))


@triton.jit
def mix(out, vocabulary, BLOCK: tl.constexpr):
    """Make the noise word of every token and keep each row's greatest: the arithmetic a draw cannot do without."""
    row = tl.program_id(0)
    key = row.to(tl.uint32)
    best = tl.full([BLOCK], -float("inf"), tl.float32)
    for first in range(0, vocabulary, BLOCK):
        column = first + tl.arange(0, BLOCK)
        word = noise_word(token_word(column), key, key)
        best = tl.maximum(best, word.to(tl.float32))
    tl.store(out + row, tl.max(best))
