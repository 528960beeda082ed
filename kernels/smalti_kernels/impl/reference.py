"""The categorical draw in NumPy. This file is the definition; every other implementation is tested against it.

Gumbel-max: argmax of logit / temperature + Gumbel is a draw from softmax(logit / temperature) (Gumbel 1954; Maddison,
Tarlow and Minka, "A* Sampling", 2014). Here both terms are integers in units of 2^-16, so that equal logits give equal
tokens on every device:

    logit    float16 and bfloat16 are first converted, exactly, to float32
    guided   uncond + guidance * (logit - uncond): three separate float32 operations, never a fused multiply-add
    scale    float32(65536) / float32(temperature)
    fixed    int32(rint(max(guided * scale, -2^30))), round to nearest even
    kept     the tokens that `truncation` keeps, given fixed; -inf is never among them
    score    fixed + Gumbel(noise)
    token    the argmax of the score over the kept tokens; the lowest index wins a tie
    logprob  fixed of the token - max(fixed) - log(sum of weights(max(fixed) - fixed)) by `tables`, before truncation

A row whose greatest product lies beyond +-2^30 is an error: if it were clamped too, only noise would choose its token.

Most tokens are never scored: see `best`, whose `scores` defines the result.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smalti_kernels.checks import Draw, Request
from smalti_kernels.errors import SamplingError
from smalti_kernels.impl.best import (
    BOUND_SLACK,
    BOUND_UNITS,
    SAFE_BOUND,
    SCORE_LIMIT,
    best_tokens,
    fixed_point,
)
from smalti_kernels.spec.guidance import guide
from smalti_kernels.spec.noise import FRACTION_BITS, STREAM_DRAW, philox4x32
from smalti_kernels.spec.scratch import Scratch, scratch_of_thread
from smalti_kernels.spec.tables import log_ratio, weights
from smalti_kernels.spec.truncation import FORBIDDEN, reach_of_top_k, reach_of_top_p

__all__ = ["BOUND_SLACK", "BOUND_UNITS", "SAFE_BOUND", "SCORE_LIMIT", "draw", "explain", "widened"]

# Elements per block, and fewest per thread: 64 rows of 8192 tokens. Smaller blocks would stay in a cache, and cost
# more calls of NumPy. Each takes Python's lock, and threads would wait for it longer than one on a small block lasts.
_BLOCK_ELEMENTS: Final = 1 << 19


def draw(request: Request) -> Draw:
    """Draw a checked request on the CPU; see `smalti_kernels.sample`.

    Raises SamplingError when a row has no answer; the message names the first such row.
    """
    total, vocabulary = request.logits.shape
    keys = _keys(request)
    drawn = np.empty(total, np.int32)
    logprob = np.empty(total, np.int32) if request.logprob else None
    threads = max(1, min(request.threads, total * vocabulary // _BLOCK_ELEMENTS))
    per_block = max(1, min(-(-total // threads), _BLOCK_ELEMENTS // vocabulary))
    starts = iter(range(0, total, per_block))
    turn = threading.Lock()
    failures: list[tuple[int, SamplingError]] = []

    def next_start() -> int | None:
        with turn:
            return None if failures else next(starts, None)

    def work() -> None:
        block = _Block(request, scratch_of_thread())
        for start in iter(next_start, None):
            rows = slice(start, min(start + per_block, total))
            try:
                drawn[rows] = block.run(rows, keys[rows], None if logprob is None else logprob[rows])
            except SamplingError as error:
                failures.append((start, error))

    others = [_pool(os.getpid()).submit(work) for _ in range(1, threads)]
    work()
    for other in others:
        other.result()
    if failures:
        # Blocks start in order, so every block before the first failure has run, and the same row is always named.
        raise min(failures, key=lambda failure: failure[0])[1]
    before = request.tokens[request.sample, request.position]
    tokens = request.tokens.copy()
    tokens[request.sample, request.position] = drawn
    return Draw(tokens, drawn != before, logprob)


def _keys(request: Request) -> NDArray[np.uint32]:
    """Return the keys of the rows, uint32 [R, 4]: `random_words` of coordinates that are checked already."""
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    y, x = np.divmod(request.position.view(np.uint64), np.uint64(request.width))
    seeds, stream = request.seeds[request.sample], np.full_like(y, STREAM_DRAW)
    return philox4x32((x, y, request.step.astype(np.uint64), stream), (seeds & low, seeds >> half))


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads that stay from one draw to the next. A forked child has none of its parent's, and gets its own."""
    del process
    return ThreadPoolExecutor(os.cpu_count() or 1, "smalti-draw")


def explain(request: Request, row: int, logits: NDArray[Any], uncond: NDArray[Any] | None) -> str | None:
    """Why one row has no answer, as the error message of every implementation; None if it has an answer.

    Args:
        request: the request that the row belongs to; its logits are not read.
        row: index of the row.
        logits: that row's logits as the request has them (bfloat16 as uint16), [V].
        uncond: that row's unconditional logits, [V], or None.
    """
    single = widened(logits)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        reason = _unsound(single, "logits")
        if reason is None and uncond is not None:
            guide(single, widened(uncond), request.guidance)
            reason = _unsound(single, "guided logits")
        best = float(single.max() * request.scale[request.sample[row]])
    if reason is None and abs(best) > SCORE_LIMIT:
        reason = (
            f"the greatest logit over temperature must lie within +-16384, "
            f"got {best / (1 << FRACTION_BITS):.6g}; raise the temperature or subtract each row's maximum"
        )
    return None if reason is None else f"{request.name(row)}: {reason}"


