"""Top-k and top-p: equal to sorting, ties kept, k before p; and log-probabilities, which they leave alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti_kernels import SamplingError, sample
from smalti_kernels.spec.tables import weights
from smalti_kernels.spec.truncation import FORBIDDEN, P_ONE, reach_of_top_k, reach_of_top_p


def kept_by_sorting(distance: np.ndarray, top_k: int, top_p: int) -> np.ndarray:
    """Which tokens of one row are kept, by sorting in float64; every weight and sum is a whole number below 2^53."""
    allowed = distance != FORBIDDEN
    order = np.sort(distance[allowed].astype(np.float64))
    if 0 < top_k < order.size:
        order = order[order <= order[top_k - 1]]
    if top_p < P_ONE:
        masses = np.cumsum(weights(order.astype(np.uint32)).astype(np.float64))
        order = order[: 1 + np.searchsorted(masses, np.floor(masses[-1] * top_p / P_ONE))]
    return allowed & (distance <= order[-1])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_kept_tokens_are_those_of_a_sort(data):
    rows, vocabulary = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 40))
    # Few different values make ties; great ones lie beyond the weights' reach.
    values = st.sampled_from([0, 1, 7, 65536, 70000, 300000, 1452999, 1453000, 2**31, int(FORBIDDEN)])
    shape = (rows, vocabulary)
    distance = np.array(data.draw(st.lists(values, min_size=rows * vocabulary, max_size=rows * vocabulary)), np.uint32)
    distance = distance.reshape(shape)
    distance[:, data.draw(st.integers(0, vocabulary - 1))] = 0
    top_k = np.array(data.draw(st.lists(st.integers(0, vocabulary + 2), min_size=rows, max_size=rows)))
    top_p = np.array(data.draw(st.lists(st.integers(1, P_ONE), min_size=rows, max_size=rows)))
    reach = reach_of_top_p(distance, weights(distance), reach_of_top_k(distance, top_k), top_p)
    kept = distance <= reach[:, None]
    for row in range(rows):
        assert np.array_equal(kept[row], kept_by_sorting(distance[row], int(top_k[row]), int(top_p[row])))


def case(rows: int = 64, vocabulary: int = 300, seed: int = 0, spread: float = 2.0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "logits": (rng.standard_normal((rows, vocabulary)) * spread).astype(np.float32),
        "tokens": np.full((2, rows), -1, np.int32),
        "sample": np.arange(rows) % 2,
        "position": rng.permutation(rows),
        "seeds": [3, 4],
        "step": 2,
        "width": 8,
        "temperature": [0.8, 1.5],
    }


def fixed(c: dict[str, Any]) -> np.ndarray:
    """The scaled logits as integers, from the specification."""
    scale = (np.float32(65536) / np.asarray(c["temperature"], np.float32))[c["sample"], None]
    return np.rint(np.maximum(c["logits"].astype(np.float32) * scale, np.float32(-(2**30)))).astype(np.int64)


@pytest.mark.parametrize("seed", range(4))
def test_drawing_from_kept_tokens_is_drawing_with_the_others_forbidden(seed):
    c = case(seed=seed)
    c["logits"] = np.round(c["logits"], 1)
    c["logits"][:, seed::7] = -np.inf
    top_k, top_p = [20, 0], [0.9, 0.5]
    scores = fixed(c)
    distance = np.where(np.isinf(c["logits"]), np.int64(FORBIDDEN), scores.max(axis=1)[:, None] - scores)
    kept = np.array(
        [
            kept_by_sorting(row.astype(np.uint32), top_k[grid], round(top_p[grid] * P_ONE))
            for row, grid in zip(distance, c["sample"])
        ]
    )
    masked = np.where(kept, c["logits"], np.float32(-np.inf))
    assert np.array_equal(sample(**c, top_k=top_k, top_p=top_p).tokens, sample(**(c | {"logits": masked})).tokens)
    assert not np.array_equal(masked, c["logits"])


@pytest.mark.parametrize(("vocabulary", "rows"), [(256, 600), (1000, 200), (8192, 40)])
def test_many_rows_are_kept_as_a_sort_keeps_them(vocabulary, rows):
    # bench/quality/kernel_statistics.py does the same with a hundred thousand.
    rng = np.random.default_rng(vocabulary)
    scores = np.rint(rng.standard_normal((rows, vocabulary)) * rng.choice([0.3, 1, 3, 8], (rows, 1)) * 65536)
    distance = (scores.max(axis=1)[:, None] - scores).astype(np.uint32)
    top_k = rng.integers(0, vocabulary, rows) * (rng.random(rows) < 0.7)
    top_p = np.where(rng.random(rows) < 0.7, rng.integers(1, P_ONE, rows), P_ONE)
    reach = reach_of_top_p(distance, weights(distance), reach_of_top_k(distance, top_k), top_p)
    for row in range(rows):
        expected = kept_by_sorting(distance[row], int(top_k[row]), int(top_p[row]))
        assert np.array_equal(distance[row] <= reach[row], expected), row


def test_the_mass_kept_is_p_of_the_real_softmax():
    c = case(rows=200, spread=1.0)
    scores = fixed(c)
    distance = (scores.max(axis=1)[:, None] - scores).astype(np.uint32)
    everything = reach_of_top_k(distance, np.zeros(200, np.int64))
    for p in (0.1, 0.5, 0.9, 0.99):
        reach = reach_of_top_p(distance, weights(distance), everything, np.full(200, round(p * P_ONE)))
        exact = np.exp(distance / -65536)
        exact /= exact.sum(axis=1, keepdims=True)
        kept = np.where(distance <= reach[:, None], exact, 0)
        last = np.where(distance == reach[:, None], exact, 0).sum(axis=1)
        assert np.all(kept.sum(axis=1) > p - 1e-4)
        assert np.all(kept.sum(axis=1) - last < p + 1e-4)


def test_top_k_of_one_takes_the_best_token_and_its_ties():
    c = case()
    assert np.array_equal(
        sample(**c, top_k=1).tokens[c["sample"], c["position"]], c["logits"].argmax(axis=1).astype(np.int32)
    )
    c["logits"][:, [7, 200]] = 20
    drawn = sample(**c, top_k=1).tokens[c["sample"], c["position"]]
    assert set(drawn.tolist()) == {7, 200}


def test_settings_that_keep_everything_change_nothing():
    c = case()
    plain = sample(**c).tokens
    for change in ({"top_k": 300}, {"top_k": 2**40}, {"top_p": 1.0}, {"top_k": [0, 0], "top_p": [1.0, 1.0]}):
        assert np.array_equal(sample(**c, **change).tokens, plain)
    assert not np.array_equal(sample(**c, top_p=0.3).tokens, plain)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"top_k": -1}, r"top_k must be 0 \(keep every token\) or more; got -1"),
        ({"top_k": 1.5}, "top_k must be integers"),
        ({"top_k": [1, 2, 3]}, r"top_k must be one number or \[2\]"),
        ({"top_p": 0.0}, r"top_p must be greater than 0 and at most 1 .*got 0\.0"),
        ({"top_p": 1.01}, "top_p must be greater than 0"),
        ({"top_p": np.nan}, "top_p must be greater than 0"),
        ({"top_p": [0.5, 0.5, 0.5]}, r"top_p must be one number or \[2\]"),
        ({"threads": 0}, "threads must be at least 1"),
    ],
)
def test_settings_are_checked(change, says):
    with pytest.raises(SamplingError, match=says):
        sample(**case(), **change)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("truncation", [{}, {"top_k": 5}, {"top_k": 40, "top_p": 0.5}])
def test_logprob_is_the_log_softmax_of_the_drawn_token_before_truncation(dtype, truncation):
    c = case(spread=4)
    c["logits"] = c["logits"].astype(dtype)
    c["logits"][:, ::9] = -np.inf
    uncond = np.random.default_rng(1).standard_normal(c["logits"].shape).astype(dtype)
    draw = sample(**c, uncond=uncond, guidance=1.5, logprob=True, **truncation)
    assert draw.logprob is not None
    assert draw.logprob.dtype == np.int32
    guided = uncond.astype(np.float64) + 1.5 * (c["logits"].astype(np.float64) - uncond)
    guided /= np.array(c["temperature"])[c["sample"], None]
    guided -= guided.max(axis=1, keepdims=True)
    exact = guided - np.log(np.exp(guided).sum(axis=1, keepdims=True))
    exact = exact[np.arange(len(exact)), draw.tokens[c["sample"], c["position"]]]
    assert np.abs(draw.logprob / 65536 - exact).max() < 2e-4
    assert np.all(draw.logprob <= 0)


def test_logprob_of_a_certain_token_is_zero_and_of_equals_is_minus_log_of_their_number():
    c = case() | {"temperature": 1.0}
    c["logits"][:] = -np.inf
    c["logits"][:, 12] = -3
    certain = sample(**c, logprob=True).logprob
    assert certain is not None
    assert not certain.any()
    c["logits"][:] = 5
    equal = sample(**c, logprob=True).logprob
    assert equal is not None
    assert np.abs(equal + np.log(300) * 65536).max() < 3


def test_logprob_of_thousands_of_unlikely_tokens_counts_them_all():
    # Each weighs 2^-17 of the best: in 16 fractional bits all would vanish.
    logits = np.full((4, 16384), -17 * np.log(2), np.float32)
    logits[:, 99] = 0
    place = {"sample": [0] * 4, "position": [0, 1, 2, 3], "seeds": [1], "step": 0, "width": 1, "temperature": 1.0}
    draw = sample(logits, np.zeros((1, 4), np.int32), **place, top_k=1, logprob=True)
    assert draw.logprob is not None
    assert np.abs(draw.logprob / 65536 + np.log1p(16383 * 2.0**-17)).max() < 1e-4


def test_changed_says_which_tokens_are_new():
    c = case()
    first = sample(**c)
    assert first.changed.dtype == np.bool_
    assert first.changed.all()
    again = sample(**(c | {"tokens": first.tokens}))
    assert not again.changed.any()
    assert again.logprob is None
    other = sample(**(c | {"tokens": first.tokens, "step": 3}))
    where = c["sample"], c["position"]
    assert np.array_equal(other.changed, other.tokens[where] != first.tokens[where])


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5), st.booleans(), st.booleans())
def test_threads_do_not_change_the_result(threads, cut, wanted):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smalti_kernels.impl.reference._BLOCK_ELEMENTS", 900)
        c = case()
        options = {"logprob": wanted, "top_k": 30 if cut else 0}
        alone, together = (sample(**c, **options, threads=count) for count in (1, threads))
        assert np.array_equal(alone.tokens, together.tokens)
        assert (alone.logprob is None and together.logprob is None) or np.array_equal(alone.logprob, together.logprob)
        c["logits"][[50, 17, 60], 3] = np.nan
        with pytest.raises(SamplingError, match="row 17 "):
            sample(**c, **options, threads=threads)
