"""SUNDAE sampling: its tables, draws whose exact distribution a small chain knows, and what freezing saves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.statistics import chi_square_z
from helpers.sundae_chain import CODES, DIGITS, LENGTH, STATES, Table, draw, laws, plan, redrawn
from smalti.errors import SamplingError, UsageError
from smalti.families.absorbing.schedule import MAX_STEPS
from smalti.families.sundae.sampler import SUBSET_STEPS, Annealing, annealing, start_tokens
from smalti_kernels import STREAM_START, random_words
from smalti_kernels import sample as draw_tokens

SEEDS = st.integers(0, 2**64 - 1)


def test_temperature_and_proportion_go_linearly_from_the_first_step_to_the_last():
    table = annealing(31, (1.0, 0.7), (0.8, 0.2), 4)
    assert table.temperatures.dtype == table.proportions.dtype == np.float32
    assert np.allclose(np.diff(table.temperatures), -0.01)
    assert np.allclose(np.diff(table.proportions), -0.02)
    assert (table.temperatures[0], table.temperatures[-1]) == (np.float32(1.0), np.float32(0.7))
    assert (table.proportions[0], table.proportions[-1]) == (np.float32(0.8), np.float32(0.2))
    assert (table.steps, table.min_steps) == (31, 4)
    published = annealing(50)
    assert np.array_equal(published.temperatures, np.linspace(1, 0.7, 50, dtype=np.float32))
    assert np.all(published.proportions == 0.5)
    assert published.min_steps == 10


@pytest.mark.parametrize("steps", [1, 2, SUBSET_STEPS - 1, SUBSET_STEPS, SUBSET_STEPS + 1])
def test_fewer_than_twenty_steps_draw_every_position(steps):
    table = annealing(steps, proportion=(0.6, 0.3))
    assert SUBSET_STEPS == 20
    assert table.steps == steps
    assert np.all(table.proportions == 1) == (steps < 20)
    assert table.temperatures[0] == 1
    assert np.all(table.proportions[:1] == (np.float32(0.6) if steps >= 20 else 1))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"steps": 0}, f"steps 0: allowed are 1 .. {MAX_STEPS}"),
        ({"steps": MAX_STEPS + 1}, "steps 1000001: allowed are"),
        ({"temperature": (1.0, 0.0)}, r"temperature \(1.0, 0.0\): both must be above 0"),
        ({"temperature": (float("inf"), 1.0)}, "temperature"),
        ({"proportion": (0.0, 1.0)}, r"proportion \(0.0, 1.0\): both must be above 0 and at most 1 \(every position\)"),
        ({"proportion": (0.5, 1.5)}, "proportion"),
        ({"proportion": (float("nan"), 0.5)}, "proportion"),
        ({"min_steps": -1}, "min_steps -1: allowed are 0 and more"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(options, says):
    with pytest.raises(UsageError, match=says):
        annealing(**{"steps": 30, **options})


def test_start_tokens_are_uniform_and_each_seeds_own():
    tokens = start_tokens(range(2_000), (4, 5), 7)
    assert tokens.dtype == np.int32
    assert tokens.shape == (2_000, 20)
    assert chi_square_z(np.bincount(tokens.reshape(-1), minlength=7), np.full(7, 1 / 7)) < 3.7
    pairs = tokens[:, 0] * 7 + tokens[:, 1]
    assert chi_square_z(np.bincount(pairs, minlength=49), np.full(49, 1 / 49)) < 3.7
    neighbours = tokens[:-1, 0] * 7 + tokens[1:, 0]
    assert chi_square_z(np.bincount(neighbours, minlength=49), np.full(49, 1 / 49)) < 3.7


@settings(max_examples=40, deadline=None)
@given(st.lists(SEEDS, min_size=1, max_size=4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 2**14))
def test_a_start_token_depends_on_its_seed_and_place_alone(seeds, height, width, codes):
    tokens = start_tokens(seeds, (height, width), codes).reshape(-1, height, width)
    larger = start_tokens(seeds, (height + 2, width + 3), codes).reshape(-1, height + 2, width + 3)
    assert np.array_equal(tokens, larger[:, :height, :width])
    word = int(random_words(seeds[-1], stream=STREAM_START, step=0, y=height - 1, x=width - 1)[0])
    assert tokens[-1, -1, -1] == word * codes // 2**32
    assert np.array_equal(start_tokens(seeds[:1], (height, width), codes)[0], tokens[0].reshape(-1))


@pytest.fixture
def at_once(monkeypatch) -> None:
    """Ask about all samples of a step in one question, so that questions can be counted."""
    monkeypatch.setattr("smalti.families.batching.ROWS", 2**20)


CHAINS = {
    "all": plan(3, (1.0, 0.7), (1.0, 1.0)),
    "part": plan(4, (1.0, 0.4), (0.9, 0.3)),
    "all-frozen": plan(4, (1.0, 0.7), (1.0, 1.0), min_steps=1),
    "part-frozen": plan(4, (1.0, 0.4), (0.4, 0.7), min_steps=1),
    "part-frozen-at-once": plan(3, (0.6, 0.4), (0.3, 0.3), min_steps=0),
}


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("kind", CHAINS)
def test_final_grids_and_questions_follow_the_enumerated_chain(kind):
    samples, table = 20_000, Table()
    law, asked = laws(table, CHAINS[kind])
    assert law.sum() == pytest.approx(1)
    grids = draw(table, CHAINS[kind], range(samples))
    assert len(grids) == CHAINS[kind].steps
    counts = np.bincount(grids[-1] @ DIGITS, minlength=len(STATES))
    assert chi_square_z(counts, law) < 3.7
    for step, chance in enumerate(asked):  # and so does how many samples each step asks about
        found = len(table.asked[step][0])
        assert abs(found - samples * chance) <= 4 * np.sqrt(samples * chance * (1 - chance)) + 1e-9


def test_the_chains_differ_by_more_than_chance_would():
    """Else the test above could not tell one rule from another: draws of one fail as draws of the next."""
    plain = {name: laws(Table(), table)[0] for name, table in CHAINS.items()}
    thawed = {name: laws(Table(), Annealing(t.temperatures, t.proportions, 99))[0] for name, t in CHAINS.items()}
    flat = {
        name: laws(Table(), Annealing(np.ones_like(t.temperatures), t.proportions, t.min_steps))[0]
        for name, t in CHAINS.items()
    }
    pairs = list(itertools.combinations(plain.values(), 2))
    pairs += [(plain[name], thawed[name]) for name in CHAINS if "frozen" in name]
    pairs += [(plain[name], flat[name]) for name in CHAINS]
    for one, other in pairs:
        assert chi_square_z(np.rint(20_000 * one).astype(int), other) > 3.7


def test_a_step_is_the_specified_draw_at_the_specified_positions():
    seeds, table, kind = [5, 2**64 - 1, 9], Table(2), plan(3, (1.0, 0.4), (0.8, 0.4))
    labels = np.array([0, 1, 0], np.int32)
    tokens = start_tokens(seeds, (1, LENGTH), CODES)
    untouched = tokens.copy()
    grids = draw(table, kind, seeds, labels, tokens, top_k=2)
    for step, found in enumerate(grids):
        own, place = np.nonzero(redrawn(seeds, step, float(kind.proportions[step])))
        logits = table.logits[labels[own], tokens[own] @ DIGITS, place] if step == 0 else None
        logits = table.logits[labels[own], (tokens @ DIGITS)[own], place] if logits is None else logits
        where = {"sample": own, "position": place, "seeds": np.array(seeds, np.uint64), "step": step, "width": LENGTH}
        tokens = draw_tokens(logits, tokens, **where, temperature=kind.temperatures[step], top_k=2).tokens
        assert np.array_equal(found, tokens)
    assert np.array_equal(untouched, start_tokens(seeds, (1, LENGTH), CODES))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(SEEDS, min_size=2, max_size=6),
    st.integers(1, 9),
    st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)),
    st.integers(0, 6),
    st.sampled_from([1.0, 2.5]),
    st.integers(0, 2**32 - 1),
)
def test_tokens_of_a_batch_are_those_drawn_alone(seeds, steps, proportion, min_steps, guidance, noise):
    table, kind = Table(3), plan(steps, proportion=proportion, min_steps=min_steps)
    labels = np.arange(len(seeds)) % 2
    free = np.random.default_rng(noise).random((len(seeds), LENGTH)) < 0.7
    free[0, 0] = True
    options = {"guidance": guidance, "no_label": 2}
    together = draw(table, kind, seeds, labels, free=free, **options)
    for i, seed in enumerate(seeds):
        alone = draw(table, kind, [seed], labels[i : i + 1], free=free[i : i + 1], **options)
        assert len(alone) <= len(together) <= steps
        start = start_tokens([seed], (1, LENGTH), CODES)
        alone += [(alone or [start])[-1]] * (len(together) - len(alone))
        assert all(np.array_equal(one[0], all_of[i]) for one, all_of in zip(alone, together))


@pytest.mark.usefixtures("at_once")
def test_each_position_is_redrawn_by_chance_alone():
    samples, steps = 4_000, 3
    kind = plan(steps, proportion=(0.25, 0.75))
    table = Table()
    draw(table, kind, range(samples))
    chosen = np.stack([redrawn(range(samples), step, float(kind.proportions[step])) for step in range(steps)])
    for step, proportion in enumerate((0.25, 0.5, 0.75)):
        law = np.array([proportion**n * (1 - proportion) ** (3 - n) for n in (0, 1, 1, 2, 1, 2, 2, 3)])
        assert chi_square_z(np.bincount(chosen[step] @ [4, 2, 1], minlength=8), law) < 3.7
        assert len(table.asked[step][0]) == chosen[step].any(axis=1).sum()
    together = chosen[0, :, 0] * 2 + chosen[1, :, 0]  # steps are independent
    assert chi_square_z(np.bincount(together, minlength=4), np.array([0.375, 0.375, 0.125, 0.125])) < 3.7


def test_kept_tokens_never_change_and_the_others_are_drawn_given_them():
    samples = 20_000
    free = np.zeros((samples, LENGTH), bool)
    free[:, 1] = True
    start = start_tokens(range(samples), (1, LENGTH), CODES)
    start[:, [0, 2]] = [2, 0]
    table = Table()
    grids = draw(table, plan(1, (0.8, 0.8), (1, 1)), range(samples), start=start, free=free)
    assert np.all(grids[-1][:, [0, 2]] == [2, 0])
    weights = np.exp(table.logits[0, [2 * 9 + code * 3 for code in range(CODES)], 1].astype(float) / 0.8)
    law = (weights / weights.sum(axis=1, keepdims=True)).mean(axis=0)  # of the three tokens it starts from
    assert chi_square_z(np.bincount(grids[-1][:, 1], minlength=CODES), law) < 3.7


@pytest.mark.parametrize("guidance", [0.0, 0.5, 3.0])
def test_guidance_is_uncond_plus_weight_times_the_difference(guidance):
    table, seeds, labels, kind = Table(2), range(300), np.zeros(300, np.int32), plan(3, proportion=(0.9, 0.6))
    guided = draw(table, kind, seeds, labels, guidance=guidance, no_label=1)
    assert [len(asked) for _, asked, _ in table.asked] == [2 * len(set(a)) for a in map(members, range(3))]

    def formula(tokens, labels, rows):
        cond, uncond = table(tokens, labels, rows), table(tokens, np.ones_like(labels), rows)
        return uncond + np.float32(guidance) * (cond - uncond)

    assert np.array_equal(guided, draw(formula, kind, seeds, labels))
    assert not np.array_equal(guided, draw(table, kind, seeds, labels))


def members(step: int) -> np.ndarray:
    """Samples that the guidance test's step draws something of."""
    kind = plan(3, proportion=(0.9, 0.6))
    return np.flatnonzero(redrawn(range(300), step, float(kind.proportions[step])).any(axis=1))


