"""Statistics that tests of draws share."""

from __future__ import annotations

import numpy as np


def chi_square_z(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """How far draws are from what they should follow, as a standard score: 3.7 stands for p = 1e-4.

    Pearson's chi-square, made nearly normal by Wilson and Hilferty's cube root. Cells expected under 20 times are
    pooled, and left out where even together they are rarer than that; a draw that cannot happen gives infinity.

    Args:
        counts: integers [K], draws in each cell.
        probabilities: floats [K] that sum to 1.
    """
    if counts[probabilities == 0].any():
        return float("inf")
    expected = probabilities * counts.sum()
    large = expected >= 20
    observed = np.append(counts[large], counts[~large].sum())
    expected = np.append(expected[large], expected[~large].sum())
    if expected[-1] < 20:
        observed, expected = observed[:-1], expected[:-1]
    freedom = expected.size - 1
    assert freedom > 0, "too few draws to judge"
    chi2 = ((observed - expected) ** 2 / expected).sum()
    return float(((chi2 / freedom) ** (1 / 3) - 1 + 2 / (9 * freedom)) / np.sqrt(2 / (9 * freedom)))
