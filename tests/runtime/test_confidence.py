"""The confidence order: laws by enumeration, the promise that the surest tokens are kept, and noise that fades."""

from __future__ import annotations

import itertools
from collections import Counter

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
from helpers.statistics import chi_square_z
from smalti.errors import UsageError
from smalti.families.absorbing.confidence import MAX_CHOICE_TEMPERATURE, confidence, run
from smalti.families.absorbing.schedule import MAX_STEPS, call_sizes
from smalti_kernels import sample as draw_tokens

SEEDS = st.integers(0, 2**64 - 1)
EMPTY = (MASK,) * LENGTH


def draw(denoiser, seeds, steps, counts="exact", start=None, labels=None, **options) -> list[np.ndarray]:
    """Every grid that `run` yields, from all masks unless there is a ``start``."""
    start = np.full((len(seeds), LENGTH), MASK, np.int32) if start is None else start
    labels = np.zeros(len(seeds), np.int32) if labels is None else labels
    sizes, call_steps = call_sizes((start == MASK).sum(axis=1), steps, counts)
    options = {"width": WIDTH, "temperature": 1.0, **options}
    return list(run(denoiser, start, sizes, call_steps, steps=steps, mask=MASK, seeds=seeds, labels=labels, **options))


def test_one_step_draws_from_the_product_of_marginals():
    (final,) = draw(Table(), range(20_000), 1)
    law = frequencies(filled(EMPTY, tuple(range(LENGTH)), chances()))
    assert chi_square_z(counts_of(final), law) < 3.7
    assert chi_square_z(counts_of(final), joint(0)) > 10


def test_one_token_per_step_with_nothing_but_noise_is_a_random_order_and_the_exact_joint():
    samples = 20_000
    grids = draw(Table(), range(samples), LENGTH, choice_temperature=MAX_CHOICE_TEMPERATURE)
    assert chi_square_z(counts_of(grids[-1]), joint(0)) < 3.7
    assert chi_square_z(counts_of(grids[-1]), joint(1)) > 10
    # When each position came: all 24 orders are equally likely.
    came = np.sum([grid == MASK for grid in grids], axis=0)
    orders = np.unique(came @ LENGTH ** np.arange(LENGTH), return_counts=True)[1]
    assert chi_square_z(orders, np.full(24, 1 / 24)) < 3.7


def test_without_noise_final_grids_follow_the_enumerated_law():
    """Two steps of two tokens: of every possible first draw the two likeliest tokens stay."""
    samples, table = 40_000, chances(4)
    law: dict[tuple[int, ...], float] = Counter()
    for grid, chance in filled(EMPTY, tuple(range(LENGTH)), table).items():
        own = table[int(np.array(EMPTY) @ DIGITS)][np.arange(LENGTH), list(grid)]
        assert len(np.unique(np.round(own, 6))) == LENGTH, "no ties"
        kept = np.argsort(-own)[:2]
        half = tuple(token if p in kept else MASK for p, token in enumerate(grid))
        for reached, rest in filled(half, tuple(p for p in range(LENGTH) if p not in kept), table).items():
            law[reached] += chance * rest
    *_, final = draw(Table(1, 4), range(samples), 2, choice_temperature=0.0)
    assert chi_square_z(counts_of(final), frequencies(law)) < 3.7
    *_, other = draw(Table(1, 4), range(samples), 2, choice_temperature=4.5)
    assert chi_square_z(counts_of(other), frequencies(law)) > 10


@pytest.mark.parametrize("options", [{}, {"guidance": 2.0, "no_label": 1}, {"top_k": 2, "temperature": 0.7}])
def test_what_is_kept_is_the_likeliest_of_what_was_drawn(options):
    """Without noise: each call's draw is made again here, and its tokens compared with those that stayed."""
    samples, table = 300, Table(2)
    grids = [np.full((samples, LENGTH), MASK, np.int32)]
    grids += draw(table, range(samples), LENGTH, "exact", choice_temperature=0.0, **options)
    everywhere = np.tile(np.arange(LENGTH), (samples, 1))
    for step, (before, after) in enumerate(itertools.pairwise(grids)):
        masked = before == MASK
        which, place = np.nonzero(masked)
        cond, uncond = (table(before, np.full(samples, label), everywhere)[masked] for label in (0, 1))
        guided = uncond if "guidance" in options else None
        drawing = {name: value for name, value in {"temperature": 1.0, **options}.items() if name != "no_label"}
        drawn = draw_tokens(
            cond, before, sample=which, position=place, seeds=range(samples), step=step, width=WIDTH,
            uncond=guided, logprob=True, **drawing,
        )  # fmt: skip
        stays = after[which, place] != MASK
        assert np.array_equal(after[which, place][stays], drawn.tokens[which, place][stays])
        score = np.full((samples, LENGTH), -(2**31), np.int64)
        score[which, place] = drawn.logprob
        assert np.array_equal(np.argmax(score, axis=1), np.argmax(masked & (after != MASK), axis=1))
        assert np.all((masked & (after != MASK)).sum(axis=1) == 1)


