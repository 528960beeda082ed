"""Remasking: how many are masked and when, and final grids whose law a Markov chain over all patterns knows."""

from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.chains import POWER, law_by_chance, law_by_count, law_of_released_code
from helpers.enumerated import (
    CODES,
    HEIGHT,
    LENGTH,
    MASK,
    STATES,
    WIDTH,
    Table,
    counts_of,
    joint,
)
from helpers.statistics import chi_square_z
from smalti.errors import UsageError
from smalti.families.absorbing.remasking import remasking_schedule
from smalti.families.absorbing.sampler import run
from smalti.families.absorbing.schedule import Schedule, make_schedule, unmasked_after

SEEDS = st.integers(0, 2**64 - 1)
GRIDS = st.tuples(st.integers(1, 6), st.integers(1, 6))
REMASK = [0.0, 0.5, 1.0, "mlm"]
KINDS = st.sampled_from(
    [("exact", "random"), ("cosine", "random"), ("binomial", "random"), ("exact", "halton"), ("cosine", "halton")]
)


def draw(schedule: Schedule, samples: int, **options) -> np.ndarray:
    """Final grids (int [N, 4]) of seeds 0, 1, .. by the enumerated model."""
    start, labels = np.full((samples, LENGTH), MASK, np.int32), np.zeros(samples, np.int32)
    options = {"seeds": range(samples), "labels": labels, "width": WIDTH, "temperature": 1.0, **options}
    *_, final = run(Table(1, POWER), start, schedule, mask=MASK, **options)
    return final


def replay(schedule: Schedule, sample: int, wanted: np.ndarray) -> list[tuple[int, set[int], set[int], set[int]]]:
    """(step, masked again before it, masked at it, drawn) of each call of one sample, followed from its start."""
    masked, found = set(np.flatnonzero(wanted).tolist()), []
    for step, drawn, hidden in zip(schedule.steps[sample], schedule.positions[sample], schedule.remasked[sample]):
        again, now = ({int(p) for p in places if p >= 0} for places in (hidden, drawn))
        if step < 0:
            assert not again | now
            continue
        assert not again & masked
        masked |= again
        assert now
        assert now <= masked
        found.append((int(step), again, set(masked), now))
        masked -= now
    assert not masked
    return found


@settings(max_examples=100, deadline=None)
@given(
    GRIDS,
    st.integers(1, 30),
    st.lists(SEEDS, min_size=1, max_size=4),
    KINDS,
    st.one_of(st.floats(0, 1), st.just("mlm")),
    st.integers(0, 2**32 - 1),
)
def test_a_schedule_masks_what_was_drawn_draws_what_is_masked_and_ends_whole(grid, steps, seeds, kind, remask, noise):
    length, (counts, order) = grid[0] * grid[1], kind
    wanted = np.random.default_rng(noise).random((len(seeds), length)) < 0.7
    schedule = remasking_schedule(seeds, grid, steps, counts, order, remask, wanted)
    for sample, seed in enumerate(seeds):
        calls = replay(schedule, sample, wanted[sample])
        assert [step for step, *_ in calls] == sorted({step for step, *_ in calls})
        touched = set().union(*(again | now for _, again, _, now in calls), set())
        assert touched == set(np.flatnonzero(wanted[sample]).tolist())  # and never what is kept
        if counts != "binomial":
            done = unmasked_after(int(wanted[sample].sum()), steps, counts)
            for step, _, masked, now in calls:
                assert len(masked) == done[-1] - done[step]
                assert len(now) >= done[step + 1] - done[step]
        alone = remasking_schedule([seed], grid, steps, counts, order, remask, wanted[sample : sample + 1])
        assert replay(alone, 0, wanted[sample]) == calls


@pytest.mark.parametrize("counts", ["exact", "cosine", "binomial"])
def test_remasking_of_nothing_masks_nothing_again(counts):
    schedule = remasking_schedule(range(50), (4, 4), 6, counts, remask=0.0)
    assert not np.any(schedule.remasked >= 0)
    places = np.sort(schedule.positions.reshape(50, -1), axis=1)[:, -16:]
    assert np.array_equal(places, np.tile(np.arange(16), (50, 1)))


