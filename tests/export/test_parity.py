from __future__ import annotations

import numpy as np
import pytest

from smalti.manifest import SamplerDefaults
from smalti_export.parity import (
    TOLERANCES,
    Drawing,
    Feed,
    Reference,
    compare_decoders,
    compare_denoisers,
    compare_encoders,
    missed,
)

DRAWING = Drawing(grid=(2, 3), codes=5, classes=2, defaults=SamplerDefaults(steps=3, temperature=1.0), grids=4)


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
        role: {"fp32", "fp16", "int8"} for role in ("denoiser", "predictor", "decoder", "encoder")
    }
    assert all(bounds for variants in TOLERANCES.values() for bounds in variants.values())


def test_decoders_are_compared_in_decibels_over_all_pixels() -> None:
    feeds: list[Feed] = [{"tokens": np.full((1, 2, 2), value)} for value in (100, 200)]

    def images(feed: Feed) -> np.ndarray:
        return np.repeat(feed["tokens"][..., None], 3, axis=-1).astype(np.uint8)

    def shifted(feed: Feed) -> np.ndarray:
        return images(feed) - (10 if feed["tokens"].max() == 200 else 0)

    reference = Reference(images, feeds)
    figures = compare_decoders(reference, shifted)
    assert figures["psnr"] == pytest.approx(10 * np.log10(255**2 / 50))
    assert figures["greatest_difference"] == 10
    assert compare_decoders(reference, images)["psnr"] > 100


def test_encoders_are_compared_token_by_token() -> None:
    feeds: list[Feed] = [{"images": np.arange(8).reshape(1, 2, 4)}]
    reference = Reference(lambda feed: feed["images"], feeds)
    assert compare_encoders(reference, lambda feed: feed["images"]) == {"token_agreement": 1.0}
    assert compare_encoders(reference, lambda feed: np.minimum(feed["images"], 5)) == {"token_agreement": 0.75}


def logits_of(feed: Feed) -> np.ndarray:
    """A denoiser as a table: logits by position and label."""
    table = np.random.default_rng(0).normal(size=(3, 6, 5)).astype(np.float32)
    return np.stack([table[label, rows] for label, rows in zip(feed["labels"], feed["rows"])])


def denoiser_feeds(count: int = 40) -> list[Feed]:
    tokens = np.random.default_rng(1).integers(0, 6, (count, 6)).astype(np.int32)
    return [
        {
            "tokens": tokens,
            "labels": (np.arange(count) % 3).astype(np.int32),
            "rows": np.tile(np.arange(6, dtype=np.int32), (count, 1)),
        }
    ]


def test_a_denoiser_agrees_with_itself() -> None:
    reference = Reference(logits_of, denoiser_feeds(), DRAWING)
    figures = compare_denoisers(reference, logits_of)
    assert figures["logit_error"] == 0
    assert figures["draw_agreement"] == figures["grid_agreement"] == 1
    assert figures["draws"] == (denoiser_feeds()[0]["tokens"] == 5).sum()
    assert figures["grids"] == 4


def test_the_greatest_error_of_logits_is_told_in_their_spread() -> None:
    reference = Reference(logits_of, denoiser_feeds(), DRAWING)

    def wrong(feed: Feed) -> np.ndarray:
        found = logits_of(feed).copy()
        found[0, 0, 0] += 0.5
        return found

    figures = compare_denoisers(reference, wrong)
    assert figures["logit_error"] == pytest.approx(0.5 / logits_of(denoiser_feeds()[0]).std(), rel=1e-4)


def test_denoisers_that_differ_draw_differently() -> None:
    reference = Reference(logits_of, denoiser_feeds(), DRAWING)
    close = compare_denoisers(reference, lambda feed: logits_of(feed) * np.float32(1.02))
    far = compare_denoisers(reference, lambda feed: -logits_of(feed))
    assert 0.9 < close["draw_agreement"] <= 1
    assert far["draw_agreement"] < 0.7
    assert far["grid_agreement"] < 0.7


@pytest.mark.parametrize(
    "changes",
    [{}, {"order": "confidence"}, {"remask": "mlm"}, {"schedule": "binomial"}, {"guidance": 2.0}, {"top_k": 1}],
    ids=lambda changes: " ".join(changes) or "plain",
)
def test_whole_runs_follow_every_default(changes: dict) -> None:
    asked: list[np.ndarray] = []
    rng = np.random.default_rng(0)
    table = rng.normal(size=(6, 5)).astype(np.float32)

    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        asked.append(inputs["labels"])
        surer = np.float32(1 + inputs["labels"])[:, None, None]  # of some labels than of others
        return table[inputs["rows"]] * surer

    drawing = Drawing((2, 3), 5, 2, SamplerDefaults(steps=3, temperature=1.0, **changes), grids=64)
    tokens = drawing.whole_runs(run)
    assert tokens.shape == (64, 2, 3)
    assert 0 <= tokens.min() <= tokens.max() < 5
    assert (2 in np.concatenate(asked)) == ("guidance" in changes)
    likeliest = (tokens.reshape(64, 6) == table.argmax(1)).mean()
    assert (likeliest == 1) == ("top_k" in changes)
    plain = Drawing((2, 3), 5, 2, SamplerDefaults(steps=3, temperature=1.0), grids=64).whole_runs(run)
    assert np.array_equal(plain, tokens) == (not changes)
