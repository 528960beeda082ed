"""Absorbing diffusion: its schedules, and draws whose exact distribution a small table of probabilities knows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.absorbing import run
from smalti.schedule import Schedule, make_schedule
from smalti_kernels import sample as draw_tokens

SEEDS = st.integers(0, 2**64 - 1)
GRIDS = st.tuples(st.integers(1, 9), st.integers(1, 9))
COUNTS = st.sampled_from(["exact", "binomial"])

HEIGHT, WIDTH, CODES = 2, 2, 3
LENGTH = HEIGHT * WIDTH
MASK = CODES
STATES = np.array(list(itertools.product(range(CODES), repeat=LENGTH)))
PATTERNS = np.array(list(itertools.product(range(CODES + 1), repeat=LENGTH)))
"""Every grid with every choice of masks, in the order of its digits in base CODES + 1."""
DIGITS = (CODES + 1) ** np.arange(LENGTH)[::-1]


def chi_square_z(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Standard score of Pearson's chi-square (Wilson and Hilferty); 3.7 stands for p = 1e-4."""
    expected = probabilities * counts.sum()
    assert expected.min() >= 20
    freedom = counts.size - 1
    ratio = ((counts - expected) ** 2 / expected).sum() / freedom
    return float((ratio ** (1 / 3) - 1 + 2 / (9 * freedom)) / np.sqrt(2 / (9 * freedom)))


def joint(seed: int) -> np.ndarray:
    """A joint distribution over all grids in which every token depends on every other; float64 [81]."""
    weights = np.random.default_rng(seed).uniform(0.2, 1.8, len(STATES))
    return weights / weights.sum()


def conditionals(probabilities: np.ndarray) -> np.ndarray:
    """Logits of each position given the tokens that are not masked, by enumeration; float32 [256, 4, 3]."""
    fits = ((PATTERNS[:, None] == STATES) | (PATTERNS[:, None] == MASK)).all(axis=2)
    is_token = STATES[:, :, None] == np.arange(CODES)
    weights = np.einsum("ps,slk,s->plk", fits.astype(float), is_token.astype(float), probabilities)
    return np.log(np.maximum(weights, 1e-30)).astype(np.float32)


class Table:
    """A denoiser that knows the exact conditionals of one joint distribution per label, and keeps what it was asked."""

    def __init__(self, labels: int = 1) -> None:
        self.logits = np.stack([conditionals(joint(seed)) for seed in range(labels)])
        self.asked: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def __call__(self, tokens, labels, rows):
        self.asked.append((tokens, labels, rows))
        return self.logits[labels[:, None], (tokens @ DIGITS)[:, None], rows]


def draw(denoiser, schedule, seeds, labels=None, temperature=1.0, **options):
    """Every grid that `run` yields, from all masks."""
    labels = np.zeros(len(seeds), np.int32) if labels is None else np.asarray(labels, np.int32)
    start = np.full((len(seeds), LENGTH), MASK, np.int32)
    return list(
        run(denoiser, start, schedule, seeds=seeds, labels=labels, width=WIDTH, temperature=temperature, **options)
    )


def calls_of(schedule: Schedule, sample: int) -> list[tuple[int, tuple[int, ...]]]:
    """(step, positions) of each call of one sample."""
    rows = zip(schedule.steps[sample], schedule.positions[sample])
    return [(int(step), tuple(int(p) for p in positions if p >= 0)) for step, positions in rows if step >= 0]


def test_one_position_per_step_draws_from_the_exact_joint():
    samples = 20_000
    *_, final = draw(Table(), make_schedule(range(samples), (HEIGHT, WIDTH), LENGTH), range(samples))
    counts = np.bincount(final @ (CODES ** np.arange(LENGTH)[::-1]), minlength=len(STATES))
    assert chi_square_z(counts, joint(0)) < 3.7
    # The same counts would not pass for another joint distribution.
    assert chi_square_z(counts, joint(1)) > 10