@pytest.mark.parametrize("remask", REMASK)
def test_binomial_keeps_the_marginals_at_every_step(remask):
    """The number of masked tokens before each step is binomial, as without remasking, and so is what is drawn."""
    samples, length, steps = 3000, 36, 4
    schedule = remasking_schedule(range(samples), (6, 6), steps, "binomial", remask=remask)
    masked, drawn, where = np.zeros((steps, samples), int), np.zeros((steps, samples), int), np.zeros((steps, length))
    for sample in range(samples):
        for step, _, before, now in replay(schedule, sample, np.ones(length, bool)):
            masked[step, sample], drawn[step, sample] = len(before), len(now)
            where[step, list(before)] += 1
    assert np.all(masked[0] == length)
    seen = (drawn > 0).all(axis=0)  # a step that draws nothing is no call, and its masks are not in the table
    assert seen.mean() > 0.999
    for step in range(steps):
        t, s = step / steps, (step + 1) / steps
        sigma = 1 - s if remask == "mlm" else remask * min(1, (1 - s) / max(t, 1e-9))
        for counts, chance in ((masked, 1 - t), (drawn, s - (1 - sigma) * t)):
            law = [comb(length, k) * chance**k * (1 - chance) ** (length - k) for k in range(length + 1)]
            if 0 < chance < 1:
                assert chi_square_z(np.bincount(counts[step, seen], minlength=length + 1), np.array(law)) < 3.7
        spread = np.sqrt(samples * t * (1 - t))
        assert np.all(np.abs(where[step] - samples * (1 - t)) <= 5 * spread)


@pytest.mark.parametrize(("remask", "order"), [(0.5, "random"), (1.0, "random"), ("mlm", "random"), (0.5, "halton")])
def test_counts_stay_and_as_many_as_promised_are_masked_again(remask, order):
    samples, length, steps = 500, 20, 5
    schedule = remasking_schedule(range(samples), (4, 5), steps, "exact", order, remask)
    again = np.zeros(steps)
    where = np.zeros(length)
    for sample in range(samples):
        for step, hidden, before, _ in replay(schedule, sample, np.ones(length, bool)):
            assert len(before) == length - 4 * step
            again[step] += len(hidden) / samples
            where[list(before)] += 1
    for step in range(1, steps):  # what step - 1 masks again is in the table before the call of step
        t, s = (step - 1) / steps, step / steps
        sigma = 1 - s if remask == "mlm" else remask * min(1, (1 - s) / max(t, 1e-9))
        assert again[step] == pytest.approx(sigma * t * length, abs=0.1)
    if order == "random":  # every position is masked as often as any other
        assert np.abs(where / where.mean() - 1).max() < 0.1


@pytest.mark.parametrize(
    ("counts", "steps", "remask", "law"),
    [
        ("binomial", 4, 0.0, lambda: law_by_chance(4, 0.0)),
        ("binomial", 4, 0.5, lambda: law_by_chance(4, 0.5)),
        ("binomial", 4, 1.0, lambda: law_by_chance(4, 1.0)),
        ("binomial", 4, "mlm", lambda: law_of_released_code(4)),
        ("exact", 4, 1.0, lambda: law_by_count(4, 1.0)),
    ],
    ids=["chance-0", "chance-half", "chance-1", "mlm", "count-1"],
)
def test_final_grids_follow_the_enumerated_chain(counts, steps, remask, law):
    samples, law = 40_000, law()
    assert law.sum() == pytest.approx(1)
    schedule = remasking_schedule(range(samples), (HEIGHT, WIDTH), steps, counts, remask=remask)
    assert chi_square_z(counts_of(draw(schedule, samples)), law) < 3.7


def test_the_laws_differ_by_more_than_chance_would():
    """Else the test above could not tell one sampler from another: draws of one fail as draws of the next."""
    laws = [law_by_chance(4, 0.0), law_by_chance(4, 1.0), law_of_released_code(4), law_by_count(4, 1.0)]
    for one, other in itertools.combinations(laws, 2):
        assert chi_square_z(np.rint(40_000 * one).astype(int), other) > 3.7


