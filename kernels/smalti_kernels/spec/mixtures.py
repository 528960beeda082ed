"""Mixtures and posteriors of distributions in integer arithmetic, so that they are the same bits on every device.

The exponentials and logarithms are those of `tables`. With logits in fixed point as in the draw (2^-16 nats):

    share      (weights(max - fixed) << 31) / their sum: a probability in units of 2^-31, rounded down
    mixture    log of the sum of importance * share over the distributions
    posterior  log of (signal * share + noise), in which one token may be favoured by a number of nats

Logarithms come back as float32, exact multiples of 2^-16 nats. A token whose share is 0, that is less than 2^-31,
becomes -inf: no draw takes it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smalti_kernels.spec.noise import FRACTION_BITS
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
    values = logits.astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = values * (np.float32(1 << FRACTION_BITS) / np.float32(temperature))
        greatest = scaled.max(axis=1, keepdims=True)
        broken = ~(np.abs(greatest[:, 0]) <= -_LEAST)
        fixed = np.rint(np.maximum(np.where(broken[:, None], 0, scaled), _LEAST)).astype(np.int64)
    distance = np.minimum(fixed.max(axis=1, keepdims=True) - fixed, int(FORBIDDEN)).astype(np.uint32)
    distance[values == -np.inf] = FORBIDDEN
    weight = weights(distance)
    if top_k or top_p < 1:
        rows = len(weight)
        reach = reach_of_top_k(distance, np.full(rows, top_k, np.int64))
        reach = reach_of_top_p(distance, weight, reach, np.full(rows, max(1, round(top_p * P_ONE)), np.int64))
        weight[distance > reach[:, None]] = 0
    whole = weight.sum(axis=1, dtype=np.uint64, keepdims=True)
    found = (weight.astype(np.uint64) << np.uint64(SHARE_BITS)) // np.maximum(whole, 1)
    found[broken] = NEVER
    return found


def mixture(total: UInt64, broken: NDArray[np.bool_]) -> Float32:
    """Logarithms of the probabilities in a mixture: float32 [R, K].

    ``total`` is uint64 [R, K], the sum of shares times their importance (1 .. IMPORTANCE_ONE); ``broken`` bool [R]
    marks rows that become NaN.
    """
    logits = _logits(total, total.sum(axis=1, dtype=np.uint64, keepdims=True))
    logits[broken] = np.nan
    return logits


def posterior(clean: UInt64, tokens: NDArray[np.int32], signal: int, noise: int, favour: int) -> Float32:
    """Logarithm of signal * clean + noise, plus ``favour`` at one token of each row: float32 [R, K].

    ``clean`` is uint64 [R, K] of `shares`; ``tokens`` int32 [R] are those that are favoured, by ``favour`` in units of
    2^-16 nats. ``signal`` (0 .. 2^31) and ``noise`` (0 .. 2^62) are in units of 2^-31 and 2^-62. Rows that are no
    distribution become NaN.
    """
    broken = clean[:, 0] == NEVER
    chances = np.where(broken[:, None], 0, clean) * np.uint64(signal) + np.uint64(noise)
    logits = _logits(chances, np.array(1 << 2 * SHARE_BITS, np.uint64))
    logits[np.arange(len(tokens)), tokens] += np.float32(favour / (1 << FRACTION_BITS))
    logits[broken] = np.nan
    return logits


def _logits(sums: UInt64, whole: UInt64) -> Float32:
    """Logarithms of sums / whole: exact multiples of 2^-16 nats; -inf for 0."""
    units = logarithm(np.maximum(sums, 1)) - logarithm(np.maximum(whole, 1))
    logits = units.astype(np.float32) * np.float32(1 / (1 << FRACTION_BITS))
    logits[sums == 0] = -np.inf
    return logits
