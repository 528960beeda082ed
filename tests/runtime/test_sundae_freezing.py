"""What freezing a SUNDAE run's samples does and saves, and what of a step reaches the network."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.sundae_chain import CODES, LENGTH, Table, draw, plan, redrawn
from smalti.families.sundae.sampler import start_tokens


@pytest.mark.parametrize("ends", [(1.0, 1.0), (0.7, 0.3)])
def test_freezing_stops_a_sample_where_it_stands_and_changes_nothing_before(ends):
    seeds, steps, earliest = range(400), 12, 3
    table = plan(steps, proportion=ends)
    start = start_tokens(seeds, (1, LENGTH), CODES)
    plain = np.stack([start, *draw(Table(stay=2.0), table, seeds)])
    frozen = draw(Table(stay=2.0), plan(steps, proportion=ends, min_steps=earliest), seeds)
    frozen = np.stack([start, *frozen, *[frozen[-1]] * (steps - len(frozen))])
    last = np.full(len(seeds), steps)  # the grid each sample keeps, by what it does where nothing is ever frozen
    for step in reversed(range(earliest, steps)):
        drew = redrawn(seeds, step, float(table.proportions[step])).any(axis=1)
        last[drew & (plain[step] == plain[step + 1]).all(axis=1)] = step
    assert len(set(last.tolist())) > 4
    for step in range(steps + 1):
        expected = np.where((step <= last)[:, None], plain[step], plain[last, np.arange(len(seeds))])
        assert np.array_equal(frozen[step], expected)


class Settling:
    """A denoiser that wants token 1 everywhere under label 0, and never the token that is there under label 1."""

    def __init__(self) -> None:
        self.asked: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def __call__(self, tokens, labels, rows):
        self.asked.append((tokens.copy(), labels.copy(), rows.copy()))
        here = np.take_along_axis(tokens, rows, axis=1)
        other = np.where(labels[:, None] == 0, 1, (here + 1) % CODES)
        return (100.0 * (other[..., None] == np.arange(CODES))).astype(np.float32)


@pytest.mark.parametrize(("min_steps", "expected"), [(0, 2), (1, 2), (2, 3), (6, 7), (7, 8), (8, 8), (100, 8)])
def test_a_run_ends_when_every_sample_is_frozen(min_steps, expected):
    """It settles at step 0: the first unchanged step is step 1. None is judged before min_steps steps are made."""
    start = np.zeros((2, LENGTH), np.int32)
    network = Settling()
    grids = draw(network, plan(8, proportion=(1, 1), min_steps=min_steps), [1, 2], start=start)
    assert len(grids) == len(network.asked) == expected
    assert np.all(grids[0] == 1)


def test_frozen_samples_are_never_asked_about_again_and_the_others_go_on():
    labels = np.array([0, 1, 0, 1], np.int32)
    network, steps, earliest = Settling(), 9, 3
    grids = draw(network, plan(steps, proportion=(1, 1), min_steps=earliest), range(4), labels)
    assert len(grids) == steps
    sizes = [len(tokens) for tokens, _, _ in network.asked]
    assert sizes == [4] * (earliest + 1) + [2] * (steps - earliest - 1)
    assert all(asked.tolist() == [1, 1] for _, asked, _ in network.asked[earliest + 1 :])
    rows = sum(rows.size for _, _, rows in network.asked)
    assert rows == LENGTH * sum(sizes)
    assert np.all(grids[-1][[0, 2]] == 1)
    assert np.all((grids[-1] - grids[-2])[[1, 3]] % CODES == 1)


def test_only_redrawn_positions_reach_the_network_and_a_step_that_draws_nothing_asks_nothing():
    seeds, kind, table = list(range(5)), plan(40, proportion=(0.35, 0.35)), Table()
    start = start_tokens(seeds, (1, LENGTH), CODES)
    grids = draw(table, kind, seeds, start=start)
    assert len(grids) == 40
    asked, before, silent = iter(table.asked), start, 0
    for step, after in enumerate(grids):
        chosen = redrawn(seeds, step, float(kind.proportions[step]))
        active = np.flatnonzero(chosen.any(axis=1))
        assert np.array_equal(before[~chosen], after[~chosen])
        if len(active):
            tokens, _, rows = next(asked)
            assert np.array_equal(tokens, before[active])
            assert rows.shape == (len(active), chosen.sum(axis=1).max())
            for row, wanted in zip(rows, chosen[active]):
                assert row[: wanted.sum()].tolist() == np.flatnonzero(wanted).tolist()
                assert np.all(row[wanted.sum() :] == 0)
        else:
            silent += 1
        before = after
    assert next(asked, None) is None
    lone, network = draw(Settling(), plan(40, proportion=(0.35, 0.35)), [3], start=start[:1]), Settling()
    draw(network, plan(40, proportion=(0.35, 0.35)), [3], start=start[:1])
    assert len(network.asked) < len(lone) == 40  # the case is a real one: alone, some steps draw nothing


def test_a_step_that_draws_nothing_of_a_sample_does_not_freeze_it():
    """One free position, drawn with chance 0.2: were an empty step enough, most would keep their random start."""
    seeds, free = range(300), np.tile([False, True, False], (300, 1))
    start = np.zeros((300, LENGTH), np.int32)
    network = Settling()
    grids = draw(network, plan(200, proportion=(0.2, 0.2), min_steps=0), seeds, start=start, free=free)
    assert np.all(grids[-1] == [0, 1, 0])
    assert sum(len(tokens) for tokens, _, _ in network.asked) == 2 * 300  # it settles, and is found to have settled
    assert len(grids) < 200


def test_every_sample_may_have_its_own_mask_and_one_with_nothing_to_draw_is_left_alone():
    free = np.array([[True, False, False], [False, False, False], [True, True, True], [False, True, True]])
    start = np.full((4, LENGTH), 2, np.int32)
    network = Settling()
    grids = draw(network, plan(3, proportion=(1, 1)), range(4), start=start, free=free)
    assert np.array_equal(grids[-1], np.where(free, 1, 2))
    assert network.asked[0][0].shape == (3, LENGTH)
    assert network.asked[0][2].tolist() == [[0, 0, 0], [0, 1, 2], [1, 2, 0]]
    assert draw(network, plan(3), [1, 2], start=start[:2], free=np.zeros((2, LENGTH), bool)) == []


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize(("rows", "largest"), [(8, 8), (3, 3), (2, 2)])  # the last is less than a sample has
def test_many_positions_are_asked_for_in_portions_without_a_difference(monkeypatch, rows, largest, guidance):
    options = {"guidance": guidance, "no_label": 1}
    kinds = [plan(6, proportion=(0.8, 0.3), min_steps=2), plan(6, proportion=(1, 1))]
    at_once = [draw(Table(2), kind, range(50), **options) for kind in kinds]
    monkeypatch.setattr("smalti.families.batching.ROWS", rows)
    table = Table(2)
    assert all(np.array_equal(draw(table, kind, range(50), **options), all_of) for kind, all_of in zip(kinds, at_once))
    assert max(asked.size for _, _, asked in table.asked) == largest * (1 if guidance == 1 else 2)
