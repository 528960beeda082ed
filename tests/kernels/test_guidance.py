"""Guidance: three float32 operations, infinities that stay, and inputs that are left alone."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalti_kernels.spec.guidance import guide, guided

SHAPE = (5, 300)


def random(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(SHAPE, np.float32) * 9, rng.standard_normal(SHAPE, np.float32)


@given(st.integers(0, 2**32), st.floats(-4, 9, width=32))
def test_it_is_the_formula_in_float32(seed, weight):
    logits, uncond = random(seed)
    expected = uncond + np.float32(weight) * (logits - uncond)
    assert expected.dtype == np.float32
    assert np.array_equal(guided(logits, uncond, weight), expected)
    np.testing.assert_allclose(expected, uncond + weight * (logits.astype(np.float64) - uncond), rtol=1e-5, atol=1e-4)
    guide(logits, uncond, np.float32(weight))
    assert np.array_equal(logits, expected)


def test_weights_of_one_and_zero():
    logits, uncond = random(1)
    assert np.array_equal(guided(logits, uncond, 0.0), uncond)
    np.testing.assert_allclose(guided(logits, uncond, 1.0), logits, atol=1e-5)


@pytest.mark.parametrize("weight", [-2.0, 0.0, 1.0, 3.0])
@pytest.mark.parametrize("other", [0.0, np.inf, -np.inf, np.nan])
def test_infinite_logits_stay_whatever_the_others_are(weight, other):
    logits, uncond = random(2)
    logits[0, :3] = np.inf, -np.inf, np.inf
    uncond[0] = other
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = guided(logits, uncond, weight)
    assert found[0, :3].tolist() == [np.inf, -np.inf, np.inf]
    assert np.array_equal(found[1:], guided(logits[1:], uncond[1:], weight))
    with np.errstate(all="ignore"):
        expected = uncond[0, 3:] + np.float32(weight) * (logits[0, 3:] - uncond[0, 3:])
    assert np.array_equal(found[0, 3:], expected, equal_nan=True)


def test_nan_stays_nan_and_overflow_is_infinite():
    logits = np.array([[np.nan, 3e38, -3e38]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = guided(logits, np.zeros_like(logits), 2.0)
    assert np.isnan(found[0, 0])
    assert found[0, 1:].tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_inputs_are_left_alone(dtype):
    logits, uncond = (array.astype(dtype) for array in random(3))
    before = logits.copy(), uncond.copy()
    found = guided(logits, uncond, 2.5)
    assert found.dtype == np.float32
    assert np.array_equal(logits, before[0])
    assert np.array_equal(uncond, before[1])
    wide, other = (array.astype(np.float32) for array in before)
    assert np.array_equal(found, other + np.float32(2.5) * (wide - other))


def test_in_place_only_the_logits_change():
    logits, uncond = random(4)
    before = uncond.copy()
    guide(logits, uncond, np.float32(2))
    assert np.array_equal(uncond, before)