def test_all_positions_in_one_step_draw_from_the_product_of_marginals():
    samples = 20_000
    (final,) = draw(Table(), make_schedule(range(samples), (HEIGHT, WIDTH), 1), range(samples))
    marginals = np.exp(Table().logits[0, -1])
    product = np.prod([marginals[i, STATES[:, i]] for i in range(LENGTH)], axis=0)
    counts = np.bincount(final @ (CODES ** np.arange(LENGTH)[::-1]), minlength=len(STATES))
    assert chi_square_z(counts, product) < 3.7
    assert chi_square_z(counts, joint(0)) > 10


@settings(max_examples=30, deadline=None)
@given(st.lists(SEEDS, min_size=2, max_size=6), st.integers(1, 8), COUNTS, st.sampled_from([1.0, 2.5]))
def test_tokens_of_a_batch_are_those_drawn_alone(seeds, steps, counts, guidance):
    table, labels = Table(3), np.arange(len(seeds)) % 2
    schedule = make_schedule(seeds, (HEIGHT, WIDTH), steps, counts)
    *_, together = draw(table, schedule, seeds, labels, guidance=guidance, no_label=2)
    for i, seed in enumerate(seeds):
        own = make_schedule([seed], (HEIGHT, WIDTH), steps, counts)
        *_, alone = draw(table, own, [seed], labels[i : i + 1], guidance=guidance, no_label=2)
        assert np.array_equal(alone[0], together[i])


def test_a_draw_is_the_specified_one_at_its_own_step_and_position():
    # Sample 1 has no second call, and the steps are those of the diffusion, not the numbers of the calls.
    schedule = Schedule(
        np.array([[[2, 0], [1, 3]], [[3, 1], [-1, -1]]], np.int32), np.array([[3, 9], [5, -1]], np.int32)
    )
    table, seeds = Table(), [11, 12]
    first, second = draw(table, schedule, seeds, temperature=0.7)
    common = {"seeds": np.array(seeds, np.uint64), "width": WIDTH, "temperature": 0.7}
    tokens = np.full((2, LENGTH), MASK, np.int32)
    logits = table.logits[0, -1]
    rows = {"sample": [0, 0, 1, 1], "position": [2, 0, 3, 1], "step": [3, 3, 5, 5]}
    tokens = draw_tokens(logits[rows["position"]], tokens, **rows, **common).tokens
    assert np.array_equal(first, tokens)
    logits = table.logits[0, tokens[0] @ DIGITS]
    tokens = draw_tokens(logits[[1, 3]], tokens, sample=[0, 0], position=[1, 3], step=[9, 9], **common).tokens
    assert np.array_equal(second, tokens)


def test_temperature_may_be_given_per_sample():
    table, schedule = Table(), make_schedule(range(40), (HEIGHT, WIDTH), 2)
    *_, mixed = draw(table, schedule, range(40), temperature=np.repeat(np.float32([0.05, 3.0]), 20))
    *_, cold = draw(table, schedule, range(40), temperature=0.05)
    *_, hot = draw(table, schedule, range(40), temperature=3.0)
    assert np.array_equal(mixed, np.concatenate([cold[:20], hot[20:]]))
    assert not np.array_equal(cold, hot)


@pytest.mark.parametrize("guidance", [0.0, 0.5, 3.0])
def test_guidance_is_uncond_plus_weight_times_the_difference(guidance):
    table, seeds, labels = Table(2), range(300), np.zeros(300, np.int32)
    schedule = make_schedule(seeds, (HEIGHT, WIDTH), 3, "binomial")
    guided = draw(table, schedule, seeds, labels, guidance=guidance, no_label=1)

    def formula(tokens, labels, rows):
        cond, uncond = table(tokens, labels, rows), table(tokens, np.ones_like(labels), rows)
        return uncond + np.float32(guidance) * (cond - uncond)

    assert np.array_equal(guided, draw(formula, schedule, seeds, labels))
    if guidance == 0:
        assert np.array_equal(guided, draw(table, schedule, seeds, np.ones(300, np.int32)))
    assert not np.array_equal(guided, draw(table, schedule, seeds, labels))


