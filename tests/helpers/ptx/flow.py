"""The order in which a kernel's blocks of instructions are executed, and the registers that each of them needs.

Threads that took different ways wait for each other: of all blocks that threads are waiting at, the first one in this
order is next. A loop's blocks lie together, before what follows the loop, so that all threads have left it before any
goes on, and those of an `if` meet where its two sides do. This is Bourdoncle's weak topological order ("Efficient
chaotic iteration strategies with widenings", 1993).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import NamedTuple

from helpers.ptx.parse import Instruction, Program

_LEAVE = ("ret", "exit")


class Block(NamedTuple):
    """Instructions that are always executed one after another."""

    body: tuple[Instruction, ...]
    """All but a branch at the end."""
    leave: Instruction | None
    """The branch or return at its end, if it has one."""
    taken: int | None
    """Where that goes: a block, or None for the end of the kernel."""
    next: int | None
    """The block where others go on: those that do not branch."""

    @property
    def successors(self) -> list[int]:
        """Blocks that may follow."""
        conditional = self.leave is None or self.leave.guard is not None
        ways = ((self.taken,) if self.leave else ()) + ((self.next,) if conditional else ())
        return [way for way in dict.fromkeys(ways) if way is not None]


def blocks_of(program: Program) -> list[Block]:
    """The blocks that can be reached, in the order of execution; the first one is where the kernel begins."""
    found = _split(program)
    order = weak_order({index: block.successors for index, block in enumerate(found)}, 0)
    place: dict[int | None, int | None] = {old: new for new, old in enumerate(order)} | {None: None}
    return [found[old]._replace(taken=place.get(found[old].taken), next=place.get(found[old].next)) for old in order]


def _split(program: Program) -> list[Block]:
    """The blocks of a kernel as they are written."""
    instructions = program.instructions
    after = {at + 1 for at, one in enumerate(instructions) if one.opcode[0] in ("bra", *_LEAVE)}
    starts = sorted({0, *program.labels.values(), *after} - {len(instructions)})
    index = {start: number for number, start in enumerate(starts)}
    blocks: list[Block] = []
    for start, stop in zip(starts, [*starts[1:], len(instructions)], strict=True):
        last = instructions[stop - 1]
        leave = last if stop in after else None
        taken = index.get(_target(program, leave)) if leave is not None and leave.opcode[0] == "bra" else None
        blocks.append(Block(instructions[start : stop - bool(leave)], leave, taken, index.get(stop)))
    return blocks


def _target(program: Program, branch: Instruction) -> int:
    (label,) = branch.operands
    if branch.opcode not in (("bra",), ("bra", "uni")) or label not in program.labels:
        raise branch.unsupported()
    return program.labels[str(label)]


def weak_order(successors: Mapping[int, Sequence[int]], entry: int) -> list[int]:
    """All nodes that `entry` reaches, every loop in one piece that begins with its head."""
    number: dict[int, float] = {}
    stack: list[int] = []
    numbers = count(1)

    def visit(node: int, order: list[int]) -> float:
        stack.append(node)
        head: float = next(numbers)
        number[node] = head
        loops = False
        for follower in successors[node]:
            least = number[follower] if number.get(follower) else visit(follower, order)
            if least <= head:
                head, loops = least, True
        if head == number[node]:
            number[node] = float("inf")
            while (last := stack.pop()) != node:
                number[last] = 0
            order[:0] = component(node) if loops else [node]
        return head

    def component(node: int) -> list[int]:
        order: list[int] = []
        for follower in successors[node]:
            if not number.get(follower):
                visit(follower, order)
        return [node, *order]

    found: list[int] = []
    visit(entry, found)
    return found


def needed_registers(
    blocks: Sequence[Block], uses: Callable[[Instruction], tuple[set[int], set[int]]]
) -> list[set[int]]:
    """For every block the registers whose value at its begin is read there or later.

    Args:
        blocks: in any order.
        uses: registers that an instruction reads, and those that it overwrites in any case.
    """
    effects: list[tuple[set[int], set[int]]] = []
    for block in blocks:
        read: set[int] = set()
        written: set[int] = set()
        for instruction in (*block.body, *((block.leave,) if block.leave else ())):
            reads, writes = uses(instruction)
            read |= reads - written
            written |= writes
        effects.append((read, written))
    needed: list[set[int]] = [set() for _ in blocks]
    changed = True
    while changed:
        changed = False
        for index in reversed(range(len(blocks))):
            read, written = effects[index]
            after = set[int]().union(*(needed[follower] for follower in blocks[index].successors))
            now = read | (after - written)
            changed |= now != needed[index]
            needed[index] = now
    return needed
