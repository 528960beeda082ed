"""Threads that meet again: their programs stay in order, and every register keeps what its thread had."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.ptx.groups import Group, divide, join, select

THREADS = 4
BASE = [np.zeros((1, 1), np.uint32)] * 2
VALUES = np.arange(5 * THREADS, dtype=np.uint32).reshape(5, THREADS)


def everyone(value: np.ndarray) -> Group:
    return Group(None, np.arange(5), [value, value[:, :1]], None)


def parts(group: Group, condition: np.ndarray) -> dict[bool, Group]:
    return {holds: select(group, *which, BASE, (0, 1)) for holds, *which in divide(group, condition)}


@pytest.mark.parametrize("later_first", [False, True])
def test_programs_that_took_different_ways_are_in_order_again(later_first):
    found = parts(everyone(VALUES), np.array([[True], [False], [True], [False], [False]]))
    assert found[True].programs.tolist() == [0, 2]
    joined = join([found[not later_first], found[later_first]], BASE, (0, 1))
    assert joined.programs.tolist() == [0, 1, 2, 3, 4]
    assert np.array_equal(joined.registers[0], VALUES)
    assert np.array_equal(joined.registers[1], VALUES[:, :1])


def test_threads_that_part_twice_keep_their_values():
    """First whole programs part and meet, then some threads of each do."""
    found = parts(everyone(VALUES), np.array([[True], [False], [True], [False], [False]]))
    joined = join([found[False], found[True]], BASE, (0, 1))
    condition = VALUES % 3 == 0
    again = parts(joined, condition)
    assert again[True].active is not None
    for order in ((True, False), (False, True)):
        whole = join([again[holds] for holds in order], BASE, (0, 1))
        assert whole.active is None
        assert np.array_equal(whole.registers[0], VALUES)
        assert np.array_equal(np.broadcast_to(whole.registers[1], VALUES.shape), np.repeat(VALUES[:, :1], THREADS, 1))
