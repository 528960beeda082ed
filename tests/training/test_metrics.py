"""Figures that compare sets of features or images: known values, bounds and invariances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti_train.data.pixels import to_pixels
from smalti_train.evaluation.metrics import (
    code_use,
    edge_psnr,
    frechet_distance,
    kernel_distance,
    nearest,
    prdc,
    psnr,
)

RNG = np.random.default_rng


def by_definition(a: np.ndarray, b: np.ndarray) -> float:
    """The Frechet distance with the covariances rooted, as the formula is usually written."""
    sa, sb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(sa)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    middle = np.linalg.eigvalsh(root @ sb @ root)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(sa + sb) - 2 * np.sqrt(np.maximum(middle, 0)).sum())


@pytest.mark.parametrize(("n", "m", "dim"), [(500, 300, 6), (40, 30, 60), (30, 200, 50)])
def test_frechet_distance_is_the_formula_with_many_samples_and_with_few(n, m, dim):
    a = RNG(0).normal(size=(n, dim)) @ RNG(1).normal(size=(dim, dim))
    b = RNG(2).normal(size=(m, dim)) @ RNG(3).normal(size=(dim, dim)) + 0.5
    assert frechet_distance(a, b) == pytest.approx(by_definition(a, b), rel=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(1, 12), st.floats(-5, 5), st.integers(0, 1000))
def test_frechet_distance_of_a_shifted_set_is_the_shift_and_of_a_turned_pair_the_same(n, dim, shift, seed):
    a = RNG(seed).normal(size=(n, dim))
    turn = np.linalg.qr(RNG(seed + 1).normal(size=(dim, dim)))[0]
    assert frechet_distance(a, a + shift) == pytest.approx(dim * shift**2, abs=1e-6)
    assert frechet_distance(a @ turn, (a + shift) @ turn) == pytest.approx(dim * shift**2, abs=1e-6)


def test_kernel_distance_is_zero_on_average_for_one_source_whatever_the_number_and_grows_with_a_shift():
    for count in (5, 20):
        values = [
            kernel_distance(RNG(i).normal(size=(count, 8)), RNG(999 + i).normal(size=(count, 8))) for i in range(400)
        ]
        assert abs(np.mean(values)) < 4 * np.std(values) / 20
    a = RNG(0).normal(size=(200, 8))
    near, far = (kernel_distance(a, RNG(1).normal(size=(200, 8)) + shift) for shift in (0.3, 1.0))
    assert 0 < near < far


def test_kernel_distance_is_the_formula():
    a, b = RNG(0).normal(size=(4, 3)), RNG(1).normal(size=(3, 3))
    k = lambda x, y: (x @ y / 3 + 1) ** 3  # noqa: E731
    pairs = lambda z: np.mean([k(x, y) for i, x in enumerate(z) for j, y in enumerate(z) if i != j])  # noqa: E731
    cross = np.mean([k(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(pairs(a) + pairs(b) - 2 * cross)


def test_prdc_of_one_source_is_high_and_of_far_sources_zero():
    a, b = RNG(0).normal(size=(400, 4)), RNG(1).normal(size=(400, 4))
    alike = prdc(a, b)
    assert min(alike.precision, alike.recall, alike.coverage) > 0.9
    assert 0.85 < alike.density < 1.15
    assert prdc(a, b + 100) == (0, 0, 0, 0)


def test_prdc_tells_dropped_modes_from_bad_samples():
    real = np.concatenate([RNG(0).normal(size=(200, 3)), RNG(1).normal(size=(200, 3)) + 50])
    one_mode = RNG(2).normal(size=(400, 3))
    dropped = prdc(real, one_mode)
    assert dropped.precision > 0.9
    assert dropped.coverage == pytest.approx(0.5, abs=0.05)
    half_bad = np.concatenate([one_mode[:200], RNG(3).normal(size=(200, 3)) - 50])
    assert prdc(real[:200], half_bad).precision == pytest.approx(0.48, abs=0.05)


def test_prdc_by_hand():
    real = np.array([[0.0], [1.0], [3.0]])  # nearest neighbours at 1, 1 and 2
    generated = np.array([[0.5], [10.0]])
    # 0.5 lies in the balls of 0 and of 1; 10 in none. Balls of generated points reach 9.5 and hold 0, 1 and 3.
    assert prdc(real, generated, k=1) == pytest.approx((0.5, 1.0, 1.0, 2 / 3))


def test_nearest_finds_copies_first():
    references = RNG(0).normal(size=(50, 7))
    queries = references[[3, 40]] + 1e-3
    assert nearest(queries, references, 3)[:, 0].tolist() == [3, 40]


def test_psnr_knows_its_scale_and_edges_ignore_flat_errors():
    images = RNG(0).integers(0, 200, (3, 8, 8, 3)).astype(np.uint8)
    brighter = images + 5
    assert psnr(images, brighter) == pytest.approx(20 * np.log10(255 / 5))
    assert np.all(edge_psnr(images, brighter) > 100)
    stripes = images.copy()
    stripes[:, ::2] += 10
    assert np.all(edge_psnr(images, stripes) < 35)
    assert np.all(psnr(images, images) > 100)


def test_psnr_is_taken_image_by_image():
    images = np.full((3, 2, 2, 3), 100, np.uint8)
    other = images + np.array([1, 10, 100], np.uint8)[:, None, None, None]
    assert psnr(other, images) == pytest.approx([48.1308, 28.1308, 8.1308], abs=1e-3)


def test_psnr_averages_squares_not_decibels():
    images = np.zeros((1, 1, 2, 1), np.uint8)
    wrong = images + np.array([[0], [10]], np.uint8)
    assert psnr(wrong, images) == pytest.approx(10 * np.log10(255**2 / 50), abs=1e-3)


def test_psnr_sees_what_a_screen_would_show():
    white, level = torch.ones(1, 3, 2, 2), 2 / 255
    pixels = to_pixels(white)
    assert psnr(to_pixels(white + 5), pixels) == psnr(pixels, pixels) > 100  # clipped
    assert psnr(to_pixels(white - 0.4 * level), pixels) == psnr(pixels, pixels)  # rounded


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40).filter(any), st.integers(1, 9), st.integers(0, 5))
def test_the_use_of_codes_is_bounded_and_knows_neither_order_nor_scale(uses, factor, idle):
    counts = np.array(uses)
    used = code_use(counts)
    assert 1 - 1e-9 <= used.perplexity <= (counts > 0).sum() + 1e-9
    assert used.percent == pytest.approx(100 * (counts > 0).sum() / len(counts))
    other = code_use(np.concatenate([np.zeros(idle, np.int64), factor * counts[::-1]]))
    assert other.perplexity == pytest.approx(used.perplexity)
    assert other.percent == pytest.approx(used.percent * len(counts) / (len(counts) + idle))
    even = code_use(np.full(len(counts), factor))
    assert even == pytest.approx((100, len(counts)))
