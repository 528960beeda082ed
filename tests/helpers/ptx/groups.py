"""Threads that are at the same place: taken apart where their ways part, and put together where they meet again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.ptx.values import Values

Flags = NDArray[np.bool_]


class Group:
    """Threads of some programs, with their registers."""

    def __init__(self, launch: Any, programs: NDArray[np.int64], registers: list[Values], active: Flags | None) -> None:
        self.launch = launch
        self.programs = programs
        """Numbers of the programs within the launch's batch, ascending."""
        self.registers = registers
        self.active = active
        """Which of the programs' threads these are, [programs, threads]; None for all of them."""


def divide(group: Group, condition: Flags) -> Iterator[tuple[bool, Flags | None, Flags | None]]:
    """The parts of a group where a condition holds, and where it does not, if there are both.

    Each comes as whether the condition holds, which of the group's programs have such threads, and which threads these
    are; None for all.
    """
    if group.active is None and condition.shape[1] == 1:
        holds = condition[:, 0]
        if holds.all() or not holds.any():
            yield bool(holds[0]), None, None
        else:
            holds = np.broadcast_to(holds, group.programs.shape)
            yield True, holds, None
            yield False, ~holds, None
        return
    threads = condition.shape[1] if group.active is None else group.active.shape[1]
    full = np.broadcast_to(condition, (len(group.programs), threads))
    for holds in (True, False):
        part = full if holds else ~full
        part = part if group.active is None else part & group.active
        programs = part.any(axis=1)
        if programs.any():
            part = part[programs]
            yield holds, None if programs.all() else programs, None if part.all() else part


def select(
    group: Group, programs: Flags | None, active: Flags | None, base: list[Values], live: Collection[int]
) -> Group:
    """The given part of a group, with a copy of the registers that it still needs."""
    registers = list(base)
    if programs is None:
        for slot in live:
            registers[slot] = group.registers[slot]
        return Group(group.launch, group.programs, registers, active)
    index = np.flatnonzero(programs)
    for slot in live:
        value = group.registers[slot]
        registers[slot] = value if len(value) == 1 else value.take(index, axis=0)
    return Group(group.launch, group.programs[index], registers, active)


def join(groups: Sequence[Group], base: list[Values], live: Collection[int]) -> Group:
    """One group of the threads of several, with the registers that they still need."""
    first, *others = groups
    if not others:
        return first
    registers = list(base)
    if all(group.active is None for group in groups):
        programs = np.concatenate([group.programs for group in groups])
        order = np.argsort(programs)
        for slot in live:
            registers[slot] = _stacked([group.registers[slot] for group in groups], groups, order)
        return Group(first.launch, programs[order], registers, None)
    threads = next(group.active for group in groups if group.active is not None).shape[1]
    programs = np.unique(np.concatenate([group.programs for group in groups]))
    places = [_place(group, programs, threads) for group in groups]
    for slot in live:
        registers[slot] = _overlaid([group.registers[slot] for group in groups], groups, places)
    active = np.logical_or.reduce(places)
    return Group(first.launch, programs, registers, None if active.all() else active)


def _stacked(values: list[Values], groups: Sequence[Group], order: NDArray[np.int64]) -> Values:
    """A register of the programs of one group after another, put in order."""
    first = values[0]
    if len(first) == 1 and all(value is first for value in values):
        return first
    columns = max(value.shape[1] for value in values)
    raw = _raw(first)
    return np.concatenate(
        [np.broadcast_to(value.view(raw), (len(group.programs), columns)) for value, group in zip(values, groups)]
    ).take(order, axis=0)


def _raw(value: Values) -> np.dtype[Any]:
    """Registers that meet may be viewed as different types: the bits are what they share."""
    return value.dtype if value.dtype == np.bool_ else np.dtype(f"u{value.dtype.itemsize}")


def _place(group: Group, programs: NDArray[np.int64], threads: int) -> Flags:
    """Where the threads of a group are among those of all programs, [programs, threads]."""
    place = np.zeros((len(programs), threads), np.bool_)
    place[np.searchsorted(programs, group.programs)] = True if group.active is None else group.active
    return place


def _overlaid(values: list[Values], groups: Sequence[Group], places: list[Flags]) -> Values:
    """A register of programs of which each group has some threads."""
    first = values[0]
    same = all(group.programs is groups[0].programs for group in groups)
    if all(value is first for value in values) and (len(first) == 1 or same):
        return first
    result = np.empty(places[0].shape, _raw(first))
    for value, group, place in zip(values, groups, places, strict=True):
        full = np.broadcast_to(value.view(result.dtype), (len(group.programs), place.shape[1]))
        result[place] = (full if group.active is None else full[group.active]).ravel()
    return result