def test_noise_fades_linearly_and_is_nothing_at_the_last_step():
    logprob, noise = np.array([-(3 << 16), -(3 << 16)], np.int32), np.array([1 << 16, -(1 << 16)], np.int32)
    unit = 2.0**32
    for step, heat in enumerate((3.0, 2.0, 1.0, 0.0)):
        score = confidence(logprob, noise, 4.0, np.full(2, step, np.int32), 4)
        assert (score / unit).tolist() == [-3 + heat, -3 - heat]
    # The greatest values there are stay within 64 bits.
    extreme = np.array([-(2**31), 0], np.int32)
    score = confidence(extreme, np.array([-(4 << 16), 23 << 16], np.int32), 1e6, np.zeros(2, np.int32), MAX_STEPS)
    assert score[0] / unit == pytest.approx(-(2**15) - 4e6, rel=1e-3)
    assert score[1] / unit == pytest.approx(23e6, rel=1e-3)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(SEEDS, min_size=2, max_size=5),
    st.integers(1, 8),
    st.sampled_from(["exact", "cosine"]),
    st.sampled_from([0.0, 4.5]),
    st.sampled_from([1.0, 2.5]),
    st.data(),
)
def test_tokens_of_a_batch_are_those_drawn_alone_and_kept_ones_stay(seeds, steps, counts, choice, guidance, data):
    cells = st.lists(st.integers(0, MASK), min_size=LENGTH, max_size=LENGTH)
    start = np.array([data.draw(cells) for _ in seeds], np.int32)
    labels = (np.arange(len(seeds)) % 2).astype(np.int32)
    options = {"choice_temperature": choice, "guidance": guidance, "no_label": 2}
    *_, together = [start, *draw(Table(3), seeds, steps, counts, start, labels, **options)]
    assert together.max() < CODES
    assert np.array_equal(together[start != MASK], start[start != MASK])
    for i, seed in enumerate(seeds):
        own = slice(i, i + 1)
        *_, alone = [start[own], *draw(Table(3), [seed], steps, counts, start[own], labels[own], **options)]
        assert np.array_equal(alone[0], together[i])


def test_the_rest_of_a_grid_is_drawn_given_what_is_kept():
    samples = 20_000
    start = np.tile(np.array([2, MASK, MASK, 1], np.int32), (samples, 1))
    untouched, table = start.copy(), Table()
    final = draw(table, range(samples), 8, start=start, choice_temperature=MAX_CHOICE_TEMPERATURE)[-1]
    assert np.array_equal(start, untouched)
    assert [rows.shape[1] for _, _, rows in table.asked] == [2, 1]  # kept positions are not asked about
    kept = (STATES[:, 0] == 2) & (STATES[:, 3] == 1)
    counts = np.bincount(final[:, 1] * CODES + final[:, 2], minlength=CODES**2)
    assert chi_square_z(counts, joint(0)[kept] / joint(0)[kept].sum()) < 3.7


@given(st.lists(st.integers(0, 60), min_size=1, max_size=5), st.integers(1, 80), st.sampled_from(["exact", "cosine"]))
def test_sizes_add_up_and_no_call_is_empty(totals, steps, counts):
    sizes, call_steps = call_sizes(np.array(totals), steps, counts)
    assert sizes.sum(axis=1).tolist() == totals
    assert sizes.shape == call_steps.shape
    for own, step in zip(sizes, call_steps):
        used = own > 0
        assert np.array_equal(used, step >= 0)
        assert np.all(np.diff(used.astype(int)) <= 0)
        assert np.all(np.diff(step[used]) > 0)
        assert np.all(step < steps)


def test_equal_confidence_keeps_the_lower_position():
    def flat(tokens, labels, rows):
        return np.zeros((*rows.shape, CODES), np.float32)

    first, *_ = draw(flat, range(20), LENGTH, choice_temperature=0.0)
    assert np.array_equal(first == MASK, np.tile([False, True, True, True], (20, 1)))


def test_bad_input_is_named():
    start, labels = np.full((2, LENGTH), MASK, np.int32), np.zeros(2, np.int32)
    sizes, steps = call_sizes(np.array([4, 3]), 2, "exact")
    options = {"steps": 2, "mask": MASK, "seeds": range(2), "labels": labels, "width": WIDTH, "temperature": 1.0}
    with pytest.raises(UsageError, match=r"sizes add up to \[4, 3\], and \[4, 4\] positions are masked"):
        next(run(Table(), start, sizes, steps, **options))
    for wrong in (-1.0, float("nan"), 2e6):
        with pytest.raises(UsageError, match=r"choice_temperature .*: allowed are 0 \.\. 1e\+06"):
            draw(Table(), range(HEIGHT), 2, choice_temperature=wrong)
