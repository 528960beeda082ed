from __future__ import annotations

import numpy as np
import pytest

from smalti.bundle.manifest import PRIOR_ROLES, missed
from smalti.verification.comparison import compare
from smalti_export.builder import PRECISIONS, _possible
from smalti_export.parity.certificate import TOLERANCES, Reference
from smalti_export.precision.activation_ranges import Feed


def test_errors_have_upper_bounds_and_everything_else_lower_ones() -> None:
    tolerances = {"logit_error": 0.1, "psnr": 40.0}
    assert missed({"logit_error": 0.1, "psnr": 40.0}, tolerances) == []
    assert missed({"logit_error": 0.2, "psnr": 45.0}, tolerances) == ["logit_error is 0.2, allowed is at most 0.1"]
    assert missed({"logit_error": 0.0, "psnr": 39.5}, tolerances) == ["psnr is 39.5, allowed is at least 40"]


@pytest.mark.parametrize("name", ["logit_error", "psnr"])
def test_what_is_not_a_number_never_passes(name: str) -> None:
    assert missed({name: float("nan")}, {name: 1.0})


def test_every_variant_that_can_be_written_has_a_gate() -> None:
    assert {role: set(variants) for role, variants in TOLERANCES.items()} == {
        role: set(_possible(role, PRECISIONS)) for role in (*PRIOR_ROLES.values(), "encoder", "decoder", "preview")
    }
    assert _possible("decoder_512", PRECISIONS) == _possible("decoder", PRECISIONS)
    assert all(bounds for variants in TOLERANCES.values() for bounds in variants.values())


def test_decoders_are_compared_in_decibels_over_all_pixels() -> None:
    feeds: list[Feed] = [{"tokens": np.full((1, 2, 2), value)} for value in (100, 200)]

    def images(feed: Feed) -> list[np.ndarray]:
        return [np.repeat(feed["tokens"][..., None], 3, axis=-1).astype(np.uint8)]

    def shifted(feed: Feed) -> list[np.ndarray]:
        return [images(feed)[0] - (10 if feed["tokens"].max() == 200 else 0)]

    reference = Reference("decoder", images, feeds)
    figures = compare(reference.cases, shifted)
    assert figures["psnr"] == pytest.approx(10 * np.log10(255**2 / 50))
    assert figures["greatest_difference"] == 10
    assert compare(reference.cases, images)["psnr"] > 100


def test_encoders_are_compared_token_by_token_and_by_the_worst_embedding() -> None:
    feeds: list[Feed] = [{"images": np.arange(8).reshape(1, 2, 4)}]
    reference = Reference("encoder", lambda feed: [feed["images"], np.eye(2, dtype=np.float32)], feeds)
    same = compare(reference.cases, lambda feed: [feed["images"], np.eye(2, dtype=np.float32)])
    assert same == {"token_agreement": 1.0, "cosine": 1.0}
    turned = np.array([[1, 0], [0.8, 0.6]], np.float32)
    other = compare(reference.cases, lambda feed: [np.minimum(feed["images"], 5), turned])
    assert other == {"token_agreement": 0.75, "cosine": pytest.approx(0.6)}


def test_an_embedding_that_is_no_number_misses_wherever_it_stands() -> None:
    feeds: list[Feed] = [{"images": np.zeros((1, 2, 2)) + index} for index in range(3)]
    one = np.ones((1, 1), np.float32)
    reference = Reference("encoder", lambda feed: [feed["images"], one], feeds)
    for bad in range(3):
        figures = compare(
            reference.cases,
            lambda feed, bad=bad: [feed["images"], one * (np.nan if feed["images"].max() == bad else 1)],
        )
        assert missed(figures, {"cosine": 0.5})
