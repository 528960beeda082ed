"""Integer mixtures and posteriors against the same in floating point."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti_kernels.spec import mixtures
from smalti_kernels.spec.mixtures import IMPORTANCE_ONE, NEVER, SHARE_BITS, add_shares, mixture, posterior, shares

ONE = 2**SHARE_BITS
CLOSE = {"rtol": 2e-4, "atol": 2e-9}


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 300), st.floats(0.1, 8), st.floats(0.2, 4), st.integers(0, 2**32))
def test_shares_are_the_softmax(rows, codes, spread, temperature, seed):
    logits = (np.random.default_rng(seed).standard_normal((rows, codes)) * spread).astype(np.float32)
    found = shares(logits, temperature)
    assert found.dtype == np.uint64
    np.testing.assert_allclose(found / ONE, softmax(logits / temperature), **CLOSE)
    assert (found.sum(axis=1) <= ONE).all()
    half = shares(logits.astype(np.float16), temperature)
    np.testing.assert_allclose(half / ONE, softmax(logits.astype(np.float16).astype(np.float32) / temperature), **CLOSE)


def test_truncation_is_that_of_the_draw():
    logits = np.log(np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]], np.float32))
    close = {"atol": 1e-4}
    assert np.allclose(shares(logits, top_k=2) / ONE, [[4 / 7, 3 / 7, 0, 0], [0, 0, 3 / 7, 4 / 7]], **close)
    assert np.allclose(shares(logits, top_p=0.65) / ONE, [[4 / 7, 3 / 7, 0, 0], [0, 0, 3 / 7, 4 / 7]], **close)
    assert np.allclose(shares(logits, top_p=0.75)[0] / ONE, [4 / 9, 3 / 9, 2 / 9, 0], **close)
    ties = np.zeros((1, 4), np.float32)
    assert np.allclose(shares(ties, top_k=1) / ONE, 0.25, **close)
    assert np.allclose(shares(ties, top_p=1e-9) / ONE, 0.25, **close)


def test_what_is_forbidden_has_no_share_and_rows_without_a_distribution_are_marked():
    logits = np.array([[0, -np.inf, 1], [np.nan, 0, 0], [np.inf, 0, 0], [-np.inf] * 3, [3e38, 0, 0]], np.float32)
    found = shares(logits)
    assert found[0, 1] == 0
    assert found[0, [0, 2]].all()
    assert (found[1:4] == NEVER).all()
    assert np.isnan(posterior(found, np.zeros(5, np.int32), ONE, 0, 0)[1:4]).all()
    assert np.isnan(mixture(found, found[:, 0] == NEVER)[1:4]).all()


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(2, 50), st.integers(0, 2**32))
def test_a_mixture_averages_by_importance(count, codes, seed):
    generator = np.random.default_rng(seed)
    logits = (generator.standard_normal((count, 1, codes)) * 3).astype(np.float32)
    importance = generator.choice([1, IMPORTANCE_ONE], count)
    total = sum(shares(one) * np.uint64(weight) for one, weight in zip(logits, importance))
    found = mixture(total, np.zeros(1, np.bool_))
    expected = (softmax(logits)[:, 0] * importance[:, None]).sum(0) / importance.sum()
    np.testing.assert_allclose(np.exp(found[0].astype(np.float64)), expected, **CLOSE)
    assert np.array_equal(found * 65536, np.rint(found * 65536))


@pytest.mark.parametrize("favour", [0.0, 2.5, 30.0])
def test_a_posterior_mixes_with_noise_and_favours_one_token(favour):
    clean = np.random.default_rng(0).dirichlet(np.ones(8), size=5)
    tokens = np.arange(5, dtype=np.int32)
    found = posterior(
        np.rint(clean * ONE).astype(np.uint64), tokens, round(0.7 * ONE), round(0.3 / 8 * ONE**2), round(favour * 65536)
    )
    expected = np.log(0.7 * clean + 0.3 / 8)
    expected[tokens, tokens] += favour
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_extreme_posteriors_neither_overflow_nor_forbid_what_has_a_chance():
    certain = np.zeros((1, 4), np.uint64)
    certain[0, 1] = ONE
    pure = posterior(certain, np.array([2], np.int32), ONE, 0, 0)
    assert pure[0, 1] == pytest.approx(0, abs=1e-4)
    assert np.isneginf(pure[0, [0, 2, 3]]).all()
    noisy = posterior(certain, np.array([2], np.int32), ONE, ONE**2 // 4, 0)
    assert np.isfinite(noisy).all()


def test_large_grids_of_windows_fit_64_bits():
    row = np.full((1, 2), -np.inf, np.float32)
    row[0, 0] = 0
    total = shares(row) * np.uint64(IMPORTANCE_ONE) * np.uint64(4095)
    assert mixture(total, np.zeros(1, np.bool_))[0, 0] == pytest.approx(0, abs=1e-4)
    assert mixtures.SHARE_BITS + 20 + 12 < 64


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.sampled_from([1, 50, 8192, 70_000]), st.integers(0, 2**32))
def test_shares_are_added_as_they_are_computed(count, codes, seed):
    """Rows are worked on in parts, and results do not depend on where the cuts are."""
    generator = np.random.default_rng(seed)
    logits = (generator.standard_normal((count, codes)) * 5).astype(np.float32)
    logits[generator.random(count) < 0.2, 0] = np.nan
    importance = generator.choice([1, IMPORTANCE_ONE], count).astype(np.uint64)
    rows = generator.permutation(count + 3)[:count]
    total = generator.integers(0, 2**40, (count + 3, codes)).astype(np.uint64)
    broken = generator.random(count + 3) < 0.1
    wanted, marked = total.copy(), broken.copy()
    alone = np.concatenate([shares(row[None]) for row in logits])
    assert np.array_equal(alone, shares(logits))
    wanted[rows] += alone * importance[:, None]
    marked[rows] |= alone[:, 0] == NEVER
    add_shares(total, broken, rows, logits, importance)
    assert np.array_equal(total, wanted)
    assert np.array_equal(broken, marked)
    assert np.array_equal(
        mixture(total, broken),
        np.concatenate([mixture(one[None], mark[None]) for one, mark in zip(total, broken)]),
        equal_nan=True,
    )
