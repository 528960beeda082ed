"""The one comparison behind certificates: draws that depend on nothing else, and figures at their ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalti.errors import BundleError
from smalti.verification.comparison import Case, compare, compare_runs, decibels, draw

LENGTH, CODES = 6, 4
NO_CASE = Case({}, {})


@given(st.integers(0, 2**32), st.integers(0, 50), st.floats(0.2, 3))
def test_a_draw_does_not_depend_on_which_others_are_wanted_or_in_which_order(seed: int, case: int, heat: float) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(3, LENGTH, CODES)).astype(np.float32)
    places = np.tile(np.arange(LENGTH, dtype=np.int32), (3, 1))
    whole = draw(logits, places, 3, LENGTH, heat, case)
    wanted = rng.random(places.shape) < 0.5
    wanted[0, 0] = True
    order = rng.permutation(LENGTH)
    part = draw(logits[:, order], places[:, order], 3, LENGTH, heat, case, wanted[:, order])
    assert np.array_equal(part, np.where(wanted, whole, -1)[:, order])


@given(st.integers(0, 2**32), st.integers(1, 4))
def test_an_equal_answer_has_the_best_figures(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    logits = [rng.normal(size=(2, LENGTH, CODES)).astype(np.float32) for _ in range(count)]
    places = np.tile(np.arange(LENGTH, dtype=np.int32), (2, 1))

    def drawn(found: np.ndarray, case: Case, index: int) -> np.ndarray:
        return draw(found, places, 3, LENGTH, 1.0, index)

    priors = [
        Case({"one": one}, {"logits": one[:, :2], "draws": drawn(one, NO_CASE, i)}) for i, one in enumerate(logits)
    ]
    figures = compare(priors, lambda inputs: [inputs["one"]], drawn)
    assert figures == {"logit_error": 0, "draw_agreement": 1, "draws": count * 2 * LENGTH}
    images = rng.integers(0, 256, (count, 1, 2, 2, 3)).astype(np.uint8)
    figures = compare([Case({"one": one}, {"images": one}) for one in images], lambda inputs: [inputs["one"]])
    assert figures == {"psnr": pytest.approx(108.13, abs=0.01), "greatest_difference": 0}
    assert compare_runs(images, images) == {"grid_agreement": 1, "grids": count}


def test_one_wrong_pixel_is_seen_whichever_case_it_is_in() -> None:
    images = np.zeros((3, 1, 2, 2, 3), np.uint8)
    for wrong in range(3):
        other = images.copy()
        other[wrong, 0, 1, 1, 2] = 36
        cases = [Case({"index": np.array(index)}, {"images": one}) for index, one in enumerate(images)]
        figures = compare(cases, lambda inputs, other=other: [other[int(inputs["index"])]])
        assert figures == {"psnr": pytest.approx(decibels(1296 / 36)), "greatest_difference": 36}


def test_answers_of_another_shape_are_told_from_bad_ones() -> None:
    case = Case({}, {"images": np.zeros((1, 2, 2, 3), np.uint8)})
    with pytest.raises(BundleError, match=r"these do not fit its graph: it answers \[1, 2, 3, 3\]"):
        compare([case], lambda _: [np.zeros((1, 2, 3, 3), np.uint8)], where="these")
    with pytest.raises(ValueError, match="draw is needed"):
        compare([Case({}, {"draws": np.zeros((1, 2), np.int32)})], lambda _: [np.zeros((1, 2, 4), np.float32)])
