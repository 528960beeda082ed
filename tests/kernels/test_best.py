"""The best token of a row is the argmax of all scores, whichever way it is found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti_kernels.impl import best
from smalti_kernels.spec import noise as n
from smalti_kernels.spec.inverse import tokens_below


def by_definition(values: np.ndarray, scale: np.ndarray, keys: np.ndarray) -> np.ndarray:
    noise = np.empty(values.shape, np.uint32)
    n.token_noise(keys, n.token_words(values.shape[1]), out=noise, scratch=np.empty_like(noise))
    each = np.broadcast_to(scale[:, None], values.shape)
    return best.scores(noise.ravel(), values.ravel(), each.ravel()).reshape(values.shape).argmax(axis=1)


def drawn(values: np.ndarray, scale: np.ndarray, keys: np.ndarray) -> np.ndarray:
    return best.best_tokens(values, scale, keys, best.Scratch(), lambda some: None)


def case(seed: int, rows: int, vocabulary: int, spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((rows, vocabulary)) * spread).astype(np.float32)
    scale = (65536 / rng.uniform(0.3, 2, rows)).astype(np.float32)
    return values, scale, rng.integers(0, 2**32, (rows, 4)).astype(np.uint32)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 40),
    vocabulary=st.sampled_from([5, 2047, 2048, 2049, 5000, 8192]),
    spread=st.sampled_from([0.0, 1.0, 3.0, 8.0, 60.0, 2000.0]),
    forbidden=st.sampled_from([0.0, 0.5, 0.999]),
    rounded=st.booleans(),
    alike=st.booleans(),
)
def test_the_best_token_is_the_argmax_of_all_scores(seed, rows, vocabulary, spread, forbidden, rounded, alike):
    values, scale, keys = case(seed, rows, vocabulary, spread)
    if rounded:  # many equal logits
        values = np.rint(values)
    values[:, 1:][np.random.default_rng(seed).random((rows, vocabulary - 1)) < forbidden] = -np.inf
    if alike:
        scale[:] = scale[0]
    before = values.copy()
    assert np.array_equal(drawn(values, scale, keys), by_definition(values, scale, keys))
    assert np.array_equal(values, before)


@pytest.mark.parametrize("above", [-1.5, 1.0, 8.0, 15.0, 17.0])
def test_a_token_far_below_wins_by_a_rare_word(above):
    """Few of many rows have a token whose noise word is below 200; only its own Gumbel can make it win."""
    rows, vocabulary = 1 << 16, 8192
    keys = np.random.default_rng(5).integers(0, 2**32, (rows, 4)).astype(np.uint32)
    out = np.empty((rows, 200), np.uint32)
    row, token, word = tokens_below(keys, 200, vocabulary, out=out, scratch=np.empty_like(out))
    assert len(row) > 9
    keys = keys[row]
    values = np.full((len(row), vocabulary), -60, np.float32)
    values[:, 77] = 0.0
    gumbel = np.empty(len(row), np.int32)
    n.gumbel(word.copy(), out=gumbel, scratch=np.empty_like(word), index=np.empty(len(row), np.intp))
    values[np.arange(len(row)), token] = above - gumbel / 65536
    scale = np.full(len(row), 65536, np.float32)
    found = drawn(values, scale, keys)
    assert np.array_equal(found, by_definition(values, scale, keys))
    if above > 5:
        assert (found == token).mean() > 0.9


def test_peaked_rows_of_any_layout():
    values, scale, keys = case(3, 12, 4096, 30.0)
    wide = np.repeat(values, 2, axis=1)[:, ::2]
    assert not wide.flags.c_contiguous
    assert np.array_equal(drawn(wide, scale, keys), by_definition(values, scale, keys))


@pytest.mark.parametrize("level", [16063.0, 16100.0, 16383.9, -16063.0, -16383.0])
def test_rows_near_the_limit_of_scores(level):
    values, scale, keys = case(4, 6, 4096, 5.0)
    scale[:] = 65536
    values += np.float32(level) - values.max(axis=1, keepdims=True)
    assert np.array_equal(drawn(values, scale, keys), by_definition(values, scale, keys))


def test_only_rows_without_an_answer_are_refused():
    values, scale, keys = case(6, 60, 4096, 5.0)
    values[41, 3], values[50] = np.nan, -np.inf
    seen: list[int] = []
    with np.errstate(invalid="ignore"):
        best.best_tokens(values, scale, keys, best.Scratch(), lambda some: seen.extend(some.tolist()))
    assert seen == [41, 50]


def test_peaked_rows_leave_most_noise_out(monkeypatch):
    """It is what makes them fast; were it not so, all would still be drawn right."""
    values, scale, keys = case(7, 10, 8192, 20.0)
    monkeypatch.setattr(best, "_of_any", None)
    assert len(drawn(values, scale, keys)) == 10
