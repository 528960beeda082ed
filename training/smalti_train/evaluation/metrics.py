"""Metrics on two sets of feature vectors, PSNR on pixels, use of codes. NumPy only; every function is pure."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from smalti.verification.comparison import decibels

Features = NDArray[np.floating[Any]]


def frechet_distance(a: Features, b: Features) -> float:
    """Frechet distance between Gaussians fitted to two sets of features, float [N, D] and [M, D] (Heusel et al. 2017).

    |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)). Below some tens of thousands of samples the figure is biased
    upwards, so compare only figures of equal N and M.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    mean_a, mean_b = a.mean(0), b.mean(0)
    # The trace of (S_a S_b)^(1/2) is the sum of the singular values of A B^T / (n m)^(1/2), with A, B the centred
    # samples. This needs no root of covariances, which are 1280 x 1280 and rank-deficient for small samples.
    root_a, root_b = ((part - part.mean(0)) / np.sqrt(len(part) - 1) for part in (a, b))
    root_a, root_b = (np.linalg.qr(part)[1] if len(part) > part.shape[1] else part for part in (root_a, root_b))
    singular = np.linalg.svd(root_a @ root_b.T, compute_uv=False)
    spread = np.square(root_a).sum() + np.square(root_b).sum() - 2 * singular.sum()
    return float(np.square(mean_a - mean_b).sum() + max(spread, 0.0))


def kernel_distance(a: Features, b: Features) -> float:
    """Squared maximum mean discrepancy under the cubic kernel (x.y / D + 1)^3, unbiased (Binkowski et al. 2018, KID).

    ``a`` float [N, D], ``b`` float [M, D], both N and M at least 2. Unlike the Frechet distance it is unbiased for any
    number of samples, and may be slightly negative.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)

    def kernel(x: Features, y: Features) -> Features:
        return (x @ y.T / x.shape[1] + 1) ** 3

    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel(a, a), kernel(b, b))]
    return float(sum(within) - 2 * kernel(a, b).mean())


class Prdc(NamedTuple):
    """Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020)."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: Features, generated: Features, k: int = 5) -> Prdc:
    """Compare float [N, D] with float [M, D]; each point has a ball that reaches its ``k``-th nearest neighbour.

    Precision: share of generated points inside a real ball. Recall: share of real points inside a generated ball.
    Density: mean number of real balls that hold a generated point, over k. Coverage: share of real balls that hold a
    generated point.
    """
    between = _distances(real, generated)
    real_reach, generated_reach = (_kth_neighbour(part, k) for part in (real, generated))
    inside = between < real_reach[:, None]
    return Prdc(
        precision=float(inside.any(0).mean()),
        recall=float((between < generated_reach[None]).any(1).mean()),
        density=float(inside.sum(0).mean() / k),
        coverage=float((between.min(1) < real_reach).mean()),
    )


def nearest(queries: Features, references: Features, count: int) -> NDArray[np.int64]:
    """Indices (int64 [N, count]) of the ``references`` nearest to each of N ``queries``, nearest first."""
    return np.argsort(_distances(queries, references), axis=1, kind="stable")[:, :count]


def _distances(a: Features, b: Features) -> Features:
    """Squared Euclidean distances, float64 [N, M]."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.maximum(np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T, 0)


def _kth_neighbour(points: Features, k: int) -> Features:
    distances = _distances(points, points)
    np.fill_diagonal(distances, np.inf)  # otherwise rounding may put a point's own distance above a duplicate's
    return np.partition(distances, k - 1, axis=1)[:, k - 1]


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Features:
    """Peak signal-to-noise ratio in dB of each pair of images, float64 [N], of uint8 [N, H, W, 3]."""
    return _decibels((a.astype(np.float32) - b).reshape(len(a), -1))


def edge_psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Features:
    """PSNR in dB of the differences between neighbouring pixels, downwards and rightwards; float64 [N].

    Blur changes PSNR little where most pixels are flat. Here only edges count: flat regions have no differences.
    """
    error = a.astype(np.float32) - b
    down, right = (np.diff(error, axis=axis).reshape(len(a), -1) for axis in (1, 2))
    return _decibels(np.concatenate([down, right], axis=1))


def _decibels(error: Features) -> Features:
    return decibels(np.square(error).mean(1, dtype=np.float64))


class CodeUse(NamedTuple):
    """How tokens use a codebook."""

    percent: float
    """Share of the codes that appear, 0 .. 100."""
    perplexity: float
    """Exponential of the entropy of the codes' frequencies: how many equally frequent codes have the same entropy."""


def code_use(uses: NDArray[np.integer[Any]]) -> CodeUse:
    """Use of a codebook whose codes appear ``uses`` times, integers [K] of which not all are 0."""
    frequencies = uses[uses > 0] / uses.sum()
    entropy = -(frequencies * np.log(frequencies)).sum()
    return CodeUse(percent=100 * float((uses > 0).mean()), perplexity=float(np.exp(entropy)))
