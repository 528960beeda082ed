"""A kernel of PTX text, executed in NumPy: one array element for each thread, all programs of a launch side by side.

Threads execute an instruction together, as far as they are at the same one; where their ways part, `flow` says who goes
first. So a barrier that is missing is not noticed, and neither is what depends on when another program's writes arrive;
what threads do to memory and to each other's registers is checked.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from helpers.ptx.access import convert_address, load, store
from helpers.ptx.flow import Block, blocks_of, needed_registers
from helpers.ptx.groups import Group, divide, join, select
from helpers.ptx.lanes import barrier, reduction, shuffle, vote
from helpers.ptx.lower import SPECIAL, Fetch, Slots, Step, arithmetic, guard_of, move, set_predicate
from helpers.ptx.memory import Memory
from helpers.ptx.parse import Address, Instruction, Listed, Parameter, parse
from helpers.ptx.values import Values, bits_of, undefined_bytes

_BATCH: Final = 1 << 15
"""Threads that are executed side by side: their registers' arrays stay in a cache."""
_STEPS: Final[dict[str, Callable[[Instruction, Slots], Step]]] = {
    "mov": move,
    "setp": set_predicate,
    "ld": load,
    "st": store,
    "cvta": convert_address,
}
_LANES: Final[dict[str, Callable[[Instruction, Slots, int], Step]]] = {
    "shfl": shuffle,
    "redux": reduction,
    "vote": vote,
    "bar": barrier,
    "barrier": barrier,
}
_NOTHING: Final = frozenset({"membar", "fence"})


class Launch(NamedTuple):
    """What the threads of some programs share."""

    memory: Memory
    parameters: list[bytes]
    shared: NDArray[np.uint8]
    """Shared memory of each program, [programs, bytes]; the bytes are a multiple of 8."""
    shared_bytes: int
    """Bytes of it that a program may touch."""


class _Compiled(NamedTuple):
    """A block of instructions, ready to be executed."""

    steps: list[Step]
    block: Block
    condition: Fetch | None
    """Who takes the branch at its end; None for all or, without a branch, for nobody."""
    needed: tuple[int, ...]
    """Registers whose value at its begin matters."""


class Kernel:
    """The kernel of a PTX module.

    Raises NotImplementedError, which names the instruction, where it has one that cannot be interpreted.
    """

    name: str
    threads: int
    """Threads of a block."""
    parameters: tuple[Parameter, ...]

    def __init__(self, text: str) -> None:
        """Read the text and compile every instruction that can be reached."""
        program = parse(text)
        self.name, self.threads, self.parameters = program.name, program.threads, program.parameters
        self._static_bytes = program.shared_bytes
        self._slots = slots = Slots(program)
        blocks = blocks_of(program)
        steps = [[self._step(one) for one in block.body if one.opcode[0] not in _NOTHING] for block in blocks]
        needed = needed_registers(blocks, lambda instruction: _uses(instruction, slots))
        self._blocks = [
            _Compiled(made, block, guard_of(block.leave, slots) if block.leave else None, tuple(sorted(live)))
            for made, block, live in zip(steps, blocks, needed, strict=True)
        ]
        self.opcodes = {
            ".".join(one.opcode) for block in blocks for one in (*block.body, *filter(None, (block.leave,)))
        }
        """Opcodes that the kernel uses."""

    def _step(self, instruction: Instruction) -> Step:
        name = instruction.opcode[0]
        try:
            if name in _LANES:
                return _LANES[name](instruction, self._slots, self.threads)
            return _STEPS.get(name, arithmetic)(instruction, self._slots)
        except NotImplementedError as error:
            if repr(instruction.text) in str(error):
                raise
            raise instruction.unsupported(str(error)) from error

    def run(self, grid: int, arguments: Sequence[int | float], memory: Memory, shared_bytes: int = 0) -> None:
        """Execute a launch of `grid` programs.

        Args:
            grid: programs, in one dimension.
            arguments: values of all parameters in order.
            memory: the regions that the launch may touch.
            shared_bytes: dynamic shared memory of a program.

        Raises IllegalAddress, Misaligned and Divergence for what a device would not do, or would do wrong; what was
        written before stays.
        """
        given = [_bytes_of(parameter, value) for parameter, value in zip(self.parameters, arguments, strict=True)]
        size = self._static_bytes + shared_bytes
        batch = max(1, _BATCH // self.threads)
        with np.errstate(all="ignore"):
            for start in range(0, grid, batch):
                count = min(batch, grid - start)
                launch = Launch(memory, given, undefined_bytes(count, -(-size // 8) * 8), size)
                self._run(launch, np.arange(start, start + count), grid)

    def _run(self, launch: Launch, programs: NDArray[np.int64], grid: int) -> None:
        """Execute some programs of a launch."""
        base = list(self._slots.initial)
        thread = np.arange(self.threads, dtype=np.uint32)[None]
        special = {
            "%tid.x": thread,
            "%ctaid.x": programs.astype(np.uint32)[:, None],
            "%ntid.x": np.full((1, 1), self.threads, np.uint32),
            "%nctaid.x": np.full((1, 1), grid, np.uint32),
            "%laneid": thread % np.uint32(32),
        }
        registers = list(base)
        for name in SPECIAL:
            registers[self._slots.register(name).slot] = special[name]
        waiting = {0: [Group(launch, np.arange(len(programs)), registers, None)]}
        while waiting:
            at = min(waiting)
            compiled = self._blocks[at]
            group = join(waiting.pop(at), base, compiled.needed)
            for step in compiled.steps:
                step(group)
            for target, part in self._leave(compiled, group, base):
                if target is not None:
                    waiting.setdefault(target, []).append(part)

    def _leave(self, compiled: _Compiled, group: Group, base: list[Values]) -> list[tuple[int | None, Group]]:
        """Where the threads of a group go from the end of a block."""
        block = compiled.block
        if compiled.condition is None:
            return [(block.taken if block.leave else block.next, group)]
        ways: list[tuple[int | None, Group]] = []
        parts = list(divide(group, compiled.condition(group.registers)))
        for taken, programs, active in parts:
            target = block.taken if taken else block.next
            if len(parts) == 1:
                ways.append((target, group))
            elif target is not None:
                ways.append((target, select(group, programs, active, base, self._blocks[target].needed)))
        return ways


def _bytes_of(parameter: Parameter, value: int | float) -> bytes:
    """An argument as the bytes of its parameter."""
    bits = bits_of(parameter.kind)
    if parameter.kind[0] == "f":
        return struct.pack({16: "<e", 32: "<f", 64: "<d"}[bits], value)
    return (int(value) & ((1 << bits) - 1)).to_bytes(bits // 8, "little")


def _uses(instruction: Instruction, slots: Slots) -> tuple[set[int], set[int]]:
    """Registers that an instruction reads, and those that it overwrites in all threads."""

    def named(operands: Sequence[Any]) -> set[int]:
        found: set[int] = set()
        for operand in operands:
            if isinstance(operand, Listed):
                found |= named(operand.names)
            else:
                name = operand.base if isinstance(operand, Address) else operand
                # Registers only: what else begins like one is a constant.
                if name.startswith("%") and (name in SPECIAL or name.rpartition(".")[0] == ""):
                    found.add(slots.register(name).slot)
        return found

    writes_first = instruction.opcode[0] not in ("st", "bra", "ret", "exit", "bar", "barrier", *_NOTHING)
    target = named(instruction.operands[:1]) if writes_first else set[int]()
    read = named(instruction.operands[1 if writes_first else 0 :])
    if instruction.guard is None:
        return read, target
    return read | target | named([instruction.guard]), set()
