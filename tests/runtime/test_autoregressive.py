"""Autoregressive draws, from a table that knows the exact answer of a small joint distribution."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.statistics import chi_square_z
from smalti.errors import UsageError
from smalti.families.autoregressive.past import reading_once
from smalti.families.autoregressive.sampler import run
from smalti_kernels import SamplingError
from smalti_kernels import sample as draw_tokens

HEIGHT, WIDTH, CODES = 2, 2, 3
LENGTH = HEIGHT * WIDTH
MASK = CODES
STATES = np.array(list(itertools.product(range(CODES), repeat=LENGTH)))
SEEDS = st.integers(0, 2**64 - 1)


def joint(seed: int) -> np.ndarray:
    """A joint distribution over all grids in which every token depends on every other; float64 [81]."""
    weights = np.random.default_rng(seed).uniform(0.2, 1.8, len(STATES))
    return weights / weights.sum()


def indices(tokens: np.ndarray) -> np.ndarray:
    """Place of each grid in STATES."""
    return tokens @ CODES ** np.arange(tokens.shape[1])[::-1]


class Table:
    """Logits of the next token by enumeration, for one joint distribution per label; keeps what it was asked."""

    def __init__(self, labels: int = 1) -> None:
        self.joints = np.stack([joint(seed) for seed in range(labels)]).reshape(labels, *[CODES] * LENGTH)
        self.asked: list[tuple[np.ndarray, np.ndarray]] = []

    def __call__(self, tokens, labels):
        self.asked.append((tokens, labels))
        n = tokens.shape[1]
        marginal = self.joints.sum(axis=tuple(range(n + 2, LENGTH + 1)))
        return np.log(marginal[labels, *tokens.T]).astype(np.float32)


def draw(predictor, seeds, start=None, labels=None, **options):
    """Every grid that `run` yields."""
    labels = np.zeros(len(seeds), np.int32) if labels is None else np.asarray(labels, np.int32)
    start = np.full((len(seeds), LENGTH), MASK, np.int32) if start is None else start
    return list(run(predictor, start, mask=MASK, seeds=seeds, labels=labels, width=WIDTH, **options))


def test_samples_follow_the_exact_joint():
    samples = 20_000
    final = draw(Table(), range(samples))[-1]
    counts = np.bincount(indices(final), minlength=len(STATES))
    assert chi_square_z(counts, joint(0)) < 3.7
    # The same counts would not pass for another joint distribution.
    assert chi_square_z(counts, joint(1)) > 10


def test_a_kept_beginning_is_continued_from_the_exact_conditional():
    samples = 20_000
    start = np.tile(np.array([2, 0, MASK, MASK], np.int32), (samples, 1))
    untouched = start.copy()
    table = Table()
    grids = draw(table, range(samples), start)
    assert np.array_equal(start, untouched)
    assert len(grids) == len(table.asked) == 2  # what is kept is not asked for
    assert np.all(grids[-1][:, :2] == [2, 0])
    kept = (STATES[:, 0] == 2) & (STATES[:, 1] == 0)
    counts = np.bincount(indices(grids[-1][:, 2:]), minlength=CODES**2)
    assert chi_square_z(counts, joint(0)[kept] / joint(0)[kept].sum()) < 3.7


def test_a_kept_token_in_the_middle_steers_only_what_follows():
    samples = 20_000
    start = np.tile(np.array([MASK, MASK, 1, MASK], np.int32), (samples, 1))
    final = draw(Table(), range(samples), start)[-1]
    grid = joint(0).reshape([CODES] * LENGTH)
    exact = grid.sum((2, 3))[:, :, None] * grid[:, :, 1] / grid[:, :, 1].sum(2, keepdims=True)
    assert np.all(final[:, 2] == 1)
    counts = np.bincount(indices(final[:, [0, 1, 3]]), minlength=CODES**3)
    assert chi_square_z(counts, exact.ravel()) < 3.7


@settings(max_examples=30, deadline=None)
@given(st.lists(SEEDS, min_size=2, max_size=6), st.sampled_from([1.0, 2.5]), st.data())
def test_tokens_of_a_batch_are_those_drawn_alone(seeds, guidance, data):
    table, labels = Table(3), np.arange(len(seeds)) % 2
    shape = st.lists(st.integers(0, MASK), min_size=LENGTH, max_size=LENGTH)
    start = np.array([data.draw(shape) for _ in seeds], np.int32)
    *_, together = [start, *draw(table, seeds, start, labels, guidance=guidance, no_label=2)]
    for i, seed in enumerate(seeds):
        own = slice(i, i + 1)
        *_, alone = [start[own], *draw(table, [seed], start[own], labels[own], guidance=guidance, no_label=2)]
        assert np.array_equal(alone[0], together[i])
        assert np.array_equal(together[i][start[i] != MASK], start[i][start[i] != MASK])
    assert together.max() < CODES


@pytest.mark.parametrize(
    "options",
    [{"temperature": np.tile(np.float32([0.7, 1.3]), 50)}, {"top_k": 2}, {"top_p": 0.5}],
    ids=["temperature", "top_k", "top_p"],
)
def test_a_draw_is_the_specified_one_with_its_position_as_its_step(options):
    table, seeds = Table(), range(2**64 - 100, 2**64)
    options = {"temperature": 1.0, **options}
    tokens = np.full((100, LENGTH), MASK, np.int32)
    for position, grid in enumerate(draw(table, seeds, **options)):
        logits = table(tokens[:, :position], np.zeros(100, np.int32))
        place = {"sample": range(100), "position": [position] * 100, "step": position}
        tokens = draw_tokens(logits, tokens, **place, seeds=seeds, width=WIDTH, **options).tokens
        assert np.array_equal(grid, tokens)
    assert not np.array_equal(tokens, draw(table, seeds)[-1])


def test_top_k_of_one_is_the_likeliest_token_of_each_place():
    final = draw(Table(), range(50), top_k=1)[-1]
    expected, grid = [], joint(0).reshape([CODES] * LENGTH)
    for position in range(LENGTH):
        marginal = grid[tuple(expected)].sum(axis=tuple(range(1, LENGTH - position)))
        expected.append(int(marginal.argmax()))
    assert np.all(final == expected)


@pytest.mark.parametrize("guidance", [0.0, 0.5, 3.0])
def test_guidance_is_uncond_plus_weight_times_the_difference(guidance):
    table, seeds, labels = Table(2), range(300), np.zeros(300, np.int32)
    guided = draw(table, seeds, None, labels, guidance=guidance, no_label=1)

    def formula(tokens, labels):
        cond, uncond = table(tokens, labels), table(tokens, np.ones_like(labels))
        return uncond + np.float32(guidance) * (cond - uncond)

    assert np.array_equal(guided, draw(formula, seeds, None, labels))
    assert not np.array_equal(guided, draw(table, seeds, None, labels))


def test_the_network_sees_only_what_came_before_and_grows_by_what_was_drawn():
    table = Table()
    grids = draw(table, range(5))
    for position, (tokens, labels) in enumerate(table.asked):
        assert np.array_equal(tokens, grids[-1][:, :position])
        assert labels.tolist() == [0] * 5


def test_nothing_masked_is_nothing_to_do():
    table = Table()
    assert draw(table, range(3), np.zeros((3, LENGTH), np.int32)) == []
    assert not table.asked


def test_bad_input_is_named():
    with pytest.raises(UsageError, match=r"int32 \[N, L\] with one label each; got \[2, 4\] and labels \[1\]"):
        draw(Table(), range(2), labels=[0])
    with pytest.raises(SamplingError, match=r"sample 1, position 0, step 0.*NaN"):
        draw(lambda tokens, labels: np.array([[0.0, 0], [np.nan, 0]], np.float32), range(2))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, LENGTH)), max_size=12))
def test_whatever_is_asked_the_answer_is_that_of_one_who_keeps_nothing(asked: list[tuple[int, int, int]]) -> None:
    def read(new: np.ndarray, labels: np.ndarray, kept: list[np.ndarray] | None) -> tuple[np.ndarray, list[np.ndarray]]:
        parts = [] if kept is None else kept
        parts.append(new)
        return np.concatenate([labels[:, None], *parts], axis=1).astype(np.float32), parts

    grids = np.random.default_rng(0).integers(0, 2, (4, 2, LENGTH)).astype(np.int32)
    ask = reading_once(read)
    for grid, label, count in asked:
        labels = np.array([label, 5], np.int32)
        assert np.array_equal(ask(grids[grid, :, :count], labels), np.c_[labels, grids[grid, :, :count]])
