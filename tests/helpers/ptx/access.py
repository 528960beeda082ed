"""Steps that read and write memory: a kernel's parameters, global memory, and the shared memory of a block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.ptx.lower import Fetch, Slots, Step, guard_of
from helpers.ptx.memory import Access, IllegalAddress, Lanes, Misaligned, first_of
from helpers.ptx.parse import Address, Instruction, Listed, Operand
from helpers.ptx.values import Values, bits_of, dtype_of

_HINTS = frozenset({"weak", "relaxed", "volatile", "cta", "gpu", "sys", "nc", "ca", "cg", "cs", "cv", "wb", "wt"})
"""Modifiers that change when other programs see an access, or what a cache keeps, and nothing else."""
_CACHES = ("L1-", "L2-64B", "L2-128B", "L2-256B")
_KINDS = frozenset({f"{letter}{bits}" for letter in "bsu" for bits in (8, 16, 32, 64)} | {"f32"})


class _Shape:
    """What an instruction reads or writes, from its modifiers."""

    def __init__(self, instruction: Instruction) -> None:
        name, *modifiers = instruction.opcode
        self.kind = modifiers.pop()
        spaces = [one for one in modifiers if one in ("global", "shared", "param")]
        vectors = [one for one in modifiers if one in ("v2", "v4", "v8")]
        others = set(modifiers) - {*spaces, *vectors}
        unknown = {one for one in others if one not in _HINTS and not one.startswith(_CACHES)}
        if self.kind not in _KINDS or len(spaces) != 1 or len(vectors) > 1 or unknown or len(instruction.operands) != 2:
            raise instruction.unsupported()
        self.space = spaces[0]
        self.count = int(vectors[0][1:]) if vectors else 1
        kind = "read" if name == "ld" else "write"
        self.access = Access(kind, bits_of(self.kind) // 8, self.count, instruction.text)
        where, what = instruction.operands if name == "st" else instruction.operands[::-1]
        names = what.names if isinstance(what, Listed) else (what,)
        if not isinstance(where, Address) or len(names) != self.count:
            raise instruction.unsupported()
        self.where: Address = where
        self.names: tuple[Operand, ...] = names


def _lanes_of(instruction: Instruction, slots: Slots) -> Callable[[Any], Lanes]:
    """How to find the threads that access memory; None for all, also where that turns out when executed."""
    guard = guard_of(instruction, slots)

    def lanes(group: Any) -> Lanes:
        here = None if guard is None else guard(group.registers)
        if group.active is not None:
            here = group.active if here is None else here & group.active
        return None if here is None or here.all() else here

    return lanes


def _address(shape: _Shape, slots: Slots) -> Fetch:
    """How to find the addresses: in global memory as uint64, in shared memory as int64 from the block's begin."""
    base, offset = shape.where
    if shape.space == "shared":
        wide = base.startswith("%") and slots.register(base).bits == 64
        fetch = slots.fetch(base, "s64" if wide else "u32")
        return lambda registers: fetch(registers).astype(np.int64) + offset
    fetch, add = slots.fetch(base, "u64"), np.uint64(offset & 0xFFFFFFFFFFFFFFFF)
    return fetch if not offset else lambda registers: fetch(registers) + add


def load(instruction: Instruction, slots: Slots) -> Step:
    """The step of ``ld``."""
    shape = _Shape(instruction)
    # A write where the guard holds keeps the rest; where threads only take another way, the rest does not matter.
    writes = [slots.write(name, shape.kind, instruction) for name in shape.names]
    if shape.space == "param":
        return _load_parameter(instruction, shape, slots, writes[0])
    address, lanes, dtype = _address(shape, slots), _lanes_of(instruction, slots), dtype_of(shape.kind)

    def step(group: Any) -> None:
        registers = group.registers
        here = lanes(group)
        if here is not None and not here.any():
            return
        if shape.space == "global":
            values = group.launch.memory.load(address(registers), shape.access, here)
        else:
            words, index = _shared_words(group, address(registers), shape.access, here)
            values = [words.take(index + element) for element in range(shape.count)]
        for write, value in zip(writes, values, strict=True):
            write(registers, value.view(dtype))

    return step


