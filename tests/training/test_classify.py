"""Linear classifiers: right where right is possible, at chance where it is not, the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from smalti_train.evaluation.classify import fit, told_apart

RNG = np.random.default_rng


def blobs(seed: int, count: int, classes: int, apart: float) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(count) % classes
    centres = RNG(99).normal(size=(classes, 10)) * apart
    return RNG(seed).normal(size=(count, 10)) * [1, 100, *[1] * 8] + centres[labels] * [1, 100, *[1] * 8], labels


def test_separate_classes_are_told_apart_on_unseen_features_whatever_their_scale():
    train, labels = blobs(0, 300, 4, 6.0)
    test, truth = blobs(1, 300, 4, 6.0)
    assert fit(train, labels, 4).accuracy(test, truth) > 0.99


def test_a_fit_is_a_stationary_point_and_the_same_again():
    features, labels = blobs(0, 200, 3, 1.0)
    first, second = (fit(features, labels, 3, l2=1e-2, iterations=500) for _ in range(2))
    assert np.array_equal(first.weight, second.weight)
    x = (features - first.mean) / first.scale
    logits = x @ first.weight + first.bias
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    gradient = x.T @ (probabilities - np.eye(3)[labels]) / len(x) + 1e-2 * first.weight
    assert np.abs(gradient).max() < 1e-4


def test_one_source_is_told_apart_by_chance_only_and_two_nearly_always():
    real, same = RNG(0).normal(size=(600, 20)), RNG(1).normal(size=(600, 20))
    assert told_apart(real, same) == pytest.approx(0.5, abs=0.06)
    assert told_apart(real, same + 1.0) > 0.95
    assert told_apart(real, same + 0.1) == told_apart(real, same + 0.1)


def test_sets_of_unequal_size_do_not_make_the_larger_the_safe_guess():
    real, same = RNG(0).normal(size=(200, 20)), RNG(1).normal(size=(900, 20))
    assert told_apart(real, same) == pytest.approx(0.5, abs=0.1)
