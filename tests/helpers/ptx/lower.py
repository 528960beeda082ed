"""Instructions as closures: each is looked up and given its registers once, and then called for every group of threads.

Registers are entries of a list; literals, special registers and parameters are further entries of it. An array in the
list is never changed, so that lists may share it. It may have any dtype of its register's width: whoever reads it views
it as what the instruction wants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from helpers.ptx.operations import Operation, comparison, operation
from helpers.ptx.parse import Instruction, Listed, Operand, Program
from helpers.ptx.values import Values, bits_of, dtype_of, literal, raw_dtype, undefined

Registers = list[Values]
Fetch = Callable[[Registers], Values]
Write = Callable[[Registers, Values], None]

SPECIAL = ("%tid.x", "%ctaid.x", "%ntid.x", "%nctaid.x", "%laneid")
"""Special registers whose values the machine sets before it begins."""
_CONSTANT = {"%tid.y": 0, "%tid.z": 0, "%ctaid.y": 0, "%ctaid.z": 0}
_CONSTANT |= {"%ntid.y": 1, "%ntid.z": 1, "%nctaid.y": 1, "%nctaid.z": 1}


class Threads(Protocol):
    """The threads that execute a step together."""

    registers: Registers
    active: NDArray[np.bool_] | None
    """Which threads of the programs take part, [programs, threads]; None for all."""


Step = Callable[[Any], None]


class Place(NamedTuple):
    """An operand in the list of registers."""

    slot: int
    bits: int
    """Width of the register or literal."""


class Slots:
    """Where a kernel's registers and literals are in the list, and what the list is before anything is written."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.initial: Registers = []
        self._places: dict[tuple[str, str], Place] = {}
        for name in SPECIAL:
            self.register(name)

    def register(self, name: str) -> Place:
        """The place of a register."""
        found = self._places.get((name, ""))
        if found is None:
            bits = 32 if name in SPECIAL else self.program.width(name)
            found = self._add((name, ""), bits, undefined(raw_dtype(bits)))
        return found

    def operand(self, operand: Operand, kind: str) -> Place:
        """The place of a register, or of a literal or symbol as a value of a type."""
        if not isinstance(operand, str):
            raise NotImplementedError(f"the operand {operand}")
        if operand.startswith("%") and operand not in _CONSTANT:
            return self.register(operand)
        found = self._places.get((operand, kind))
        if found is None:
            number = self.program.shared.get(operand, _CONSTANT.get(operand))
            value = literal(operand if number is None else str(number), kind)
            found = self._add((operand, kind), bits_of(kind), value)
        return found

    def _add(self, key: tuple[str, str], bits: int, value: Values) -> Place:
        place = self._places[key] = Place(len(self.initial), bits)
        self.initial.append(value)
        return place

    def fetch(self, operand: Operand, kind: str) -> Fetch:
        """How to read an operand as a type; of a wider register, the lower bits are read."""
        slot, bits = self.operand(operand, kind)
        dtype, wide = dtype_of(kind), raw_dtype(bits)
        width = bits_of(kind)
        if bits < width or (bits > width and width > 16):
            raise NotImplementedError(f"{operand} of {bits} bits as {kind}")
        if bits > width:
            raw = raw_dtype(width)
            return lambda registers: registers[slot].view(wide).astype(raw).view(dtype)

        def fetch(registers: Registers) -> Values:
            value = registers[slot]
            return value if value.dtype is dtype else value.view(dtype)

        return fetch

    def write(self, operand: Operand, kind: str, instruction: Instruction) -> Write:
        """How to write a result of a type to a register, which may be wider, where the instruction's guard holds."""
        if not isinstance(operand, str):
            raise NotImplementedError(f"the result {operand}")
        if operand == "_":
            return lambda registers, value: None
        slot, bits = self.register(operand)
        if bits < bits_of(kind) or (bits > bits_of(kind) and (kind == "pred" or "f" in kind)):
            raise NotImplementedError(f"{operand} of {bits} bits for {kind}")
        guard = guard_of(instruction, self)
        widened = np.dtype(f"{'i' if kind[0] == 's' else 'u'}{bits // 8}") if bits > bits_of(kind) else None

        def write(registers: Registers, value: Values) -> None:
            if widened is not None:
                value = value.astype(widened)
            if guard is not None:
                value = np.where(guard(registers), value, registers[slot].view(value.dtype))
            registers[slot] = value

        return write

    def plain(self, operand: Operand, kind: str, instruction: Instruction) -> int | None:
        """Where a result goes that is written as it is and for all threads; None for others."""
        if instruction.guard is not None or not isinstance(operand, str) or operand == "_":
            return None
        slot, bits = self.register(operand)
        return slot if bits == bits_of(kind) else None


def guard_of(instruction: Instruction, slots: Slots) -> Fetch | None:
    """How to read where an instruction is executed; None where its guard is none."""
    if instruction.guard is None:
        return None
    slot = slots.register(instruction.guard).slot
    return (lambda registers: ~registers[slot]) if instruction.negated else (lambda registers: registers[slot])


def arithmetic(instruction: Instruction, slots: Slots) -> Step:
    """The step of an instruction that `operations` knows."""
    found = operation(instruction.opcode, len(instruction.operands) - 1)
    if found is None:
        raise instruction.unsupported()
    target, *sources = instruction.operands
    return _step(found, instruction, target, sources, slots)