def store(instruction: Instruction, slots: Slots) -> Step:
    """The step of ``st``."""
    shape = _Shape(instruction)
    if shape.space == "param":
        raise instruction.unsupported()
    raw = f"b{bits_of(shape.kind)}"
    fetches = [slots.fetch(name, raw) for name in shape.names]
    address, lanes = _address(shape, slots), _lanes_of(instruction, slots)

    def step(group: Any) -> None:
        registers = group.registers
        here = lanes(group)
        if here is not None and not here.any():
            return
        values = [fetch(registers) for fetch in fetches]
        if shape.space == "global":
            group.launch.memory.store(address(registers), values, shape.access, here)
        else:
            _store_shared(group, address(registers), values, shape.access, here)

    return step


def _load_parameter(
    instruction: Instruction, shape: _Shape, slots: Slots, write: Callable[[list[Values], Values], None]
) -> Step:
    names = [parameter.name for parameter in slots.program.parameters]
    if shape.count != 1 or shape.where.base not in names or shape.where.offset < 0:
        raise instruction.unsupported()
    number, offset, dtype = names.index(shape.where.base), shape.where.offset, dtype_of(shape.kind)

    def step(group: Any) -> None:
        buffer = group.launch.parameters[number]
        if offset + dtype.itemsize > len(buffer):
            raise IllegalAddress(f"{instruction.text!r} reads beyond the parameter's {len(buffer)} bytes")
        write(group.registers, np.frombuffer(buffer, dtype, 1, offset).reshape(1, 1))

    return step


def _shared_words(group: Any, offsets: Values, access: Access, lanes: Lanes) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The shared memory of all blocks as unsigned integers, and the indices of what is accessed.

    Where a thread takes no part, its index is another one's.
    """
    if lanes is not None:
        offsets = np.where(lanes, offsets, first_of(offsets, lanes))
    _check_shared(offsets, access, group.launch.shared_bytes)
    memory = group.launch.shared
    begin = group.programs[:, None] * (memory.shape[1] // access.width)
    return memory.view(f"u{access.width}").ravel(), begin + offsets // access.width


def _check_shared(offsets: Values, access: Access, size: int) -> None:
    """Raise IllegalAddress or Misaligned for the first offset that cannot be accessed."""
    if int(offsets.min()) < 0 or int(offsets.max()) > size - access.size:
        wrong = offsets[(offsets < 0) | (offsets > size - access.size)].flat[0]
        raise IllegalAddress(
            f"{access.kind} of {access.size} bytes at {int(wrong)} of {size} bytes of shared memory by {access.text!r}"
        )
    if access.size > 1 and (offsets & (access.size - 1)).any():
        wrong = offsets[offsets % access.size != 0].flat[0]
        raise Misaligned(f"{access.kind} of {access.size} bytes at {int(wrong)} of shared memory by {access.text!r}")


def _store_shared(group: Any, offsets: Values, values: list[Values], access: Access, lanes: Lanes) -> None:
    words, index = _shared_words(group, offsets, access, lanes)
    given = np.broadcast_arrays(index, *values, *([] if lanes is None else [lanes]))
    index, *elements = given if lanes is None else [array[given[-1]] for array in given[:-1]]
    for element, value in enumerate(elements):
        words[index + element] = value


def convert_address(instruction: Instruction, slots: Slots) -> Step:
    """The step of ``cvta`` between generic and global addresses, which are the same."""
    if instruction.opcode not in (("cvta", "to", "global", "u64"), ("cvta", "global", "u64")):
        raise instruction.unsupported()
    target, source = instruction.operands
    fetch, write = slots.fetch(source, "u64"), slots.write(target, "u64", instruction)

    def step(group: Any) -> None:
        write(group.registers, fetch(group.registers))

    return step
