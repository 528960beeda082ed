"""The categorical draw, in NumPy. This file is the definition; every other implementation is tested against it.

Gumbel-max: argmax of logit / temperature + Gumbel is a draw from softmax(logit / temperature) (Gumbel 1954; Maddison,
Tarlow and Minka, "A* Sampling", 2014). Here both terms are integers in units of 2^-16, so that equal logits give equal
tokens on every device:

    logit    float16 is first converted, exactly, to float32
    guided   uncond + guidance * (logit - uncond): three separate float32 operations, never a fused multiply-add
    scale    float32(65536) / float32(temperature)
    score    int32(rint(max(guided * scale, -2^30))) + Gumbel(noise), round to nearest even
    token    the argmax of the score; the lowest index wins a tie; -inf is never drawn

A row whose greatest product lies beyond +-2^30 is an error: were it clamped too, noise alone would choose its token.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smalti_kernels.errors import SamplingError
from smalti_kernels.noise import (
    FRACTION_BITS,
    STREAM_DRAW,
    Seeds,
    as_seeds,
    as_words,
    gumbel,
    random_words,
    token_noise,
    token_words,
)

IMPLEMENTATIONS: Final = ("numpy",)
"""Values `impl` takes."""

SCORE_LIMIT: Final = 1 << 30
"""Bound on |logit * scale|, which is |logit / temperature| <= 16384 nats: adding the Gumbel cannot overflow int32."""

# Elements per block, 32 rows of 2048 tokens: a pass touches at most 768 KiB, so intermediates stay in a 1 MiB L2 cache.
_BLOCK_ELEMENTS: Final = 1 << 16
_NEVER: Final = np.int32(-(2**31))


class _Buffers:
    """Intermediates of one block, [rows, V] each, reused from block to block."""

    def __init__(self, rows: int, vocabulary: int) -> None:
        shape = (rows, vocabulary)
        self.noise = np.empty(shape, np.uint32)
        self.scratch = np.empty(shape, np.uint32)
        self.index = np.empty(shape, np.intp)
        self.score = np.empty(shape, np.int32)
        self.logits = np.empty(shape, np.float32)
        self.uncond = np.empty(shape, np.float32)

    def head(self, rows: int) -> _Buffers:
        """The first rows of every buffer, for the last block."""
        part = _Buffers(0, 0)
        part.noise, part.scratch, part.index = self.noise[:rows], self.scratch[:rows], self.index[:rows]
        part.score, part.logits, part.uncond = self.score[:rows], self.logits[:rows], self.uncond[:rows]
        return part


class _Rows(NamedTuple):
    """Where each row is and how it is drawn."""

    sample: NDArray[np.int64]
    position: NDArray[np.int64]
    step: NDArray[np.uint64]
    scale: NDArray[np.float32]

    def name(self, row: int) -> str:
        return f"row {row} (sample {self.sample[row]}, position {self.position[row]}, step {self.step[row]})"


def sample(
    logits: NDArray[np.float32] | NDArray[np.float16],
    tokens: NDArray[np.int32],
    *,
    sample: ArrayLike,
    position: ArrayLike,
    seeds: Seeds,
    step: ArrayLike,
    width: int,
    temperature: ArrayLike,
    uncond: NDArray[np.float32] | NDArray[np.float16] | None = None,
    guidance: float = 1.0,
    impl: str = "numpy",
) -> NDArray[np.int32]:
    """Draw one token per row of logits from softmax(logits / temperature) and put it into its grid.

    The draw is fixed-point Gumbel-max (see `smalti_kernels.reference`): a pure function of the row's logits and of
    (seed, step, y, x), so the same row gives the same token alone, in any batch, in any order.

    Args:
        logits: float32 or float16 [R, V], V >= 1, R may be 0. -inf forbids a token; NaN, +inf and a row that is all
            -inf are errors.
        tokens: int32 [N, L], the grids in raster order; not modified.
        sample: integers [R], the grid each row belongs to, 0 .. N - 1.
        position: integers [R], the raster index in that grid, 0 .. L - 1; y, x = divmod(position, width).
        seeds: integers [N] from 0 to 2^64 - 1, the seed of each grid.
        step: integer or integers [R], the index of the step in its run, 0 .. 2^32 - 1.
        width: columns of the grid; L is a multiple of it.
        temperature: float or floats [N], finite, > 0, rounded to float32. A row's greatest logit / temperature must
            lie within +-16384 nats; what lies below -16384 counts as -16384.
        uncond: unconditional logits, same shape and dtype as `logits`, or None for no guidance. A token that is -inf in
            `logits` stays forbidden whatever it is here.
        guidance: weight of classifier-free guidance, finite: uncond + guidance * (logits - uncond). Read only with
            `uncond`.
        impl: which implementation draws; "numpy" is the only one.

    Returns:
        A new int32 [N, L]: `tokens` with the R drawn tokens, each in 0 .. V - 1, in place.

    Raises:
        SamplingError: wrong dtype, shape or range, a (sample, position) that appears twice, or a row with no answer;
            for such a row the message names its index, sample, position and step.
    """
    if impl not in IMPLEMENTATIONS:
        raise SamplingError(f"impl must be one of {', '.join(IMPLEMENTATIONS)}; got {impl!r}")
    _check_logits("logits", logits)
    if tokens.dtype != np.int32 or tokens.ndim != 2:
        raise SamplingError(f"tokens must be int32 [N, L]; got {tokens.dtype} {list(tokens.shape)}")
    if uncond is not None:
        _check_logits("uncond", uncond)
        if uncond.shape != logits.shape or uncond.dtype != logits.dtype:
            raise SamplingError(
                f"uncond must be {logits.dtype} {list(logits.shape)} like logits; "
                f"got {uncond.dtype} {list(uncond.shape)}"
            )
        if not abs(guidance) <= float(np.finfo(np.float32).max):
            raise SamplingError(f"guidance must be finite in float32; got {guidance}")
    count, length = tokens.shape
    if width < 1 or length % width:
        raise SamplingError(f"width must be at least 1 and divide the grid's {length} positions; got {width}")
    seed = as_seeds(seeds)
    if seed.shape != (count,):
        raise SamplingError(f"seeds must be [{count}], one for each grid; got shape {list(seed.shape)}")

    rows = _place_rows(logits.shape[0], count, length, sample, position, step, temperature)
    y, x = np.divmod(rows.position, width)
    keys = random_words(seed[rows.sample], stream=STREAM_DRAW, step=rows.step, y=y, x=x)
    drawn = _draw(logits, uncond, np.float32(1.0 if uncond is None else guidance), rows, keys)

    result = tokens.copy()
    result[rows.sample, rows.position] = drawn
    return result


def _check_logits(name: str, logits: NDArray[Any]) -> None:
    if logits.dtype.name not in ("float32", "float16") or logits.ndim != 2 or logits.shape[1] < 1:
        raise SamplingError(
            f"{name} must be float32 or float16 [R, V] with V >= 1; got {logits.dtype} {list(logits.shape)}"
        )


def _row_indices(name: str, values: ArrayLike, rows: int, limit: int) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.shape != (rows,) or (rows and array.dtype.kind not in "iu"):
        raise SamplingError(
            f"{name} must be integers [{rows}], one for each row; got {array.dtype} {list(array.shape)}"
        )
    if rows and not (int(array.min()) >= 0 and int(array.max()) < limit):
        raise SamplingError(f"{name} must be from 0 to {limit - 1}; got {int(array.min())} .. {int(array.max())}")
    return array.astype(np.int64)


def _place_rows(
    rows: int, count: int, length: int, sample: ArrayLike, position: ArrayLike, step: ArrayLike, temperature: ArrayLike
) -> _Rows:
    samples = _row_indices("sample", sample, rows, count)
    positions = _row_indices("position", position, rows, length)
    places, first = np.unique(samples * length + positions, return_index=True)
    if places.size != rows:
        again = int(np.setdiff1d(np.arange(rows), first)[0])
        raise SamplingError(
            f"each (sample, position) may be drawn once per call; sample {samples[again]}, position {positions[again]} "
            f"comes again in row {again}"
        )
    steps = as_words("step", step)
    if steps.shape not in ((), (rows,)):
        raise SamplingError(f"step must be one integer or [{rows}], one for each row; got shape {list(steps.shape)}")

    given = np.asarray(temperature, dtype=np.float64)
    if given.shape not in ((), (count,)):
        raise SamplingError(f"temperature must be one number or [{count}], one for each grid; got {list(given.shape)}")
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        degrees = given.astype(np.float32)
        scale = np.float32(1 << FRACTION_BITS) / degrees
    allowed = np.isfinite(degrees) & (degrees > 0) & np.isfinite(scale)
    if not bool(np.all(allowed)):
        worst = float(given[~allowed].flat[0])
        raise SamplingError(f"temperature must be finite and greater than 0 (as float32, 1e-33 or more); got {worst}")
    scales = np.broadcast_to(scale, (count,)).astype(np.float32)
    return _Rows(samples, positions, np.broadcast_to(steps, (rows,)), scales[samples])


def _draw(
    logits: NDArray[Any], uncond: NDArray[Any] | None, guidance: np.float32, rows: _Rows, keys: NDArray[np.uint32]
) -> NDArray[np.int32]:
    """The tokens, int32 [R], block by block."""
    total, vocabulary = logits.shape
    drawn = np.empty(total, np.int32)
    per_block = max(1, min(total, _BLOCK_ELEMENTS // vocabulary))
    buffers = _Buffers(per_block, vocabulary)
    words = token_words(vocabulary)
    for start in range(0, total, per_block):
        block = slice(start, min(start + per_block, total))
        part = buffers.head(block.stop - start)
        token_noise(keys[block], words, out=part.noise, scratch=part.scratch)
        gumbel(part.noise, out=part.score, scratch=part.scratch, index=part.index)
        # What the Gumbel used is free again: the scaled logits take its place.
        _add_logits(logits[block], None if uncond is None else uncond[block], guidance, rows, start, part)
        drawn[block] = part.score.argmax(axis=1)
    return drawn


def _add_logits(
    logits: NDArray[Any],
    uncond: NDArray[Any] | None,
    guidance: np.float32,
    rows: _Rows,
    start: int,
    part: _Buffers,
) -> None:
    """Add the scaled logits of one block to its Gumbels, or raise for a row that has no answer."""
    scaled, rounded = part.scratch.view(np.float32), part.noise.view(np.int32)
    forbidden: NDArray[np.bool_] | None = None
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        values = logits
        if values.dtype != np.float32 or uncond is not None:
            values = part.logits
            np.copyto(values, logits)
        greatest = _check_rows(values, "logits", rows, start)
        if uncond is not None:
            np.copyto(part.uncond, uncond)
            _guide(values, part.uncond, guidance)
            greatest = _check_rows(values, "guided logits", rows, start)
        scale = rows.scale[start : start + len(values), None]
        best = greatest * scale[:, 0]
        np.multiply(values, scale, out=scaled)
        least = values.min(axis=1)
        if bool(np.any(least == -np.inf)):
            forbidden = values == -np.inf
        if bool(np.any(least * scale[:, 0] < -SCORE_LIMIT)):
            np.maximum(scaled, np.float32(-SCORE_LIMIT), out=scaled)
    beyond = np.flatnonzero(np.abs(best) > SCORE_LIMIT)
    if beyond.size:
        row = int(beyond[0])
        raise SamplingError(
            f"{rows.name(start + row)}: the greatest logit over temperature must lie within +-16384, "
            f"got {float(best[row]) / (1 << FRACTION_BITS):.6g}; raise the temperature or subtract each row's maximum"
        )
    np.rint(scaled, out=scaled)
    np.copyto(rounded, scaled, casting="unsafe")
    np.add(part.score, rounded, out=part.score)
    if forbidden is not None:
        np.copyto(part.score, _NEVER, where=forbidden)


def _guide(logits: NDArray[np.float32], uncond: NDArray[np.float32], guidance: np.float32) -> None:
    """Guidance in place of `logits`: uncond + guidance * (logits - uncond), each operation rounded to float32."""
    forbidden = logits == -np.inf
    np.subtract(logits, uncond, out=logits)
    np.multiply(logits, guidance, out=logits)
    np.add(uncond, logits, out=logits)
    # -inf less -inf is NaN, and a negative guidance would turn -inf into +inf: a forbidden token stays forbidden.
    if bool(forbidden.any()):
        np.copyto(logits, np.float32(-np.inf), where=forbidden)


def _check_rows(values: NDArray[np.float32], what: str, rows: _Rows, start: int) -> NDArray[np.float32]:
    """The greatest value of each row, float32 [rows], or an error for a row that is NaN, +inf or all -inf."""
    greatest = values.max(axis=1)
    broken = np.flatnonzero(~np.isfinite(greatest))
    if broken.size:
        row = int(broken[0])
        value = float(greatest[row])
        why = "contain NaN" if np.isnan(value) else "contain +inf" if value > 0 else "are all -inf"
        raise SamplingError(f"{rows.name(start + row)}: {what} {why}; no token can be drawn")
    return greatest
