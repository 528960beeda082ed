"""Top-k and top-p without sorting: find the distance below the greatest score up to which tokens are kept.

Both use the fixed-point scores before the noise, which are equal on every device, and keep a token by one comparison.
So tokens that tie with the last one kept are kept too:

    top-k    the least distance D such that at least k tokens lie within D
    top-p    the least distance D such that the tokens within D hold at least p of the weight that top-k left (Holtzman
             et al., "The Curious Case of Neural Text Degeneration", 2020); p is rounded to 2^-16, weights are those of
             `tables`

The kernel finds D by bisection. Here a histogram of the distance's upper bits finds the cell that contains D, and only
the few tokens of that cell are sorted. A row with fewer than k allowed tokens keeps them all.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from smalti_kernels.spec.tables import FAR

FORBIDDEN: Final = np.uint32(0xFFFFFFFF)
"""Distance of a token that is -inf: greater than that of any score."""
FARTHEST: Final = 1 << 31
"""Greatest distance of a token that may be drawn, because scores lie within +-2^30."""
P_BITS: Final = 16
"""Fractional bits of p."""
P_ONE: Final = 1 << P_BITS

_CELL_BITS: Final = np.uint32(12)
# Sixteen cells per nat; the last cell holds all distances whose weight is 0.
_CELLS: Final = (FAR >> 12) + 2


def reach_of_top_k(distance: NDArray[np.uint32], top_k: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Distance up to which the `top_k` nearest tokens of each row lie, ties included.

    Args:
        distance: uint32 [rows, V], 0 for each row's greatest score, FORBIDDEN for tokens that may not be drawn.
        top_k: int64 [rows], 0 for rows that keep everything.

    Returns:
        uint32 [rows], FARTHEST at most: tokens with distance <= reach are kept.
    """
    reach = np.full(len(distance), FARTHEST, np.uint32)
    rows = np.flatnonzero(top_k > 0)
    if rows.size:
        reach[rows] = _least(_some(distance, rows), None, top_k[rows])
    return reach


def reach_of_top_p(
    distance: NDArray[np.uint32], weight: NDArray[np.uint32], reach: NDArray[np.uint32], top_p: NDArray[np.int64]
) -> NDArray[np.uint32]:
    """Distance up to which the tokens of each row hold `top_p` of the weight within `reach`.

    Args:
        distance: uint32 [rows, V] as for `reach_of_top_k`.
        weight: uint32 [rows, V], `tables.weights(distance)`.
        reach: uint32 [rows], the result of `reach_of_top_k`.
        top_p: int64 [rows] in units of 2^-16, at least 1; P_ONE for rows that keep everything within `reach`.

    Returns:
        uint32 [rows], at most `reach`.
    """
    rows = np.flatnonzero(top_p < P_ONE)
    if not rows.size:
        return reach
    distance, weight = _some(distance, rows), _some(weight, rows)
    total = weight.sum(axis=1, dtype=np.int64, where=distance <= reach[rows, None])
    # Compute total * p >> 16 in two halves, because the whole product may not fit 64 bits.
    need = (total >> P_BITS) * top_p[rows] + (((total & (P_ONE - 1)) * top_p[rows]) >> P_BITS)
    found = reach.copy()
    found[rows] = _least(distance, weight, need)
    return found


def _some(values: NDArray[np.uint32], rows: NDArray[np.intp]) -> NDArray[np.uint32]:
    """Some rows of an array; a copy only if they are not all."""
    return values if rows.size == len(values) else values[rows]


def _least(
    distance: NDArray[np.uint32], weight: NDArray[np.uint32] | None, goal: NDArray[np.int64]
) -> NDArray[np.uint32]:
    """The least distance up to which the tokens of each row weigh `goal`; without weights, each token weighs 1.

    Sums are float64 and exact: whole numbers below 2^53 for up to 2^20 tokens.

    Returns:
        uint32 [rows]; FARTHEST where all drawable tokens together weigh less.
    """
    rows, vocabulary = distance.shape
    cell = np.minimum(distance >> _CELL_BITS, _CELLS - 1).astype(np.intp)
    which = np.arange(rows, dtype=np.int64)
    cell += which[:, None] * _CELLS
    sums = np.bincount(cell.ravel(), None if weight is None else weight.ravel(), rows * _CELLS).reshape(rows, _CELLS)
    running = np.zeros((rows, _CELLS + 1))
    np.cumsum(sums, axis=1, out=running[:, 1:])
    # The first cell at whose end the goal is met.
    crossing = np.minimum((running[:, 1:] < goal[:, None]).sum(axis=1), _CELLS - 1)
    near = np.flatnonzero(cell == (crossing + which * _CELLS)[:, None])
    row, far = near // vocabulary, distance.ravel()[near]
    order = np.lexsort((far, row))
    near, row, far = near[order], row[order], far[order]
    sums = np.cumsum(np.ones(near.size) if weight is None else weight.ravel()[near].astype(np.float64))
    # Each row's running sum starts from the weight of the cells before its own.
    first = np.searchsorted(row, which)
    start = np.concatenate(([0.0], sums))[first]
    met = np.flatnonzero(sums + (running[which, crossing] - start)[row] >= goal[row])
    found = np.full(rows, FARTHEST, np.uint32)
    # Assign in reverse, so that each row keeps its first match.
    found[row[met[::-1]]] = np.minimum(far[met[::-1]], np.uint32(FARTHEST))
    return found
