"""Steps in which the threads of a warp or of a block need each other: shuffles, reductions, votes and barriers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.ptx.lower import Fetch, Slots, Step, Threads, guard_of
from helpers.ptx.parse import Instruction, Listed, Operand
from helpers.ptx.values import Values

WARP = 32
_ALL = 0xFFFFFFFF
_REDUCTIONS: dict[str, Any] = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


class Divergence(RuntimeError):
    """Threads that need each other are not at the same instruction."""


def _together(instruction: Instruction, slots: Slots, threads: int) -> Callable[[Threads], None]:
    """A check that no part of a warp (for a barrier: of a block) executes an instruction without the rest."""
    guard = guard_of(instruction, slots)
    size = threads if instruction.opcode[:2] != ("bar", "warp") and "bar" in instruction.opcode[0] else WARP

    def check(group: Threads) -> None:
        if guard is None and group.active is None:
            return
        here: Any = True if guard is None else guard(group.registers)
        if group.active is not None:
            here = here & group.active
        parts = np.broadcast_to(here, (len(here), threads)).reshape(-1, size)
        if (parts.any(axis=1) != parts.all(axis=1)).any():
            raise Divergence(f"only some of the threads that it needs execute {instruction.text!r}")

    return check


def _full_mask(instruction: Instruction, slots: Slots, mask: Operand) -> Callable[[Threads], None]:
    """A check that an instruction names all threads of a warp; other masks are not supported."""
    place, fetch = slots.operand(mask, "b32"), slots.fetch(mask, "b32")
    error = instruction.unsupported("its mask leaves out threads of the warp")
    if not str(mask).startswith("%"):
        if slots.initial[place.slot].item() != _ALL:
            raise error
        return lambda group: None

    def check(group: Threads) -> None:
        if (fetch(group.registers) != _ALL).any():
            raise error

    return check


def barrier(instruction: Instruction, slots: Slots, threads: int) -> Step:
    """The step of a barrier, which has nothing to do: what threads wrote before it is already there."""
    match instruction.opcode, instruction.operands:
        case (("bar", "sync"), ("0",)) | (("barrier", "sync") | ("barrier", "sync", "aligned"), ("0",)):
            return _together(instruction, slots, threads)
        case ("bar", "warp", "sync"), (mask,):
            together, full = _together(instruction, slots, threads), _full_mask(instruction, slots, mask)

            def step(group: Threads) -> None:
                together(group)
                full(group)

            return step
    raise instruction.unsupported()


def shuffle(instruction: Instruction, slots: Slots, threads: int) -> Step:
    """The step of ``shfl.sync``: every thread gets the value of another one of its warp."""
    if len(instruction.opcode) != 4 or instruction.opcode[1] != "sync" or instruction.opcode[3] != "b32":
        raise instruction.unsupported()
    target, source, by, clamp, mask = instruction.operands
    names = target.names if isinstance(target, Listed) else (target,)
    write = slots.write(names[0], "b32", instruction)
    write_inside = slots.write(names[1], "pred", instruction) if len(names) == 2 else None
    together, full = _together(instruction, slots, threads), _full_mask(instruction, slots, mask)
    fetch = slots.fetch(source, "b32")
    places = _places(instruction, slots, threads, by, clamp)

    def step(group: Threads) -> None:
        together(group)
        full(group)
        registers = group.registers
        value = fetch(registers)
        index, inside = places(registers)
        write(registers, _from_threads(value, index))
        if write_inside is not None:
            write_inside(registers, inside)

    return step


def _places(
    instruction: Instruction, slots: Slots, threads: int, by: Operand, clamp: Operand
) -> Callable[[list[Values]], tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """How to find each thread's partner within its block, [programs or 1, threads], and whether it is in range."""
    mode = instruction.opcode[2]
    if mode not in ("up", "down", "bfly", "idx"):
        raise instruction.unsupported()
    thread = np.arange(threads)[None]
    lane = thread % WARP
    fetches = slots.fetch(by, "u32"), slots.fetch(clamp, "u32")

    def places(registers: list[Values]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        amount, bounds = (fetch(registers).astype(np.int64) for fetch in fetches)
        amount = amount & 31
        segment = (bounds >> 8) & 31
        last = (lane & segment) | (bounds & 31 & ~segment)
        if mode == "up":
            other = lane - amount
            inside = other >= last
        else:
            first = (lane & segment) | (amount & ~segment)
            other = {"down": lane + amount, "bfly": lane ^ amount, "idx": first}[mode]
            inside = other <= last
        return thread - lane + np.where(inside, other, lane), inside

    if not any(str(operand).startswith("%") for operand in (by, clamp)):
        constant = places(slots.initial)
        return lambda registers: constant
    return places


def _from_threads(value: Values, index: NDArray[np.int64]) -> Values:
    """Each thread's value from the thread of an index."""
    if value.shape[1] == 1:
        return value
    if len(index) == 1:
        return value.take(index[0], axis=1)
    if len(value) == 1:
        return value[0].take(index)
    return value.ravel().take(index + (np.arange(len(value)) * value.shape[1])[:, None])


def _each_warp(value: Values, threads: int) -> Values:
    """Values by warp, [programs, warps, 32]."""
    return np.broadcast_to(value, (len(value), threads)).reshape(len(value), -1, WARP)


def reduction(instruction: Instruction, slots: Slots, threads: int) -> Step:
    """The step of ``redux.sync``: every thread gets its warp's sum, or the like."""
    match instruction.opcode:
        case ("redux", "sync", "add" | "min" | "max" as how, "s32" | "u32" as kind):
            pass
        case ("redux", "sync", "and" | "or" | "xor" as how, "b32" as kind):
            pass
        case _:
            raise instruction.unsupported()
    target, source, mask = instruction.operands
    reduce = _REDUCTIONS[how].reduce
    write, fetch = slots.write(target, kind, instruction), slots.fetch(source, kind)
    together, full = _together(instruction, slots, threads), _full_mask(instruction, slots, mask)

    def step(group: Threads) -> None:
        together(group)
        full(group)
        value = fetch(group.registers)
        write(group.registers, reduce(_each_warp(value, threads), axis=2, dtype=value.dtype).repeat(WARP, axis=1))

    return step


def vote(instruction: Instruction, slots: Slots, threads: int) -> Step:
    """The step of ``vote.sync``: what holds for any or all threads of the warp, or for which ones."""
    match instruction.opcode:
        case ("vote", "sync", "any" | "all" | "uni" as how, "pred") | ("vote", "sync", "ballot" as how, "b32"):
            pass
        case _:
            raise instruction.unsupported()
    target, source, mask = instruction.operands
    write = slots.write(target, instruction.opcode[-1], instruction)
    fetch: Fetch = slots.fetch(source, "pred")
    together, full = _together(instruction, slots, threads), _full_mask(instruction, slots, mask)
    bits = np.uint32(1) << np.arange(WARP, dtype=np.uint32)

    def count(warps: Values) -> Values:
        if how == "ballot":
            return np.where(warps, bits, np.uint32(0)).sum(axis=2, dtype=np.uint32)
        some, every = warps.any(axis=2), warps.all(axis=2)
        return {"any": some, "all": every, "uni": every | ~some}[how]

    def step(group: Threads) -> None:
        together(group)
        full(group)
        write(group.registers, count(_each_warp(fetch(group.registers), threads)).repeat(WARP, axis=1))

    return step