def test_guidance_one_asks_the_network_once_and_any_other_twice():
    seeds = range(5)
    schedule = make_schedule(seeds, (HEIGHT, WIDTH), 4)
    once, twice = Table(3), Table(3)
    plain = draw(once, schedule, seeds, np.zeros(5), guidance=1.0, no_label=2)
    draw(twice, schedule, seeds, np.zeros(5), guidance=2.0, no_label=2)
    assert [labels.tolist() for _, labels, _ in once.asked] == [[0] * 5] * 4
    assert [labels.tolist() for _, labels, _ in twice.asked] == [[0] * 5 + [2] * 5] * 4
    for tokens, _, rows in twice.asked:
        assert np.array_equal(tokens[:5], tokens[5:])
        assert np.array_equal(rows[:5], rows[5:])
    assert np.array_equal(plain, draw(Table(3), schedule, seeds, np.zeros(5)))


def test_only_unfinished_samples_and_needed_rows_reach_the_network():
    seeds = list(range(60))
    schedule = make_schedule(seeds, (HEIGHT, WIDTH), 3, "binomial")
    table = Table()
    grids = draw(table, schedule, seeds)
    before = [np.full((60, LENGTH), MASK), *grids]
    sizes = []
    for call, (tokens, _, rows) in enumerate(table.asked):
        active = [i for i in seeds if len(calls_of(schedule, i)) > call]
        wanted = [calls_of(schedule, i)[call][1] for i in active]
        assert np.array_equal(tokens, before[call][active])
        assert rows.shape == (len(active), max(map(len, wanted)))
        for row, positions in zip(rows, wanted):
            assert tuple(row[: len(positions)]) == positions
            assert np.all(row[len(positions) :] == 0)
        sizes.append(rows.shape)
    assert len(table.asked) == schedule.calls == 3
    # The case is a real one: samples end early, and the last call needs fewer rows than there are positions.
    assert sizes[-1][0] < 60
    assert sizes[-1][1] < LENGTH


def test_tokens_change_once_where_scheduled_and_nowhere_else():
    seeds = range(50)
    schedule = make_schedule(seeds, (HEIGHT, WIDTH), 3, "binomial")
    grids = [np.full((50, LENGTH), MASK, np.int32), *draw(Table(), schedule, seeds)]
    for call, (before, after) in enumerate(itertools.pairwise(grids)):
        scheduled = np.zeros(before.shape, bool)
        sample, within = np.nonzero(schedule.positions[:, call] >= 0)
        scheduled[sample, schedule.positions[sample, call, within]] = True
        assert np.all(before[scheduled] == MASK)
        assert np.all(after[scheduled] < CODES)
        assert np.array_equal(after[~scheduled], before[~scheduled])
    assert not np.any(grids[-1] == MASK)


def test_kept_tokens_never_change_and_the_rest_is_drawn_given_them():
    samples = 20_000
    start = np.tile(np.array([2, MASK, MASK, 1], np.int32), (samples, 1))
    untouched = start.copy()
    first = np.arange(samples) % 2
    positions = np.stack([1 + first, 2 - first], axis=1)[:, :, None].astype(np.int32)
    schedule = Schedule(positions, np.tile(np.array([0, 1], np.int32), (samples, 1)))
    labels = np.zeros(samples, np.int32)
    grids = list(run(Table(), start, schedule, seeds=range(samples), labels=labels, width=WIDTH, temperature=1.0))
    for tokens in grids:
        assert np.all(tokens[:, [0, 3]] == [2, 1])
    assert np.array_equal(start, untouched)
    kept = (STATES[:, 0] == 2) & (STATES[:, 3] == 1)
    counts = np.bincount(grids[-1][:, 1] * CODES + grids[-1][:, 2], minlength=CODES**2)
    assert chi_square_z(counts, joint(0)[kept] / joint(0)[kept].sum()) < 3.7