def test_drawing_again_one_at_a_time_keeps_the_joint():
    """With exact conditionals a token may be masked and drawn again any number of times (a step of Gibbs sampling)."""
    samples = 20_000
    plan = [(0, ()), (1, ()), (0, (0,)), (2, ()), (3, ()), (2, (2,)), (1, (1, 0)), (0, ())]
    positions = np.tile(np.array([[place] for place, _ in plan], np.int32), (samples, 1, 1))
    hidden = np.array([[*again, -1, -1][:2] for _, again in plan], np.int32)
    steps = np.tile(np.arange(len(plan), dtype=np.int32), (samples, 1))
    final = draw(Schedule(positions, steps, np.tile(hidden, (samples, 1, 1))), samples)
    assert chi_square_z(counts_of(final), joint(0, POWER)) < 3.7
    assert chi_square_z(counts_of(final), joint(1, POWER)) > 10


@pytest.mark.parametrize("remask", [0.3, "mlm"])
@pytest.mark.parametrize("counts", ["exact", "binomial"])
def test_tokens_of_a_batch_are_those_drawn_alone(counts, remask):
    seeds, labels = [7, 2**64 - 1, 7, 40], np.array([0, 1, 1, 0], np.int32)

    def tokens(which: list[int]) -> np.ndarray:
        own = [seeds[i] for i in which]
        schedule = remasking_schedule(own, (HEIGHT, WIDTH), 6, counts, remask=remask)
        start, options = np.full((len(own), LENGTH), MASK, np.int32), {"width": WIDTH, "temperature": 0.9}
        options |= {"guidance": 2.0, "no_label": 2, "mask": MASK, "labels": labels[which], "seeds": own}
        *_, final = run(Table(3), start, schedule, **options)
        return final

    together = tokens([0, 1, 2, 3])
    assert np.array_equal(together, np.concatenate([tokens([i]) for i in range(4)]))


def test_kept_tokens_are_seen_and_never_masked():
    samples = 20_000
    start = np.tile(np.array([2, MASK, MASK, 1], np.int32), (samples, 1))
    # One at a time, and the other masked again in between.
    schedule = remasking_schedule(range(samples), (HEIGHT, WIDTH), 2, "exact", remask=1.0, wanted=start == MASK)
    asked = Table()
    options = {"seeds": range(samples), "labels": np.zeros(samples, np.int32), "width": WIDTH, "temperature": 1.0}
    *_, final = run(asked, start, schedule, mask=MASK, **options)
    assert np.all(final[:, [0, 3]] == [2, 1])
    assert all(np.all(tokens[:, [0, 3]] == [2, 1]) for tokens, _, _ in asked.asked)
    kept = (STATES[:, 0] == 2) & (STATES[:, 3] == 1)
    counts = np.bincount(final[:, 1] * CODES + final[:, 2], minlength=CODES**2)
    assert chi_square_z(counts, joint(0)[kept] / joint(0)[kept].sum()) < 3.7


def test_one_step_draws_everything_whatever_is_remasked():
    for remask in REMASK:
        schedule = remasking_schedule([1, 2], (3, 3), 1, "binomial", remask=remask)
        assert schedule.calls == 1
        assert np.array_equal(np.sort(schedule.positions[:, 0]), np.tile(np.arange(9), (2, 1)))


def test_nothing_to_draw_is_no_call():
    schedule = remasking_schedule([1, 2], (3, 3), 4, "exact", remask=1.0, wanted=np.zeros((2, 9), bool))
    assert schedule.calls == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"remask": 1.5}, "remask 1.5: allowed are 0 .. 1 and mlm"),
        ({"remask": -0.1}, "remask -0.1: allowed are"),
        ({"remask": float("nan")}, "remask nan: allowed are"),
        ({"remask": "all"}, "remask 'all': allowed are 0 .. 1 and mlm"),
        ({"order": "confidence", "remask": 0.5}, "order confidence decides itself what stays masked"),
        (
            {"order": "confidence"},
            "order confidence depends on what is drawn: use smalti.families.absorbing.confidence",
        ),
        ({"order": "halton", "counts": "binomial"}, "binomial draws its own order"),
        ({"steps": 0}, "steps 0: allowed are"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(options, says):
    with pytest.raises(UsageError, match=says):
        remasking_schedule([0], (2, 2), **{"steps": 3, **options})


def test_a_schedule_that_is_laid_out_ahead_has_no_confidence():
    with pytest.raises(UsageError, match="order confidence depends on what is drawn"):
        make_schedule([0], (2, 2), 3, "exact", "confidence")
