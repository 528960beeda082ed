"""Mixtures and posteriors of distributions in integer arithmetic, so that they are the same bits on every device.

The exponentials and logarithms are those of `tables`. With logits in fixed point as in the draw (2^-16 nats):

    share      (weights(max - fixed) << 31) / their sum: a probability in units of 2^-31, rounded down
    mixture    log of the sum of importance * share over the distributions
    posterior  log of (signal * share + noise), in which one token may be favoured by a number of nats

Logarithms come back as float32, exact multiples of 2^-16 nats. A token whose share is 0, that is less than 2^-31,
becomes -inf: no draw takes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smalti_kernels.spec.noise import FRACTION_BITS
from smalti_kernels.spec.scratch import PART_ELEMENTS, scratch_of_thread
from smalti_kernels.spec.tables import logarithm, weights
from smalti_kernels.spec.truncation import FORBIDDEN, P_ONE, reach_of_top_k, reach_of_top_p

UInt64 = NDArray[np.uint64]
Float32 = NDArray[np.float32]

SHARE_BITS: Final = 31
"""A share of 1 is 2^31 (a little less after rounding down)."""
IMPORTANCE_ONE: Final = 1 << 20
"""Full importance of a distribution in a mixture; 1 is a millionth of it. 8192 of them fit a sum of 64 bits."""
NEVER: Final = np.uint64(2**64 - 1)
"""Share of every token in a row that is no distribution: it has NaN, +inf, or nothing but -inf."""
_LEAST: Final = np.float32(-(1 << 30))


def shares(logits: NDArray[np.floating[Any]], temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> UInt64:
    """Softmax of logits / temperature in units of 2^-31, after truncation as in the draw.

    Args:
        logits: float32 or float16 [R, K].
        temperature: above 0.
        top_k: keep the k likeliest tokens, ties included; 0 keeps all.
        top_p: then keep the likeliest that together hold this share, ties included; 1 keeps all.

    Returns:
        uint64 [R, K]; NEVER in rows that are no distribution, or whose greatest logit over temperature lies beyond
        +-16384, as in the draw.
    """
    found = np.empty(logits.shape, np.uint64)
    scale = np.float32(1 << FRACTION_BITS) / np.float32(temperature)
    for part in _parts(logits.shape):
        _shares(logits[part], scale, top_k, top_p, found[part])
    return found


def _parts(shape: tuple[int, ...]) -> Iterator[slice]:
    """Cut rows [R, K] into parts."""
    rows, vocabulary = shape
    step = max(1, PART_ELEMENTS // max(1, vocabulary))
    return (slice(start, start + step) for start in range(0, rows, step))


def _shares(logits: NDArray[np.floating[Any]], scale: np.float32, top_k: int, top_p: float, out: UInt64) -> None:
    scratch, shape = scratch_of_thread(), logits.shape
    scaled = scratch.array("mixtures.scaled", shape, np.float32)
    fixed = scratch.array("mixtures.fixed", shape, np.int32)
    weight = scratch.array("mixtures.weight", shape, np.uint32)
    forbidden = scratch.array("mixtures.forbidden", shape, np.bool_)
    with np.errstate(invalid="ignore", over="ignore"):
        np.multiply(logits, scale, out=scaled)
        greatest = scaled.max(axis=1)
        broken = ~(np.abs(greatest) <= -_LEAST)
        if broken.any():
            scaled[broken] = 0
        np.maximum(scaled, _LEAST, out=scaled)
        np.rint(scaled, out=scaled)
        np.copyto(fixed, scaled, casting="unsafe")  # exact: whole numbers within +-2^30
    # Wrapping subtraction is exact here: the difference of two int32 fits uint32.
    distance = fixed.view(np.uint32)
    np.subtract(fixed.max(axis=1, keepdims=True).view(np.uint32), distance, out=distance)
    np.equal(logits, -np.inf, out=forbidden)
    np.copyto(distance, FORBIDDEN, where=forbidden)
    weights(distance, weight)
    if top_k or top_p < 1:
        rows = len(weight)
        reach = reach_of_top_k(distance, np.full(rows, top_k, np.int64))
        reach = reach_of_top_p(distance, weight, reach, np.full(rows, max(1, round(top_p * P_ONE)), np.int64))
        weight[distance > reach[:, None]] = 0
    whole = weight.sum(axis=1, dtype=np.uint64, keepdims=True)
    np.copyto(out, weight)
    np.left_shift(out, np.uint64(SHARE_BITS), out=out)
    np.floor_divide(out, np.maximum(whole, 1), out=out)
    if broken.any():
        out[broken] = NEVER


def add_shares(
    total: UInt64, broken: NDArray[np.bool_], rows: NDArray[np.intp], logits: NDArray[Any], importance: UInt64
) -> None:
    """Add the shares of distributions to rows of a mixture, each times its importance.

    Args:
        total: uint64 [N, K], added to.
        broken: bool [N], becomes True where a row is no distribution; that row's total means nothing then.
        rows: intp [R], the row of each distribution, none twice.
        logits: float32 or float16 [R, K].
        importance: uint64 [R], 1 .. IMPORTANCE_ONE.
    """
    for part in _parts(logits.shape):
        found = scratch_of_thread().array("mixtures.found", logits[part].shape, np.uint64)
        _shares(logits[part], np.float32(1 << FRACTION_BITS), 0, 1.0, found)
        broken[rows[part]] |= found[:, 0] == NEVER
        np.multiply(found, importance[part, None], out=found)
        for row, share in zip(rows[part].tolist(), found):  # an index of many rows would copy them twice
            np.add(total[row], share, out=total[row])


def mixture(total: UInt64, broken: NDArray[np.bool_]) -> Float32:
    """Logarithms of the probabilities in a mixture: float32 [R, K].

    ``total`` is uint64 [R, K], the sum of shares times their importance (1 .. IMPORTANCE_ONE); ``broken`` bool [R]
    marks rows that become NaN.
    """
    logits = np.empty(total.shape, np.float32)
    for part in _parts(total.shape):
        _logits(total[part], total[part].sum(axis=1, dtype=np.uint64, keepdims=True), logits[part])
    logits[broken] = np.nan
    return logits


def posterior(clean: UInt64, tokens: NDArray[np.int32], signal: int, noise: int, favour: int) -> Float32:
    """Logarithm of signal * clean + noise, plus ``favour`` at one token of each row: float32 [R, K].

    ``clean`` is uint64 [R, K] of `shares`; ``tokens`` int32 [R] are those that are favoured, by ``favour`` in units of
    2^-16 nats. ``signal`` (0 .. 2^31) and ``noise`` (0 .. 2^62) are in units of 2^-31 and 2^-62. Rows that are no
    distribution become NaN.
    """
    broken, whole = clean[:, 0] == NEVER, np.array(1 << 2 * SHARE_BITS, np.uint64)
    logits = np.empty(clean.shape, np.float32)
    for part in _parts(clean.shape):
        chances = np.where(broken[part, None], 0, clean[part]) * np.uint64(signal) + np.uint64(noise)
        _logits(chances, whole, logits[part])
    logits[np.arange(len(tokens)), tokens] += np.float32(favour / (1 << FRACTION_BITS))
    logits[broken] = np.nan
    return logits


def _logits(sums: UInt64, whole: UInt64, out: Float32) -> None:
    """Logarithms of sums / whole: exact multiples of 2^-16 nats; -inf for 0."""
    scratch = scratch_of_thread()
    positive = scratch.array("mixtures.positive", sums.shape, np.uint64)
    ceiling = scratch.array("mixtures.scaled", sums.shape, np.float32)
    np.maximum(sums, 1, out=positive)
    np.subtract(logarithm(positive), logarithm(np.maximum(whole, 1)), out=out, dtype=np.float32)
    np.multiply(out, np.float32(1 / (1 << FRACTION_BITS)), out=out)
    # 0.5 * inf, and -0.5 * inf where a sum is 0. A masked assignment takes ten times as long.
    np.subtract(np.float32(0.5), sums == 0, out=ceiling)
    np.multiply(ceiling, np.float32(np.inf), out=ceiling)
    np.minimum(out, ceiling, out=out)
