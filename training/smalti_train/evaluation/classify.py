"""Linear classifiers on features: do pictures show their labels, and do they differ from real ones?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from smalti_train.data.tensors import from_numpy

Features = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Weights of the L2 penalty tried by :func:`told_apart`."""


@dataclass(frozen=True)
class LinearClassifier:
    """Multinomial logistic regression over standardised features."""

    mean: Features
    scale: Features
    weight: Features
    """float64 [D, C]."""
    bias: Features
    """float64 [C]."""

    def predict(self, features: Features) -> NDArray[np.int64]:
        """Return the likeliest class (int64 [N]) of ``features``, float [N, D]."""
        return (((features - self.mean) / self.scale) @ self.weight + self.bias).argmax(1)

    def accuracy(self, features: Features, labels: Labels) -> float:
        """Share of ``features`` (float [N, D]) whose predicted class is that of ``labels`` (integers [N])."""
        return float((self.predict(features) == labels).mean())


def fit(features: Features, labels: Labels, classes: int, l2: float = 1e-3, iterations: int = 100) -> LinearClassifier:
    """Fit ``features`` (float [N, D]) to ``labels`` (integers [N], 0 .. classes - 1) with L-BFGS on the whole set.

    The problem is convex and starts at zero, so the result depends only on the data. ``l2`` is the factor of half the
    weights' squared norm, added to the mean cross-entropy.
    """
    mean, scale = features.mean(0), features.std(0) + 1e-6
    x = from_numpy(((features - mean) / scale).astype(np.float64))
    y = from_numpy(labels.astype(np.int64))
    weight = torch.zeros(x.shape[1], classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weight + bias, y) + 0.5 * l2 * weight.square().sum()
        torch.autograd.backward(value)
        return value

    optimizer.step(loss)  # pyright: ignore[reportUnknownMemberType] - in part without types
    return LinearClassifier(mean, scale, weight.detach().numpy(), bias.detach().numpy())


def told_apart(real: Features, generated: Features, seed: int = 0) -> float:
    """Accuracy of a linear classifier that separates unseen ``real`` and ``generated`` features (float [N, D] each).

    It trains on one half and is tested on the other, then the other way round. The best of several penalties is taken,
    which favours the classifier. 0.5 is chance; a good generator comes near it.
    """
    count = min(len(real), len(generated))
    generator = np.random.default_rng(seed)
    order = [generator.permutation(len(part))[:count] for part in (real, generated)]
    folds = [
        np.concatenate([part[chosen[half::2]] for part, chosen in zip((real, generated), order, strict=True)])
        for half in (0, 1)
    ]
    sides = [np.repeat([0, 1], [len(range(half, count, 2))] * 2) for half in (0, 1)]

    def judged(l2: float) -> float:
        return float(np.mean([fit(folds[i], sides[i], 2, l2).accuracy(folds[1 - i], sides[1 - i]) for i in (0, 1)]))

    return max(judged(l2) for l2 in STRENGTHS)
