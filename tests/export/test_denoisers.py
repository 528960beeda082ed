"""Inputs on which denoisers are compared, and the figures of two that differ, for each family."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.plain_manifest import plain_manifest
from smalti.bundle.manifest import Family, Noise
from smalti.errors import UsageError
from smalti.families.multinomial.sampler import cosine_alphas
from smalti.families.registry import FAMILIES
from smalti_export.parity.denoisers import (
    DenoiserReference,
    Drawing,
    compare_denoisers,
    denoiser_batches,
    denoiser_feeds,
)
from smalti_export.precision.activation_ranges import Feed

CODES, CLASSES, GRID = 5, 2, (2, 3)
LENGTH = GRID[0] * GRID[1]
NOISE = Noise(steps=12, schedule="printed")
RNG = np.random.default_rng(0)
PLAIN: dict[Family, dict[str, Any]] = {
    "absorbing": {"steps": 3},
    "sundae": {"steps": 24, "final_temperature": 1.0, "min_steps": 24},
    "multinomial": {"steps": 6},
}


def drawing(family: Family = "absorbing", grids: int = 4, **changes: Any) -> Drawing:
    sampler = {"temperature": 1.0, **PLAIN[family], **changes}
    return Drawing(plain_manifest(family, GRID, CODES, NOISE if family == "multinomial" else None, **sampler), grids)


def logits_of(feed: Feed) -> np.ndarray:
    """A denoiser that reads its logits from a table, by position and label."""
    table = np.random.default_rng(0).normal(size=(CLASSES + 1, LENGTH, CODES)).astype(np.float32)
    return np.stack([table[label, rows] for label, rows in zip(feed["labels"], feed["rows"])])


def feeds(family: Family = "absorbing") -> list[Feed]:
    tokens, labels = RNG.integers(0, CODES, (40, LENGTH)), RNG.integers(0, CLASSES, 40)
    noise = NOISE if family == "multinomial" else None
    return denoiser_feeds(tokens, labels, CODES, CLASSES, 2, 20, masks=FAMILIES[family].masks, noise=noise)


DRAWN = [name for name, family in FAMILIES.items() if family.role == "denoiser"]


@pytest.mark.parametrize("masks", [True, False])
def test_feeds_show_every_degree_of_noise_and_some_samples_without_a_label(masks: bool) -> None:
    tokens, labels = RNG.integers(0, 50, (40, 16)), RNG.integers(0, 3, 40)
    made = denoiser_feeds(tokens, labels, 50, 3, batches=4, batch=16, masks=masks)
    assert len(made) == 4
    for index, feed in enumerate(made):
        # Each half of the batches cycles through its own 20 grids, so none is used for both calibration and measuring.
        whole = tokens[20 * (index // 2) + (np.arange(16) + 16 * (index % 2)) % 20]
        other = feed["tokens"] != whole
        assert np.array_equal(feed["tokens"] == 50, other if masks else np.zeros_like(other))
        assert feed["tokens"].min() >= 0
        assert feed["labels"].dtype == feed["rows"].dtype == feed["tokens"].dtype == np.int32
        assert (feed["labels"] == 3).sum() == 2
        assert np.array_equal(feed["rows"], np.tile(np.arange(16), (16, 1)))
        share = np.sort(other.mean(1))
        assert share[0] < 0.25
        assert share[-1] > 0.75
    again = denoiser_feeds(tokens, labels, 50, 3, batches=4, batch=16, masks=masks)
    assert all(np.array_equal(a[name], b[name]) for a, b in zip(made, again) for name in a)


def test_each_grid_is_fed_once_where_there_are_enough() -> None:
    tokens = RNG.integers(0, 1000, (48, 64))
    made = denoiser_feeds(tokens, np.zeros(48, np.int32), 1000, 0, batches=3, batch=16, masks=True)
    fed = np.concatenate([feed["tokens"] for feed in made])
    assert ((fed == tokens) | (fed == 1000)).all()


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize(("batch", "length", "draws"), [(16, 256, 10_000), (4, 1024, 10_000), (2, 16, 3_000)])
def test_so_many_batches_are_enough_for_the_draws(masks: bool, batch: int, length: int, draws: int) -> None:
    count = denoiser_batches(draws, batch, length, masks=masks)
    tokens = RNG.integers(0, 9, (64, length))
    made = denoiser_feeds(tokens, np.zeros(64, np.int32), 9, 0, count, batch, masks=masks)
    drawn = [int((feed["tokens"] == 9).sum()) if masks else feed["tokens"].size for feed in made]
    assert draws <= sum(drawn) < 1.3 * draws + batch * length


def test_a_feed_with_times_is_as_noisy_as_they_say() -> None:
    tokens, labels = RNG.integers(0, 50, (64, 64)), RNG.integers(0, 3, 64)
    noise = Noise(steps=100, schedule="released")
    (feed,) = denoiser_feeds(tokens, labels, 50, 3, batches=1, batch=64, masks=False, noise=noise)
    assert list(feed) == ["tokens", "labels", "times", "rows"]  # the graph's order
    assert feed["times"].dtype == np.int32
    assert (feed["times"].min(), feed["times"].max()) <= (1, 99)
    assert feed["times"].max() >= 98
    lost = 1 - cosine_alphas(100, "released").cumprod()
    other = (feed["tokens"] != tokens).mean(1) / (1 - 1 / 50)
    assert np.abs(other - lost[feed["times"]]).max() < 0.25
    assert np.abs(other - lost[feed["times"]]).mean() < 0.06


def test_random_tokens_are_of_all_codes() -> None:
    clean = np.zeros((64, 16), np.int32)
    (feed,) = denoiser_feeds(clean, np.zeros(64, np.int32), 4, 0, batches=1, batch=64, masks=False)
    counts = np.bincount(feed["tokens"].reshape(-1), minlength=4)
    assert len(counts) == 4
    assert counts[1:].min() > 80  # of 128 each, on average


def test_feeds_of_a_model_without_labels_hold_its_only_one() -> None:
    tokens = RNG.integers(0, 9, (8, 4))
    (feed,) = denoiser_feeds(tokens, np.zeros(8, np.int32), 9, 0, batches=1, batch=8, masks=True)
    assert feed["labels"].tolist() == [0] * 8


@pytest.mark.parametrize("family", DRAWN)
def test_a_denoiser_agrees_with_itself(family: Family) -> None:
    made = feeds(family)
    figures = compare_denoisers(DenoiserReference(logits_of, made, drawing(family)), logits_of)
    assert figures["logit_error"] == 0
    assert figures["draw_agreement"] == figures["grid_agreement"] == 1
    masked = sum((feed["tokens"] == CODES).sum() for feed in made)
    assert figures["draws"] == (masked if FAMILIES[family].masks else 2 * 20 * LENGTH)
    assert figures["grids"] == 4


def test_the_greatest_error_of_logits_is_told_in_their_spread() -> None:
    made = feeds()
    reference = DenoiserReference(logits_of, made, drawing())

    def wrong(feed: Feed) -> np.ndarray:
        found = logits_of(feed).copy()
        found[0, 0, 0] += 0.5
        return found

    spread = max(logits_of(feed).std() for feed in made)
    assert compare_denoisers(reference, wrong)["logit_error"] == pytest.approx(0.5 / spread, rel=1e-4)


@pytest.mark.parametrize("family", DRAWN)
def test_denoisers_that_differ_draw_differently(family: Family) -> None:
    reference = DenoiserReference(logits_of, feeds(family), drawing(family))
    close = compare_denoisers(reference, lambda feed: logits_of(feed) * np.float32(1.02))
    far = compare_denoisers(reference, lambda feed: -logits_of(feed))
    assert 0.9 < close["draw_agreement"] <= 1
    assert far["draw_agreement"] < 0.7
    assert far["grid_agreement"] < 0.7


COMMON: list[dict[str, Any]] = [{}, {"guidance": 2.0}, {"top_k": 1}, {"temperature": 0.8}]
OWN: dict[Family, list[dict[str, Any]]] = {
    "absorbing": [{"order": "confidence"}, {"remask": "mlm"}, {"schedule": "binomial"}],
    "multinomial": [{"steps": 1}, {"top_p": 0.4}],
    "sundae": [{"final_temperature": 0.2}, {"proportion": (0.9, 0.9)}, {"min_steps": 0}, {"steps": 5}],
}


@pytest.mark.parametrize(
    ("family", "changes"),
    [(family, changes) for family in DRAWN for changes in (*COMMON, *OWN[family])],
    ids=lambda value: value if isinstance(value, str) else " ".join(value) or "plain",
)
def test_whole_runs_follow_every_default(family: Family, changes: dict[str, Any]) -> None:
    asked: list[np.ndarray] = []
    rng = np.random.default_rng(0)
    table = rng.normal(size=(6, 5)).astype(np.float32)

    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        asked.append(inputs["labels"])
        surer = np.float32(1 + inputs["labels"])[:, None, None]  # the label scales the logits
        return table[inputs["rows"]] * surer

    tokens = drawing(family, 64, **changes).whole_runs(run)
    assert tokens.shape == (64, *GRID)
    assert 0 <= tokens.min() <= tokens.max() < CODES
    assert (CLASSES in np.concatenate(asked)) == ("guidance" in changes)
    likeliest = (tokens.reshape(64, LENGTH) == table.argmax(1)).mean()
    assert (likeliest == 1) == ("top_k" in changes)
    plain = drawing(family, 64).whole_runs(run)
    assert np.array_equal(plain, tokens) == (not changes)


def test_defaults_that_the_family_does_not_allow_are_refused() -> None:
    with pytest.raises(UsageError, match="proportion"):
        drawing("sundae", proportion=(0.0, 0.5)).whole_runs(logits_of)