def widened(logits: NDArray[Any]) -> NDArray[np.float32]:
    """A float32 copy of float32, float16 or bfloat16 (uint16 bits) logits of any shape."""
    if logits.dtype == np.uint16:
        return (logits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return logits.astype(np.float32)


def _unsound(values: NDArray[np.float32], what: str) -> str | None:
    greatest = float(values.max())
    if np.isfinite(greatest):
        return None
    why = "contain NaN" if np.isnan(greatest) else "contain +inf" if greatest > 0 else "are all -inf"
    return f"{what} {why}; no token can be drawn"


class _Block:
    """Draw a block of rows at a time."""

    def __init__(self, request: Request, scratch: Scratch) -> None:
        self.request = request
        self.scratch = scratch
        self.truncated = request.truncated

    def run(self, rows: slice, keys: NDArray[np.uint32], logprob: NDArray[np.int32] | None) -> NDArray[np.int32]:
        """Draw the tokens of some rows, int32 [rows]; also write their log-probabilities to `logprob` if given."""
        request = self.request
        scale = request.scale[request.sample[rows]]
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            values = self.load(rows)
            if not (self.truncated or request.logprob):
                return best_tokens(values, scale, keys, self.scratch, lambda some: self.refuse(rows, some))
            greatest = values.max(axis=1)
            self.refuse(rows, np.flatnonzero(~(np.abs(greatest * scale) <= SCORE_LIMIT)))
            fixed = fixed_point(values, scale[:, None])
            most = fixed_point(greatest, scale)
            # Wrapping subtraction is exact here: the difference of two int32 fits uint32.
            distance = most.view(np.uint32)[:, None] - fixed.view(np.uint32)
            np.copyto(distance, FORBIDDEN, where=values == -np.inf)
            weight = weights(distance)
            if self.truncated:
                values = np.where(distance <= self.reach(rows, distance, weight)[:, None], values, np.float32(-np.inf))
            tokens = best_tokens(values, scale, keys, self.scratch, lambda some: self.refuse(rows, some))
        if logprob is not None:
            of_token = np.take_along_axis(fixed, tokens[:, None], axis=1)[:, 0]
            np.subtract(of_token, most, out=logprob)
            logprob -= log_ratio(weight.sum(axis=1, dtype=np.uint64))
        return tokens

    def load(self, rows: slice) -> NDArray[np.float32]:
        """The logits of some rows as float32 [rows, V], with guidance applied; callers must not write to them."""
        request = self.request
        values = self.widen(request.logits[rows], "reference.values")
        if request.uncond is not None:
            if request.logits.dtype == np.float32:  # they are the caller's
                values = self.scratch.array("reference.values", values.shape, np.float32)
                np.copyto(values, request.logits[rows])
            guide(values, self.widen(request.uncond[rows], "reference.uncond"), request.guidance)
        return values

    def widen(self, logits: NDArray[Any], use: str) -> NDArray[np.float32]:
        """Logits [rows, V] as float32: returned as they are if float32, else converted into the array of some use."""
        if logits.dtype == np.float32:
            return logits
        out = self.scratch.array(use, logits.shape, np.float32)
        bits = out.view(np.int32)
        if logits.dtype == np.uint16:
            np.copyto(bits.view(np.uint32), logits)
            np.left_shift(bits, np.int32(16), out=bits)
            return out
        # NumPy converts float16 slowly. Instead, shift its bits into float32's places and multiply by 2^112: that is
        # exact, also for subnormals, except for infinities and NaN.
        short = logits.view(np.int16)
        if logits.size and (int(short.max()) >= 0x7C00 or int(short.view(np.uint16).max()) >= 0xFC00):
            np.copyto(out, logits)
            return out
        np.copyto(bits, short)
        np.left_shift(bits, np.int32(13), out=bits)
        np.bitwise_and(bits, np.int32(~0x70000000), out=bits)
        np.multiply(out, np.float32(2.0**112), out=out)
        return out

    def refuse(self, rows: slice, doubtful: NDArray[np.intp]) -> None:
        """Raise SamplingError for the first of `rows` that is `doubtful`, intp [n], and has no answer."""
        request = self.request
        for row in (rows.start + doubtful).tolist():
            uncond = None if request.uncond is None else request.uncond[row]
            reason = explain(request, row, request.logits[row], uncond)
            if reason is not None:
                raise SamplingError(reason)

    def reach(self, rows: slice, distance: NDArray[np.uint32], weight: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Distance up to which each row's tokens are kept, uint32 [rows]."""
        grid = self.request.sample[rows]
        reach = reach_of_top_k(distance, self.request.top_k[grid])
        return reach_of_top_p(distance, weight, reach, self.request.top_p[grid])
