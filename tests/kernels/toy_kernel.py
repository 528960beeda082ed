"""Small kernels with one property each, for the tests of the compiler; imported only where Triton is."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def plain(source, target, count, BLOCK: tl.constexpr):
    """Doubles: loads, stores, and one multiplication."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(source + index, mask=index < count, other=0).to(tl.float32)
    tl.store(target + index, value * 2 + 1, mask=index < count)


@triton.jit
def summed(source, target, count, BLOCK: tl.constexpr):
    """A sum over warps: needs shared memory."""
    index = tl.arange(0, BLOCK)
    value = tl.load(source + index, mask=index < count, other=0)
    tl.store(target, tl.sum(value, 0))


@triton.jit
def fused(source, target, count, BLOCK: tl.constexpr):
    """An explicit fused multiply-add."""
    index = tl.arange(0, BLOCK)
    value = tl.load(source + index, mask=index < count, other=0).to(tl.float32)
    tl.store(target + index, tl.fma(value, value, value), mask=index < count)
