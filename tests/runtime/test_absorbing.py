"""Absorbing diffusion: its schedules, and draws whose exact distribution a small table of probabilities knows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.enumerated import (
    CODES,
    DIGITS,
    HEIGHT,
    LENGTH,
    MASK,
    STATES,
    WIDTH,
    Table,
    chances,
    counts_of,
    filled,
    frequencies,
    joint,
)
from helpers.schedules import calls_of
from helpers.statistics import chi_square_z
from smalti.errors import UsageError
from smalti.families.absorbing.sampler import fill_masked, run
from smalti.families.absorbing.schedule import Schedule, make_schedule
from smalti_kernels import sample as draw_tokens

SEEDS = st.integers(0, 2**64 - 1)
COUNTS = st.sampled_from(["exact", "binomial"])


def draw(denoiser, schedule, seeds, labels=None, temperature=1.0, **options):
    """Every grid that `run` yields, from all masks."""
    labels = np.zeros(len(seeds), np.int32) if labels is None else np.asarray(labels, np.int32)
    start = np.full((len(seeds), LENGTH), MASK, np.int32)
    return list(
        run(denoiser, start, schedule, seeds=seeds, labels=labels, width=WIDTH, temperature=temperature, **options)
    )


@pytest.mark.parametrize(
    "kind", [("exact", "random"), ("exact", "halton"), ("cosine", "random")], ids=lambda kind: "-".join(kind)
)
def test_one_position_per_step_draws_from_the_exact_joint(kind):
    samples, (counts, order) = 20_000, kind
    steps = LENGTH if counts == "exact" else 40  # cosine: so many that no step unmasks two
    schedule = make_schedule(range(samples), (HEIGHT, WIDTH), steps, counts, order)
    assert schedule.positions.shape == (samples, LENGTH, 1)
    *_, final = draw(Table(), schedule, range(samples))
    assert chi_square_z(counts_of(final), joint(0)) < 3.7
    # The same counts would not pass for another joint distribution.
    assert chi_square_z(counts_of(final), joint(1)) > 10


def skipping_law(parts: list[tuple[tuple[int, ...], ...]]) -> np.ndarray:
    """Law of grids whose positions are drawn part after part, each part at once, every plan equally likely."""
    table = chances()
    law: dict[tuple[int, ...], float] = {}
    for plan in parts:
        state = {(MASK,) * LENGTH: 1 / len(parts)}
        for positions in plan:
            after: dict[tuple[int, ...], float] = {}
            for grid, chance in state.items():
                for reached, own in filled(grid, positions, table).items():
                    after[reached] = after.get(reached, 0.0) + chance * own
            state = after
        for grid, chance in state.items():
            law[grid] = law.get(grid, 0.0) + chance
    return frequencies(law)


def split(choice: tuple[int, ...], steps: int) -> tuple[tuple[int, ...], ...]:
    """Positions of each step, where ``choice`` says the step of each position."""
    return tuple(tuple(p for p in range(LENGTH) if choice[p] == step) for step in range(steps))


@pytest.mark.parametrize("counts", ["exact", "binomial"])
def test_steps_that_are_skipped_draw_from_the_enumerated_law(counts):
    samples, steps = 40_000, 2
    choices = itertools.product(range(steps), repeat=LENGTH)
    law = skipping_law([split(c, steps) for c in choices if counts == "binomial" or sum(c) == LENGTH // 2])
    assert law.sum() == pytest.approx(1)
    *_, final = draw(Table(), make_schedule(range(samples), (HEIGHT, WIDTH), steps, counts), range(samples))
    assert chi_square_z(counts_of(final), law) < 3.7
    assert chi_square_z(counts_of(final), joint(0)) > 5


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


def test_a_schedule_that_masks_again_needs_the_mask_token():
    positions, steps = np.zeros((1, 1, 1), np.int32), np.zeros((1, 1), np.int32)
    schedule = Schedule(positions, steps, remasked=np.full((1, 1, 1), -1, np.int32))
    with pytest.raises(UsageError, match="masks tokens again; say with mask which"):
        draw(Table(), schedule, [0])


@pytest.mark.parametrize(("options", "allowed"), [({"top_k": 1}, 1), ({"top_p": 1e-4}, 1), ({"top_k": 2}, 2)])
def test_truncation_leaves_the_likeliest_tokens(options, allowed):
    table, schedule = Table(), make_schedule(range(300), (HEIGHT, WIDTH), LENGTH)
    grids = [np.full((300, LENGTH), MASK, np.int32), *draw(table, schedule, range(300), **options)]
    seen = set()
    for call, (before, after) in enumerate(itertools.pairwise(grids)):
        place = schedule.positions[:, call, 0]
        logits = table.logits[0, before @ DIGITS, place]
        rank = (logits > logits[np.arange(300), after[np.arange(300), place]][:, None]).sum(axis=1)
        seen |= set(rank.tolist())
    assert seen == set(range(allowed))


@settings(max_examples=100, deadline=None)
@given(st.tuples(st.integers(1, 7), st.integers(1, 7)), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_masked_tokens_are_shown_as_one_of_their_nearest(grid, share, noise):
    generator = np.random.default_rng(noise)
    tokens = np.arange(grid[0] * grid[1], dtype=np.int32).reshape(1, *grid)  # each token says where it stands
    masked = generator.random(tokens.shape) < share
    mask = tokens.size
    filled = fill_masked(np.where(masked, mask, tokens), mask)
    known = np.stack(np.nonzero(~masked[0]), axis=1)
    for (y, x), token in np.ndenumerate(filled[0]):
        if len(known):
            assert not masked[0][divmod(token, grid[1])]
            least = ((known - (y, x)) ** 2).sum(axis=1).min()
            assert ((np.array(divmod(token, grid[1])) - (y, x)) ** 2).sum() == least
        else:
            assert token == 0


def test_a_large_canvas_can_be_shown_before_it_is_finished():
    tokens = np.full((1, 700, 600), 9, np.int32)
    tokens[0, 350, :300], tokens[0, 100, 599] = 4, 7
    filled = fill_masked(tokens, 9)
    assert filled.shape == tokens.shape
    assert filled[0, 0, 599] == 7
    assert filled[0, 699, 0] == 4
    assert set(np.unique(filled)) == {4, 7}