def _step(
    found: Operation, instruction: Instruction, target: Operand, sources: Sequence[Operand], slots: Slots
) -> Step:
    """The step of an operation: the usual ones, of one and two operands of their own width, are written out."""
    apply, slot = found.apply, slots.plain(target, found.result, instruction)
    places = [slots.operand(source, kind) for source, kind in zip(sources, found.operands, strict=True)]
    dtypes = [dtype_of(kind) for kind in found.operands]
    exact = all(place.bits == bits_of(kind) for place, kind in zip(places, found.operands, strict=True))
    if exact and slot is not None and len(places) == 1:
        first, of_first = places[0].slot, dtypes[0]

        def unary(group: Threads) -> None:
            registers = group.registers
            a = registers[first]
            registers[slot] = apply(a if a.dtype is of_first else a.view(of_first))

        return unary
    if exact and slot is not None and len(places) == 2:
        (first, _), (second, _) = places
        of_first, of_second = dtypes

        def binary(group: Threads) -> None:
            registers = group.registers
            a, b = registers[first], registers[second]
            registers[slot] = apply(
                a if a.dtype is of_first else a.view(of_first), b if b.dtype is of_second else b.view(of_second)
            )

        return binary
    write = slots.write(target, found.result, instruction)
    fetches = [slots.fetch(source, kind) for source, kind in zip(sources, found.operands, strict=True)]

    def step(group: Threads) -> None:
        registers = group.registers
        write(registers, apply(*[fetch(registers) for fetch in fetches]))

    return step


def set_predicate(instruction: Instruction, slots: Slots) -> Step:
    """The step of ``setp``: a comparison, perhaps combined with a predicate, and perhaps what it is not as well."""
    modifiers = instruction.opcode[1:]
    combine = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}.get(modifiers[1])
    found = comparison((modifiers[0], *modifiers[2:]) if combine else modifiers)
    target, *sources = instruction.operands
    if found is None or len(sources) != (3 if combine else 2):
        raise instruction.unsupported()
    if combine is None and isinstance(target, str):
        return _step(found, instruction, target, sources, slots)
    writes = [
        slots.write(name, "pred", instruction) for name in (target.names if isinstance(target, Listed) else (target,))
    ]
    fetches = [slots.fetch(source, kind) for source, kind in zip(sources[:2], found.operands, strict=True)]
    other = slots.fetch(sources[2], "pred") if combine else None

    def step(group: Threads) -> None:
        registers = group.registers
        holds = found.apply(*[fetch(registers) for fetch in fetches])
        also = other(registers) if other else None
        for write, value in zip(writes, (holds, ~holds)):
            write(registers, value if combine is None or also is None else combine(value, also))

    return step


def move(instruction: Instruction, slots: Slots) -> Step:
    """The step of ``mov``, which may also take a register apart or put one together."""
    if len(instruction.opcode) != 2 or len(instruction.operands) != 2:
        raise instruction.unsupported()
    kind = instruction.opcode[1]
    if kind not in ("pred", "f32", *(f"{letter}{bits}" for letter in "bsu" for bits in (16, 32, 64))):
        raise instruction.unsupported()
    target, source = instruction.operands
    if isinstance(target, Listed):
        return _take_apart(instruction, target, source, slots)
    if isinstance(source, Listed):
        return _put_together(instruction, target, source, slots)
    fetch, write = slots.fetch(source, kind), slots.write(target, kind, instruction)

    def step(group: Threads) -> None:
        write(group.registers, fetch(group.registers))

    return step


def _part(instruction: Instruction, parts: Listed) -> str:
    bits = bits_of(instruction.opcode[1]) // len(parts.names)
    if bits not in (8, 16, 32):
        raise instruction.unsupported()
    return f"b{bits}"


def _take_apart(instruction: Instruction, target: Listed, source: Operand, slots: Slots) -> Step:
    kind, part = instruction.opcode[1], _part(instruction, target)
    fetch = slots.fetch(source, f"b{bits_of(kind)}")
    writes = [slots.write(name, part, instruction) for name in target.names]
    shifts = [dtype_of(kind).type(bits_of(part) * index) for index in range(len(writes))]
    wanted = [(write, shift) for write, shift, name in zip(writes, shifts, target.names, strict=True) if name != "_"]

    def step(group: Threads) -> None:
        whole = fetch(group.registers)
        for write, shift in wanted:
            write(group.registers, (whole >> shift if shift else whole).astype(dtype_of(part)))

    return step


def _put_together(instruction: Instruction, target: Operand, source: Listed, slots: Slots) -> Step:
    kind, part = instruction.opcode[1], _part(instruction, source)
    whole = dtype_of(f"b{bits_of(kind)}")
    fetches = [slots.fetch(name, part) for name in source.names]
    write = slots.write(target, f"b{bits_of(kind)}", instruction)

    def step(group: Threads) -> None:
        value = fetches[0](group.registers).astype(whole)
        for index, fetch in enumerate(fetches[1:], 1):
            value = value | (fetch(group.registers).astype(whole) << whole.type(index * bits_of(part)))
        write(group.registers, value)

    return step
