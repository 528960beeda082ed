"""Schedules: every position once, as many per step as promised, in an order that the seed alone decides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.schedules import calls_of
from helpers.statistics import chi_square_z
from smalti import UsageError
from smalti.families.absorbing.schedule import MAX_STEPS, halton_positions, make_schedule

SEEDS = st.integers(0, 2**64 - 1)
GRIDS = st.tuples(st.integers(1, 9), st.integers(1, 9))
COUNTS = st.sampled_from(["exact", "cosine", "binomial"])
KINDS = st.sampled_from(
    [("exact", "random"), ("cosine", "random"), ("binomial", "random"), ("exact", "halton"), ("cosine", "halton")]
)


@settings(max_examples=100, deadline=None)
@given(GRIDS, st.integers(1, 200), st.lists(SEEDS, min_size=1, max_size=5), KINDS)
def test_every_position_comes_exactly_once_and_no_call_is_empty(grid, steps, seeds, kind):
    schedule = make_schedule(seeds, grid, steps, *kind)
    assert schedule.positions.dtype == schedule.steps.dtype == np.int32
    assert schedule.positions.shape[:2] == schedule.steps.shape == (len(seeds), schedule.calls)
    for sample in range(len(seeds)):
        calls = calls_of(schedule, sample)
        assert sorted(p for _, positions in calls for p in positions) == list(range(grid[0] * grid[1]))
        assert all(positions for _, positions in calls)
        order = [step for step, _ in calls]
        assert order == sorted(set(order))
        assert all(0 <= step < steps for step in order)
        # A sample's calls come first, and nothing follows its last.
        assert np.all(schedule.steps[sample, len(calls) :] == -1)
        assert np.all(schedule.positions[sample, len(calls) :] == -1)
    assert max(len(calls_of(schedule, sample)) for sample in range(len(seeds))) == schedule.calls


@settings(max_examples=100, deadline=None)
@given(GRIDS, st.integers(1, 200), SEEDS)
def test_exact_counts_are_as_even_as_whole_numbers_allow(grid, steps, seed):
    length = grid[0] * grid[1]
    schedule = make_schedule([seed], grid, steps)
    sizes = [len(positions) for _, positions in calls_of(schedule, 0)]
    assert schedule.calls == min(steps, length)
    assert set(sizes) <= {length // steps, -(-length // steps)}


@settings(max_examples=50, deadline=None)
@given(GRIDS, st.integers(1, 100), st.lists(SEEDS, min_size=2, max_size=5), KINDS)
def test_a_schedule_depends_on_its_own_seed_alone(grid, steps, seeds, kind):
    together = make_schedule(seeds, grid, steps, *kind)
    for sample, seed in enumerate(seeds):
        assert calls_of(together, sample) == calls_of(make_schedule([seed], grid, steps, *kind), 0)


@pytest.mark.parametrize("counts", ["exact", "binomial"])
def test_neighbouring_seeds_give_different_orders(counts):
    schedule = make_schedule(range(200), (8, 8), 64, counts)
    orders = {tuple(p for _, positions in calls_of(schedule, sample) for p in positions) for sample in range(200)}
    assert len(orders) == 200


def test_exact_orders_put_every_position_at_every_rank_alike():
    length, samples = 12, 6000
    order = make_schedule(range(samples), (3, 4), length).positions[:, :, 0]
    for rank in (0, 5, 11):
        assert chi_square_z(np.bincount(order[:, rank], minlength=length), np.full(length, 1 / length)) < 3.7


def test_binomial_steps_are_uniform_for_each_position():
    length, steps, samples = 16, 7, 4000
    schedule = make_schedule(range(samples), (4, 4), steps, "binomial")
    sample, call, within = np.nonzero(schedule.positions >= 0)
    counts = np.zeros((length, steps), int)
    np.add.at(counts, (schedule.positions[sample, call, within], schedule.steps[sample, call]), 1)
    assert np.all(counts.sum(axis=1) == samples)
    scores = [chi_square_z(row, np.full(steps, 1 / steps)) for row in (*counts, counts.sum(axis=0))]
    # Seventeen scores of fixed seeds, each beyond 3.7 once in ten thousand; a flat table would be suspicious as well.
    assert max(scores) < 3.7
    assert max(scores) > -1


@pytest.mark.parametrize(("grid", "steps"), [((16, 16), 256), ((4, 4), 16), ((8, 8), 1000)])
def test_binomial_calls_are_as_many_as_steps_that_are_not_empty(grid, steps):
    samples, length = 400, grid[0] * grid[1]
    schedule = make_schedule(range(samples), grid, steps, "binomial")
    calls = (schedule.steps >= 0).sum(axis=1)
    expected = steps * (1 - (1 - 1 / steps) ** length)
    assert abs(calls.mean() - expected) < 4 * calls.std() / np.sqrt(samples) + 1e-9
    if steps == 256:
        assert round(expected) == 162


@pytest.mark.parametrize("steps", [0, -1, MAX_STEPS + 1, 2**40])
def test_steps_outside_what_is_allowed_are_refused(steps):
    with pytest.raises(UsageError, match=rf"steps {steps}: allowed are 1 \.\. {MAX_STEPS}"):
        make_schedule([0], (2, 2), steps)


def test_the_most_steps_allowed_still_make_a_schedule():
    assert make_schedule([0], (2, 2), MAX_STEPS).calls == 4
    assert make_schedule([0], (2, 2), MAX_STEPS, "binomial").calls <= 4


def test_an_unknown_schedule_is_refused():
    with pytest.raises(UsageError, match="schedule 'even': allowed are exact, cosine and binomial"):
        make_schedule([0], (2, 2), 2, "even")  # type: ignore[arg-type]


def test_an_unknown_order_is_refused_and_so_is_halton_with_binomial():
    with pytest.raises(UsageError, match="order 'raster': allowed are random, halton and confidence"):
        make_schedule([0], (2, 2), 2, "exact", "raster")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="binomial draws its own order"):
        make_schedule([0], (2, 2), 2, "binomial", "halton")


@settings(max_examples=100, deadline=None)
@given(GRIDS, st.integers(1, 200), SEEDS)
def test_cosine_counts_leave_the_promised_share_masked(grid, steps, seed):
    length = grid[0] * grid[1]
    schedule = make_schedule([seed], grid, steps, "cosine")
    left = length
    for step, positions in calls_of(schedule, 0):
        left -= len(positions)
        assert abs(left - length * np.cos(np.pi / 2 * (step + 1) / steps)) <= 0.5 + 1e-9
    assert left == 0


def test_cosine_begins_with_single_tokens_where_exact_begins_with_many():
    first = {counts: len(calls_of(make_schedule([0], (16, 16), 24, counts), 0)[0][1]) for counts in ("exact", "cosine")}
    assert first == {"exact": 11, "cosine": 1}


def test_halton_points_are_the_known_sequence():
    # Points 1 .. 6 in bases 2 and 3: (1/2, 1/3), (1/4, 2/3), (3/4, 1/9), (1/8, 4/9), (5/8, 7/9), (3/8, 2/9).
    points = [(1 / 2, 1 / 3), (1 / 4, 2 / 3), (3 / 4, 1 / 9), (1 / 8, 4 / 9), (5 / 8, 7 / 9), (3 / 8, 2 / 9)]
    expected = [int(y * 32) * 27 + int(x * 27 + 1e-9) for y, x in points]
    assert halton_positions((32, 27))[:6].tolist() == expected


@settings(max_examples=30, deadline=None)
@given(GRIDS)
def test_halton_visits_every_position_once(grid):
    assert sorted(halton_positions(grid).tolist()) == list(range(grid[0] * grid[1]))


def test_halton_orders_are_rolls_of_one_another_and_keep_tokens_of_a_step_apart():
    def spread(order: str) -> float:
        """Mean over seeds of the least distance between two of the first 16 positions."""
        found = make_schedule(range(100), (16, 16), 16, "exact", order).positions[:, 0]  # type: ignore[arg-type]
        y, x = np.divmod(found.astype(float), 16)
        apart = np.hypot(y[:, :, None] - y[:, None], x[:, :, None] - x[:, None])
        return float(np.where(np.eye(16, dtype=bool), np.inf, apart).min(axis=(1, 2)).mean())

    assert spread("halton") > 2 * spread("random")
    schedule = make_schedule(range(500), (8, 8), 64, "exact", "halton")
    order = schedule.positions[:, :, 0]
    y, x = np.divmod(order, 8)
    shifted = ((y - y[:, :1]) % 8, (x - x[:, :1]) % 8)
    assert all(np.array_equal(part, np.broadcast_to(part[0], part.shape)) for part in shifted)
    assert len({tuple(row) for row in order.tolist()}) == 64, "every roll of an 8x8 grid turns up among 500 seeds"


@settings(max_examples=100, deadline=None)
@given(GRIDS, st.integers(1, 40), st.lists(SEEDS, min_size=1, max_size=5), KINDS, st.integers(0, 2**32 - 1))
def test_only_wanted_positions_come_in_the_order_they_have_without_the_others(grid, steps, seeds, kind, noise):
    length = grid[0] * grid[1]
    wanted = np.random.default_rng(noise).random((len(seeds), length)) < 0.5
    schedule = make_schedule(seeds, grid, steps, *kind, wanted=wanted)
    whole = make_schedule(seeds, grid, steps, *kind)
    for sample in range(len(seeds)):
        found = [p for _, positions in calls_of(schedule, sample) for p in positions]
        every = [p for _, positions in calls_of(whole, sample) for p in positions]
        assert found == [p for p in every if wanted[sample, p]]
        if kind[0] == "binomial":
            assert calls_of(schedule, sample) == [
                (step, kept)
                for step, positions in calls_of(whole, sample)
                if (kept := tuple(p for p in positions if wanted[sample, p]))
            ]
        elif kind[0] == "exact":
            sizes = {len(positions) for _, positions in calls_of(schedule, sample)}
            assert len(sizes) <= 2
            assert max(sizes, default=1) - min(sizes, default=1) <= 1


def test_a_schedule_of_nothing_has_no_calls():
    schedule = make_schedule([1, 2], (3, 3), 4, wanted=np.zeros((2, 9), bool))
    assert schedule.calls == 0
