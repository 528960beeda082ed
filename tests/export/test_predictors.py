from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.plain_manifest import plain_manifest
from smalti.bundle.manifest import missed
from smalti.errors import SamplingError
from smalti_export.parity.certificate import TOLERANCES
from smalti_export.parity.predictors import (
    PredictorReference,
    Turns,
    compare_predictors,
    prefix_feeds,
    runs_compared,
    with_past,
)

CODES, PAST = 5, (2, 1, 1)
TABLE = np.random.default_rng(0).normal(size=(3, 7, CODES)).astype(np.float32)


def turns(**defaults: Any) -> Turns:
    sampler = {"steps": 1, "temperature": 1.0, **defaults}
    return Turns(plain_manifest("autoregressive", (2, 3), CODES, **sampler), PAST, grids=4)


TURNS = turns()


def graph(scale: float = 1.0):
    """A predictor that reads its logits from a table, by label and by the number of tokens read.

    Its cache holds only that number.
    """

    def run(inputs: Any) -> list[np.ndarray]:
        tokens, labels, past = inputs["tokens"], inputs["labels"], inputs["past"]
        read = past.shape[3] + tokens.shape[1]
        present = np.zeros((2, len(tokens), 1, read, 1), np.float32)
        return [TABLE[labels, read] * np.float32(scale), present]

    return run


def feeds() -> list[dict[str, Any]]:
    tokens = np.random.default_rng(1).integers(0, CODES, (12, 6))
    return prefix_feeds(tokens, np.arange(12) % 2, CODES, PAST, batches=3, batch=4)


def test_feeds_are_beginnings_of_every_length_in_both_halves() -> None:
    made = feeds()
    assert [feed["tokens"].shape for feed in made] == [(4, 5), (4, 3), (4, 1), (4, 6), (4, 4), (4, 2)]
    for feed in made:
        assert (feed["tokens"][:, 0] == CODES).all()
        assert (feed["tokens"][:, 1:] < CODES).all()
        assert feed["tokens"].dtype == feed["labels"].dtype == np.int32
        assert feed["past"].shape == (2, 4, 1, 0, 1)


def test_no_grid_is_in_both_halves() -> None:
    tokens = np.repeat(np.arange(12)[:, None], 6, axis=1)
    made = prefix_feeds(tokens, np.zeros(12), 99, PAST, batches=3, batch=4)
    first, second = (set(np.concatenate([f["tokens"][:, 1:].ravel() for f in half])) for half in (made[:3], made[3:]))
    assert first <= set(range(6))
    assert second <= set(range(6, 12))


def test_some_feeds_go_on_from_what_was_read_before() -> None:
    plain = feeds()
    made = with_past(graph(), plain, 2)
    assert [feed["past"].shape[3] for feed in made] == [4, 0, 0, 0, 5, 0, 0, 0]
    for index in (0, 4):
        assert made[index]["past"].shape[1] == 2
        assert np.array_equal(made[index]["tokens"], made[index + 1]["tokens"][:2, -1:])
        assert np.array_equal(made[index]["labels"], made[index + 1]["labels"][:2])
    single = prefix_feeds(np.zeros((2, 1), np.int64), np.zeros(2), CODES, PAST, batches=1, batch=1)
    assert with_past(graph(), single, 1) == single  # a single token has no past


def test_a_predictor_that_errs_with_a_past_alone_is_found_out() -> None:
    def wrong(inputs: Any) -> list[np.ndarray]:
        logits, present = graph()(inputs)
        return [-logits if inputs["past"].shape[3] else logits, present]

    plain, whole = (PredictorReference(graph(), made, TURNS, 350) for made in (feeds(), with_past(graph(), feeds(), 2)))
    assert compare_predictors(plain, wrong, runs=False)["draw_agreement"] == 1
    found = compare_predictors(whole, wrong, runs=False)
    assert missed(found, TOLERANCES["predictor"]["int8"])
    assert missed(found, {"logit_error": 0.1})
    assert "grids" not in found


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_an_answer_that_is_not_a_number_is_out_of_tolerance(odd: float) -> None:
    def wrong(inputs: Any) -> list[np.ndarray]:
        logits, present = graph()(inputs)
        return [np.where(np.arange(CODES) == 2, -odd if np.isinf(odd) else odd, logits).astype(np.float32), present]

    reference = PredictorReference(graph(), feeds(), TURNS, 350)
    try:
        found = compare_predictors(reference, wrong, runs=False)
    except SamplingError:
        assert np.isnan(odd)
    else:
        assert missed(found, {"logit_error": 1e3})


def test_a_predictor_agrees_with_itself() -> None:
    reference = PredictorReference(graph(), feeds(), TURNS, 350)
    figures = compare_predictors(reference, graph())
    assert figures == {
        "logit_error": 0,
        "draw_agreement": 1,
        "draws": 6 * 4 * 15,  # at least 350, equally many from each
        "grid_agreement": 1,
        "grids": 4,
    }


def test_predictors_that_differ_draw_differently() -> None:
    reference = PredictorReference(graph(), feeds(), TURNS, 350)
    close, far = (compare_predictors(reference, graph(scale)) for scale in (1.02, -1.0))
    assert 0.9 < close["draw_agreement"] <= 1
    assert far["draw_agreement"] < 0.6
    assert far["grid_agreement"] < 0.7
    spread = max(TABLE[feed["labels"], feed["tokens"].shape[1]].std() for feed in feeds())
    greatest = max(np.abs(TABLE[feed["labels"], feed["tokens"].shape[1]]).max() for feed in feeds())
    assert far["logit_error"] == pytest.approx(2 * greatest / spread, rel=1e-5)


def test_draws_follow_the_defaults_of_the_bundle() -> None:
    greedy = turns(top_k=1).whole_runs(graph())
    assert np.array_equal(greedy.reshape(4, 6), TABLE[[0, 1, 0, 1]][:, 1:].argmax(2))
    logits = np.tile(np.array([[3.0, 2.0, 1.0, 0.0, -1.0]], np.float32), (200, 1))
    warm, cold = (turns(temperature=value).draws(logits, 0, 16) for value in (1.0, 0.2))
    assert (cold == 0).mean() > 0.98
    assert 0.5 < (warm == 0).mean() < 0.8


def test_the_largest_predictors_are_compared_on_fewer_runs() -> None:
    assert runs_compared((8, 8), (4, 2, 8)) == 16
    assert runs_compared((16, 16), (96, 16, 96)) == 3  # 1.4 billion parameters: 151 MB of keys and values per image
    assert runs_compared((64, 64), (960, 64, 128)) == 1


@pytest.mark.parametrize("change", [{"guidance": 3.0}, {"temperature": 0.3}, {"top_k": 1}, {"top_p": 0.3}])
def test_whole_runs_follow_every_default(change: dict[str, Any]) -> None:
    asked: list[np.ndarray] = []

    def run(inputs: Any) -> list[np.ndarray]:
        asked.append(inputs["labels"])
        return graph()(inputs)

    tokens = turns(**change).whole_runs(run)
    assert (len(TURNS.manifest.classes) in np.concatenate(asked)) == ("guidance" in change)
    assert not np.array_equal(tokens, TURNS.whole_runs(graph()))
