"""PTX text as data: the entry point's name, parameters, registers, shared memory, instructions and labels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_STATEMENT = re.compile(r"(?:@(!?)(%[\w$]+)\s+)?([a-z][\w.:]*)\s*(.*)", re.S)
_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*(?:\(([^)]*)\))?([^{]*)\{(.*)\}", re.S)
_SHARED = re.compile(r"(\.extern\s+)?\.shared\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d*)\])?")
_REGISTER = re.compile(r"(%[\w$]+?)(?:<(\d+)>)?$")
_ADDRESS = re.compile(r"\[\s*([%\w$.]+)\s*(?:\+\s*(-?\w+))?\s*\]")
_IGNORED = (".loc", ".file", ".pragma", ".section")


class Parameter(NamedTuple):
    """One parameter of the kernel."""

    name: str
    kind: str
    """Its type, such as ``u64``."""


class Address(NamedTuple):
    """An operand in brackets: a register, parameter or symbol, and what is added to it."""

    base: str
    offset: int


class Listed(NamedTuple):
    """Several operands in one: ``{%r1, %r2}``, or ``%p1|%p2``."""

    names: tuple[str, ...]


Operand = str | Address | Listed


class Instruction(NamedTuple):
    """One instruction."""

    text: str
    opcode: tuple[str, ...]
    """Its parts: ``("add", "rn", "f32")``."""
    operands: tuple[Operand, ...]
    guard: str | None
    """The predicate under which it is executed."""
    negated: bool
    """Whether it is executed where the guard is false."""

    def unsupported(self, why: str = "") -> NotImplementedError:
        """The error that says that this instruction cannot be interpreted."""
        return NotImplementedError(f"PTX instruction {self.text!r} is not supported" + (f": {why}" if why else ""))


class Program(NamedTuple):
    """One kernel as it is written."""

    name: str
    threads: int
    """Threads of a block."""
    parameters: tuple[Parameter, ...]
    registers: dict[str, int]
    """Width in bits of registers by the name without its number: 32 for ``%r``."""
    shared: dict[str, int]
    """Offsets of the symbols in shared memory."""
    shared_bytes: int
    """Bytes of shared memory that the text itself asks for."""
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]
    """Index of the instruction that follows each label."""

    def width(self, register: str) -> int:
        """Width of a register in bits."""
        found = self.registers.get(register) or self.registers.get(register.rstrip("0123456789"))
        if found is None:
            raise NotImplementedError(f"the register {register}, which is not declared")
        return found


def parse(text: str) -> Program:
    """Read a module that has exactly one kernel and no functions.

    Raises ValueError where the text is none, NotImplementedError for declarations that cannot be interpreted.
    """
    plain = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)
    entries = len(re.findall(r"\.entry\b", plain))
    if entries != 1 or re.search(r"\.func\b", plain):
        raise NotImplementedError(f"a module with {entries} kernels, or with functions")
    entry = _ENTRY.search(plain)
    if entry is None:
        raise ValueError("the kernel has no body")
    name, parameters, bounds, body = entry.groups()
    registers: dict[str, int] = {}
    labels: dict[str, int] = {}
    instructions: list[Instruction] = []
    for label, statement in _statements(body):
        if label:
            labels[label] = len(instructions)
        elif statement.startswith(".reg"):
            registers.update(_declared(statement))
        elif not statement.startswith((".shared", *_IGNORED)):
            instructions.append(_instruction(statement))
    shared, size = _shared(plain)
    return Program(
        name, _threads(bounds), _parameters(parameters or ""), registers, shared, size, tuple(instructions), labels
    )


def _statements(body: str) -> Iterator[tuple[str, str]]:
    """Labels and statements of a body, in order, as (label, "") or ("", statement)."""
    for statement in body.split(";"):
        rest = statement.strip(" \t\r\n")
        while found := re.match(r"([\w$]+):(?!:)\s*|[{}]\s*", rest):
            if found[1]:
                yield found[1], ""
            rest = rest[found.end() :]
        if rest:
            yield "", " ".join(rest.split())


def _threads(bounds: str) -> int:
    found = re.search(r"\.reqntid\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?", bounds)
    if found is None:
        raise NotImplementedError("a kernel without .reqntid")
    threads, *others = (int(number or 1) for number in found.groups())
    if others != [1, 1] or threads % 32:
        raise NotImplementedError(f"blocks of {found[0]}: one dimension and whole warps are supported")
    return threads


def _parameters(text: str) -> tuple[Parameter, ...]:
    found: list[Parameter] = []
    for declared in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"\.param\s+\.([usbf]\d+)\s+(?:\.ptr\s+)?(?:\.\w+\s+(?:\d+\s+)?)*([\w$]+)", declared)
        if match is None:
            raise NotImplementedError(f"the parameter {declared!r}")
        found.append(Parameter(match[2], match[1]))
    return tuple(found)


def _declared(statement: str) -> Iterator[tuple[str, int]]:
    """Names, without their numbers, and widths of a declaration such as ``.reg .b32 %r<9>``."""
    kind, _, names = statement.removeprefix(".reg").strip().partition(" ")
    if not re.fullmatch(r"\.(pred|[busf](8|16|32|64))", kind):
        raise NotImplementedError(f"registers of type {kind}")
    for name in names.split(","):
        found = _REGISTER.fullmatch(name.strip())
        if found is None:
            raise NotImplementedError(f"the declaration {statement!r}")
        yield found[1], 1 if kind == ".pred" else int(kind[2:])


def _shared(text: str) -> tuple[dict[str, int], int]:
    """Offsets of the symbols in shared memory, and the bytes of those that have a size; the extern one follows them."""
    offsets: dict[str, int] = {}
    size = 0
    for extern, alignment, kind, name, count in sorted(_SHARED.findall(text), key=lambda found: bool(found[0])):
        step = int(alignment or 1)
        size = -(-size // step) * step
        offsets[name] = size
        size += 0 if extern else int(kind[1:]) // 8 * int(count or 1)
    return offsets, size


def _instruction(text: str) -> Instruction:
    found = _STATEMENT.fullmatch(text)
    if found is None:
        raise NotImplementedError(f"PTX statement {text!r} is not supported")
    negation, guard, opcode, rest = found.groups()
    operands = tuple(_operand(part) for part in _separated(rest))
    return Instruction(text, tuple(opcode.replace("::", "-").split(".")), operands, guard, bool(negation))


def _separated(text: str) -> list[str]:
    """Operands, separated by the commas that stand outside braces and brackets."""
    return [part.strip() for part in re.split(r",(?![^{]*\})(?![^\[]*\])", text)] if text.strip() else []


def _operand(text: str) -> Operand:
    if text.startswith("{"):
        return Listed(tuple(part.strip() for part in text.strip("{} ").split(",")))
    if text.startswith("["):
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise NotImplementedError(f"the address {text}")
        return Address(found[1], int(found[2] or "0", 0))
    return Listed(tuple(part.strip() for part in text.split("|"))) if "|" in text else text
