"""Multinomial sampling: its tables, its posterior, and draws whose exact distribution a small chain knows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from helpers.noise_chain import (
    ALPHAS,
    CODES,
    LENGTH,
    STATES,
    TimedTable,
    best_denoiser,
    draw,
    law,
    likelihoods,
)
from helpers.statistics import chi_square_z
from smalti.errors import SamplingError, UsageError
from smalti.families.multinomial.sampler import CLEAN, cosine_alphas, posterior_weights, strides
from smalti_kernels import STREAM_SUBSET, random_words
from smalti_kernels.spec import mixtures


def test_the_cosine_schedules_are_those_of_the_paper_and_of_its_code():
    printed, released = cosine_alphas(4000, "printed"), cosine_alphas(4000, "released")
    assert np.allclose(released**2, printed)
    assert printed.prod() < 1e-6
    half = printed[:2000].prod(), released[:2000].prod()
    assert half == pytest.approx((0.494, 0.702), abs=1e-3)
    assert printed.min() == pytest.approx(0.001)
    assert np.all(cosine_alphas(1, "printed") == 0.001)
    with pytest.raises(UsageError, match="steps 0: at least 1"):
        cosine_alphas(0, "printed")


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_strides_begin_at_the_noisiest_time_and_end_at_the_clean_grid(steps):
    table = strides(steps, ALPHAS)
    assert table.steps == steps
    assert table.times[0] == 4
    ends = [*table.times[1:], CLEAN]
    assert all(before > after for before, after in zip(table.times, ends))
    for time, end, kept, clean, seen in zip(table.times, ends, table.kept, table.clean, table.seen, strict=True):
        assert kept == pytest.approx(ALPHAS[end + 1 : time + 1].prod())
        assert clean == pytest.approx(ALPHAS[: end + 1].prod())
        assert seen == pytest.approx(ALPHAS[: time + 1].prod())
    assert table.clean[-1] == 1
    if steps == len(ALPHAS):
        assert np.allclose(table.kept, ALPHAS[::-1])


@pytest.mark.parametrize("steps", [0, 6])
def test_there_are_no_more_steps_than_were_trained(steps):
    with pytest.raises(UsageError, match=f"steps {steps}: allowed are 1 .. 5, the steps that this prior was trained"):
        strides(steps, ALPHAS)


@pytest.mark.parametrize(("time", "end"), [(4, 3), (4, 0), (4, -1), (2, 0), (1, 0), (0, -1)])
def test_the_posterior_is_bayes_rule_over_any_stride(time, end):
    clean = np.random.default_rng(1).dirichlet(np.ones(CODES), size=CODES)
    kept, share = float(ALPHAS[end + 1 : time + 1].prod()), float(ALPHAS[: end + 1].prod())
    weights = posterior_weights(kept, share, CODES)
    shares = np.rint(clean * 2**mixtures.SHARE_BITS).astype(np.uint64)
    found = np.exp(mixtures.posterior(shares, np.arange(CODES, dtype=np.int32), *weights).astype(np.float64))
    joint = (clean @ likelihoods(share)) * likelihoods(kept).T  # [row: z_t, z_s]
    assert np.allclose(found / found.sum(1, keepdims=True), joint / joint.sum(1, keepdims=True), atol=1e-4)


@pytest.mark.parametrize("steps", [5, 3, 1])
def test_draws_follow_the_exact_law_of_the_chain(steps):
    table, count = strides(steps, ALPHAS), 20_000
    grids = draw(TimedTable(), table, range(count))
    assert len(grids) == steps
    found = np.bincount(grids[-1] @ (CODES ** np.arange(LENGTH)[::-1]), minlength=len(STATES))
    expected = law(TimedTable(), table)
    assert expected.sum() == pytest.approx(1)
    assert chi_square_z(found, expected) < 3.7


def test_more_steps_come_closer_to_the_data():
    """A denoiser that is right errs only where tokens of one step are drawn apart from each other."""
    data = np.random.default_rng(2).dirichlet(np.full(len(STATES), 0.3))
    alphas = cosine_alphas(64, "printed")
    away = [
        np.abs(law(best_denoiser(data, alphas), strides(steps, alphas)) - data).sum() / 2
        for steps in (1, 2, 4, 8, 16, 32, 64)
    ]
    assert all(more < fewer for fewer, more in itertools.pairwise(away))
    assert away[0] > 0.3
    assert away[-1] < 0.02


def test_a_sample_is_the_same_alone_and_in_a_batch(monkeypatch):
    table = strides(4, ALPHAS)
    batch = draw(TimedTable(), table, range(30, 50))
    for place in (0, 7, 19):
        assert np.array_equal(draw(TimedTable(), table, [30 + place])[-1][0], batch[-1][place])
    monkeypatch.setattr("smalti.families.batching.ROWS", 4)
    assert np.array_equal(draw(TimedTable(), table, range(30, 50)), batch)


def test_the_network_is_told_the_time_of_each_step():
    at = TimedTable()
    grids = draw(at, strides(3, ALPHAS), range(4))
    assert [time for time, *_ in at.asked] == strides(3, ALPHAS).times.tolist()
    assert np.array_equal(at.asked[1][1], grids[0])
    assert all(np.array_equal(rows, np.tile(np.arange(LENGTH), (4, 1))) for *_, rows in at.asked)


def test_kept_tokens_are_shown_with_the_noise_of_the_time_and_given_back_without():
    count, table = 3000, strides(5, ALPHAS)
    start = np.tile(np.array([[2, 0, 1]], np.int32), (count, 1))
    free = np.zeros(start.shape, bool)
    free[:, 1] = True
    at = TimedTable()
    grids = draw(at, table, range(count), start=start, free=free)
    for step, (seen, shares, given) in enumerate(zip(at.asked, table.seen, grids, strict=True)):
        assert np.array_equal(given[:, [0, 2]], start[:, [0, 2]])
        time, shown, _, rows = seen
        assert (rows == 1).all()
        same = shares + (1 - shares) / CODES
        spread = 5 * np.sqrt(same * (1 - same) / count)
        assert (shown[:, 0] == 2).mean() == pytest.approx(same, abs=spread)
        assert (shown[:, 2] == 1).mean() == pytest.approx(same, abs=spread)
        words = random_words(np.arange(count, dtype=np.uint64), stream=STREAM_SUBSET, step=step, y=0, x=0)
        stays = words[:, 0] < int(shares * 2**32)
        assert np.array_equal(shown[stays, 0], start[stays, 0])
        assert time == table.times[step]
    assert len(np.unique(grids[-1][:, 1])) == CODES


def test_samples_may_have_masks_of_their_own_and_one_without_any_stays():
    start = np.array([[0, 1, 2], [2, 2, 2], [1, 0, 1]], np.int32)
    free = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]], bool)
    at, table = TimedTable(), strides(2, ALPHAS)
    grids = draw(at, table, [4, 5, 6], start=start, free=free)
    assert np.array_equal(grids[-1][~free], start[~free])
    assert {len(labels) for _, _, labels, _ in at.asked} == {2}
    assert np.array_equal(draw(TimedTable(), table, [6], start=start[2:])[-1][0], grids[-1][2])
    assert draw(TimedTable(), table, [4], start=start[:1], free=np.zeros((1, 3), bool)) == []


def test_guidance_is_the_formula():
    at, table, labels = TimedTable(labels=2), strides(3, ALPHAS), np.zeros(200, np.int32)
    guided = draw(at, table, range(200), labels, guidance=1.5, no_label=1)
    assert {len(asked) for _, _, asked, _ in at.asked} == {400}

    def formula(time):
        def denoiser(tokens, under, rows):
            cond, uncond = at(time)(tokens, under, rows), at(time)(tokens, np.ones_like(under), rows)
            return uncond + np.float32(1.5) * (cond - uncond)

        return denoiser

    assert np.array_equal(guided, draw(formula, table, range(200), labels))
    assert not np.array_equal(guided, draw(at, table, range(200), labels))


def test_the_likeliest_token_is_drawn_where_top_k_or_top_p_leave_no_other():
    greedy = [
        draw(TimedTable(), strides(5, ALPHAS), range(50), **options)[-1] for options in ({"top_k": 1}, {"top_p": 1e-6})
    ]
    assert np.array_equal(*greedy)


def test_logits_that_are_nan_are_told_with_their_place():
    def at(time):
        def denoiser(tokens, labels, rows):
            logits = np.zeros((*rows.shape, CODES), np.float32)
            logits[labels == 1, 2] = np.nan
            return logits

        return denoiser

    with pytest.raises(SamplingError, match=r"sample 1, position 2, step 0.*NaN"):
        draw(at, strides(2, ALPHAS), [4, 5], [0, 1])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": np.zeros(3, np.int32)}, r"one label each; got \[2, 3\] and labels \[3\]"),
        ({"free": np.ones((2, 2), bool)}, r"free must be bool \[2, 3\], a value for each token; got bool \[2, 2\]"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, says):
    with pytest.raises(UsageError, match=says):
        draw(TimedTable(), strides(2, ALPHAS), [1, 2], **change)