def test_top_k_and_top_p_may_be_given_per_sample():
    seeds, kind = range(40), plan(3, (2.0, 2.0), (1, 1))
    mixed = draw(Table(), kind, seeds, top_k=np.repeat(np.int32([1, 0]), 20))[-1]
    greedy, all_codes = (draw(Table(), kind, seeds, top_k=k)[-1] for k in (1, 0))
    assert np.array_equal(mixed, np.concatenate([greedy[:20], all_codes[20:]]))
    assert not np.array_equal(greedy, all_codes)
    assert np.array_equal(draw(Table(), kind, seeds, top_p=1e-4)[-1], greedy)


def test_logits_that_are_nan_are_told_with_their_place():
    def broken(tokens, labels, rows):
        logits = np.zeros((*rows.shape, CODES), np.float32)
        logits[labels == 1, 2] = np.nan
        return logits

    with pytest.raises(SamplingError, match=r"sample 1, position 2, step 0.*NaN"):
        draw(broken, plan(2, proportion=(1, 1)), [4, 5], [0, 1])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": np.zeros(3, np.int32)}, r"one label each; got \[2, 3\] and labels \[3\]"),
        ({"start": np.zeros((2, 1, 3), np.int32)}, r"tokens must be int32 \[N, L\]"),
        ({"free": np.ones((2, 2), bool)}, r"free must be bool \[2, 3\], a value for each token; got bool \[2, 2\]"),
        ({"free": np.ones((2, 3), np.int32)}, r"free must be bool \[2, 3\].*got int32"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, says):
    with pytest.raises(UsageError, match=says):
        draw(Table(), plan(2), [1, 2], **change)
