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

Most tokens are never scored. `_Block.draw` first computes a cheap upper bound of every score, then the exact scores of
only those tokens whose bound reaches the best exact score so far. `_Block.score` defines the result.
"""

from __future__ import annotations

import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smalti_kernels.checks import Draw, Request
from smalti_kernels.errors import SamplingError
from smalti_kernels.spec.guidance import guide
from smalti_kernels.spec.noise import FRACTION_BITS, STREAM_DRAW, gumbel, philox4x32, token_noise, token_words
from smalti_kernels.spec.tables import log_ratio, weights
from smalti_kernels.spec.truncation import FORBIDDEN, reach_of_top_k, reach_of_top_p

SCORE_LIMIT: Final = 1 << 30
"""Bound on `abs(logit * scale)`. It stands for 16384 nats, so adding the Gumbel cannot overflow int32."""

BOUND_UNITS: Final = float(1 << 23) / ((1 << FRACTION_BITS) * float(np.log(2.0)))
"""Units of a bound (2^-23 octaves, the spacing of float32's exponent bits) in a unit of a score (2^-16 nats)."""
BOUND_SLACK: Final = float(1 << 18)
"""2^-5 octaves, more than all rounding between a bound and a score. At scores of 16384 nats, float32 rounding uses half
of it; the table's Gumbel is within 6e-5 nats of the exact one."""
SAFE_BOUND: Final = 16128.0 * (1 << FRACTION_BITS) * BOUND_UNITS
"""If a row's greatest bound lies within +- this, the row has an answer and no token clamped at -2^30 can win."""

# Elements per block, and fewest per thread: 64 rows of 8192 tokens. Smaller blocks would stay in a cache, and cost
# more calls of NumPy. Each takes Python's lock, and threads would wait for it longer than one on a small block lasts.
_BLOCK_ELEMENTS: Final = 1 << 19
_NEVER: Final = np.int32(-(2**31))
_kept = threading.local()
# Zero exponent of the bound: bits(float32(noise >> 1)) of p = 1, that is of 2^31.
_BITS_OF_ONE: Final = float((127 + 31) << 23)


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
    words = _words(vocabulary)
    starts = iter(range(0, total, per_block))
    turn = threading.Lock()
    failures: list[tuple[int, SamplingError]] = []

    def next_start() -> int | None:
        with turn:
            return None if failures else next(starts, None)

    def work() -> None:
        block = _Block(request, words, per_block, _scratch_of_thread())
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


@lru_cache(maxsize=4)
def _words(vocabulary: int) -> NDArray[np.uint32]:
    words = token_words(vocabulary)
    words.flags.writeable = False
    return words


def _scratch_of_thread() -> dict[str, NDArray[Any]]:
    """Return this thread's arrays of its last draw, by their use: new memory for each draw costs a tenth of it."""
    return vars(_kept).setdefault("arrays", {})


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
    """Draw a block of rows at a time; intermediates, [rows, V] each, are reused for the next block."""

    def __init__(self, request: Request, words: NDArray[np.uint32], rows: int, kept: dict[str, NDArray[Any]]) -> None:
        shape = (rows, len(words))

        def array(use: str, dtype: type[np.generic], wanted: bool = True) -> NDArray[Any]:
            size = math.prod(shape) if wanted else 0
            if use not in kept or kept[use].size < size:
                kept[use] = np.empty(size, dtype)
            return kept[use][:size].reshape(shape if wanted else (0, 0))

        self.request = request
        self.words = words
        self.truncated = request.truncated
        self.noise = array("noise", np.uint32)
        self.scratch = array("scratch", np.uint32)
        self.bound = array("bound", np.float32)
        self.values = array("values", np.float32)
        self.uncond = array("uncond", np.float32, request.uncond is not None)
        self.near = array("near", np.bool_)

    def run(self, rows: slice, keys: NDArray[np.uint32], logprob: NDArray[np.int32] | None) -> NDArray[np.int32]:
        """Draw the tokens of some rows, int32 [rows]; also write their log-probabilities to `logprob` if given."""
        request = self.request
        scale = request.scale[request.sample[rows]]
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            values = self.load(rows)
            if not (self.truncated or request.logprob):
                return self.draw(rows, values, scale, keys)
            greatest = values.max(axis=1)
            self.refuse(rows, ~(np.abs(greatest * scale) <= SCORE_LIMIT))
            fixed = _fixed(values, scale[:, None])
            most = _fixed(greatest, scale)
            # Wrapping subtraction is exact here: the difference of two int32 fits uint32.
            distance = most.view(np.uint32)[:, None] - fixed.view(np.uint32)
            np.copyto(distance, FORBIDDEN, where=values == -np.inf)
            weight = weights(distance)
            if self.truncated:
                values = np.where(distance <= self.reach(rows, distance, weight)[:, None], values, np.float32(-np.inf))
            tokens = self.draw(rows, values, scale, keys)
        if logprob is not None:
            of_token = np.take_along_axis(fixed, tokens[:, None], axis=1)[:, 0]
            np.subtract(of_token, most, out=logprob)
            logprob -= log_ratio(weight.sum(axis=1, dtype=np.uint64))
        return tokens

    def load(self, rows: slice) -> NDArray[np.float32]:
        """The logits of some rows as float32 [rows, V], with guidance applied; callers must not write to them."""
        request = self.request
        values = self.widen(request.logits[rows], self.values)
        if request.uncond is not None:
            if request.logits.dtype == np.float32:  # they are the caller's
                values = self.values[: len(values)]
                np.copyto(values, request.logits[rows])
            guide(values, self.widen(request.uncond[rows], self.uncond), request.guidance)
        return values

    def widen(self, logits: NDArray[Any], out: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [rows, V] as float32: returned as they are if float32, else converted into `out`."""
        if logits.dtype == np.float32:
            return logits
        out = out[: len(logits)]
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

    def refuse(self, rows: slice, doubtful: NDArray[np.bool_]) -> None:
        """Raise SamplingError for the first of the `doubtful` rows, bool [rows], that has no answer."""
        request = self.request
        for row in (rows.start + np.flatnonzero(doubtful)).tolist():
            uncond = None if request.uncond is None else request.uncond[row]
            reason = explain(request, row, request.logits[row], uncond)
            if reason is not None:
                raise SamplingError(reason)

    def reach(self, rows: slice, distance: NDArray[np.uint32], weight: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Distance up to which each row's tokens are kept, uint32 [rows]."""
        grid = self.request.sample[rows]
        reach = reach_of_top_k(distance, self.request.top_k[grid])
        return reach_of_top_p(distance, weight, reach, self.request.top_p[grid])

    def draw(
        self, rows: slice, values: NDArray[np.float32], scale: NDArray[np.float32], keys: NDArray[np.uint32]
    ) -> NDArray[np.int32]:
        """Draw the token of each row from logits [rows, V], in which -inf forbids a token.

        -ln(p) is at least the Gumbel -ln(-ln(1 - p)), and the bits of a float32 are at most its logarithm: between
        powers of two they are a chord of it. So the score, in the bound's units, is at most

            bound = logit * scale * BOUND_UNITS + bits(2^31) - bits(float32(noise >> 1))

        The token with the row's greatest bound is scored exactly, then every token whose bound reaches that score.
        """
        count, vocabulary = values.shape
        noise, scratch, bound, near = self.noise[:count], self.scratch[:count], self.bound[:count], self.near[:count]
        token_noise(keys, self.words, out=noise, scratch=scratch)
        np.right_shift(noise, np.uint32(1), out=scratch)
        np.copyto(bound, scratch.view(np.int32))
        np.copyto(scratch.view(np.float32), bound.view(np.int32))
        np.multiply(values, (scale * np.float32(BOUND_UNITS))[:, None], out=bound)
        np.subtract(bound, scratch.view(np.float32), out=bound)

        which = np.arange(count, dtype=np.int64)
        first = bound.argmax(axis=1)
        greatest = bound[which, first] + np.float32(_BITS_OF_ONE)
        doubtful = ~(np.abs(greatest) <= SAFE_BOUND)
        score = self.score(noise[which, first], values[which, first], scale)
        least = (score * BOUND_UNITS - (_BITS_OF_ONE + BOUND_SLACK)).astype(np.float32)
        least[doubtful] = np.inf
        np.greater_equal(bound, least[:, None], out=near)
        if bool(doubtful.any()):
            self.refuse(rows, doubtful)
            # The bound is not valid near the clamp, or where the scale overflows it: score every token.
            near[doubtful] = True
        found = np.flatnonzero(near)
        if found.size > count:
            row, token = np.divmod(found, vocabulary)
            score = self.score(noise.ravel()[found], values.ravel()[found], scale[row])
            # A stable sort by row, then by descending score, puts the lowest index first among equal scores.
            order = np.lexsort((-score.astype(np.int64), row))
            first = token[order][np.searchsorted(row, which)]
        return first.astype(np.int32)

    def score(
        self, noise: NDArray[np.uint32], values: NDArray[np.float32], scale: NDArray[np.float32]
    ) -> NDArray[np.int32]:
        """The exact scores, int32 [n], of tokens given by their noise words, logits and scales, all [n]."""
        score = np.empty(noise.shape, np.int32)
        gumbel(noise.copy(), out=score, scratch=np.empty_like(noise), index=np.empty(noise.shape, np.intp))
        score += _fixed(values, scale)
        score[values == -np.inf] = _NEVER
        return score


def _fixed(values: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.int32]:
    """Scaled logits as integers in units of 2^-16 nats, clamped from below; non-finite values are checked elsewhere."""
    scaled = np.maximum(values * scale, np.float32(-SCORE_LIMIT))
    return np.rint(scaled, out=scaled).astype(np.int32)
