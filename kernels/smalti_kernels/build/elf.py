"""What a cubin says about itself, read from its ELF with the standard library alone.

The build trusts this, not the compiler's report, for the architecture, registers, stack and parameters of what it
ships; so does the launcher's test. A cubin is ELF64, little-endian, machine 190. The architecture stands in e_flags,
the rest in the `.nv.info` sections: records of (format u8, attribute u8, value u16), followed by `value` bytes when the
format is 4. NVIDIA publishes neither; the names are those that `cuobjdump -elf` prints, the two layouts of e_flags are
those of LLVM (`llvm/BinaryFormat/ELF.h`, EF_CUDA_*), and a test compares every figure with `cuobjdump`'s.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

_MACHINE_CUDA: Final = 190
_SHARED: Final = ".nv.shared."

# e_flags of ABI 7 (CUDA up to 12): architecture in the low byte, a flag for features that only that one chip has.
_V7_ARCH: Final = 0xFF
_V7_SPECIFIC: Final = 0x800
# ABI 8 (CUDA 13): architecture in the second byte; whether it is specific stands in a section of its own.
_V8_ARCH_SHIFT: Final = 8
_V8_ARCH: Final = 0xFF
_COMPAT_SPECIFIC: Final = 0x09

_PAYLOAD: Final = 4
_ATTR_THREADS: Final = 0x10
_ATTR_FRAME: Final = 0x11
_ATTR_STACK: Final = 0x12
_ATTR_PARAM: Final = 0x17
_ATTR_REGISTERS: Final = 0x2F
_ATTR_TOOLKIT: Final = 0x37
_PARAM_SIZE_SHIFT: Final = 18


@dataclass(frozen=True)
class Kernel:
    """One entry point of a cubin."""

    name: str
    """Name to look up in the loaded module."""
    registers: int
    """32-bit registers per thread."""
    stack_bytes: int
    """Local memory per thread: 0 says that nothing was spilled and no array lives outside the registers."""
    shared_bytes: int
    """Static shared memory per block, what the driver reserves included; the dynamic part is the launch's."""
    threads: int
    """Threads per block that the kernel was compiled for, or 0 when any number may be launched."""
    parameters: tuple[tuple[int, int], ...]
    """(offset, size) in bytes of every parameter, in the order of the kernel's signature."""


@dataclass(frozen=True)
class Cubin:
    """One compiled module."""

    arch: int
    """Compute capability as one number: 75 is 7.5."""
    specific: bool
    """Whether it runs on that capability alone (`sm_90a`), not on later minor ones."""
    toolkit: tuple[int, int]
    """Version of the CUDA toolkit that assembled it; a driver of an older major version cannot load it."""
    kernels: tuple[Kernel, ...]


class _Section(NamedTuple):
    name: str
    data: bytes
    size: int
    info: int


def read_cubin(image: bytes) -> Cubin:
    """Read a cubin's architecture and kernels.

    Args:
        image: the whole file.

    Raises:
        ValueError: not a CUDA ELF, cut short, or of a layout that this reader does not know; the message says which.
    """
    try:
        return _read(image)
    except (struct.error, IndexError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"not a readable cubin: cut short or damaged ({error})") from None


def _read(image: bytes) -> Cubin:
    if image[:6] != b"\x7fELF\x02\x01":
        raise ValueError(f"not a cubin: expected a little-endian ELF64, got {image[:6]!r}")
    (machine,) = struct.unpack_from("<H", image, 18)
    if machine != _MACHINE_CUDA:
        raise ValueError(f"not a cubin: ELF machine {machine} instead of {_MACHINE_CUDA}")
    sections = _sections(image)
    abi, (flags,) = image[8], struct.unpack_from("<I", image, 48)
    if abi == 7:
        arch, specific = flags & _V7_ARCH, bool(flags & _V7_SPECIFIC)
    elif abi == 8:
        compat = [_records(section.data) for section in sections if section.name == ".nv.compat"]
        arch = flags >> _V8_ARCH_SHIFT & _V8_ARCH
        specific = any(attribute == _COMPAT_SPECIFIC and value[0] for part in compat for attribute, value in part)
    else:
        raise ValueError(f"a cubin of ELF ABI version {abi}; this reader knows 7 and 8")
    kernels = _kernels(sections)
    toolkits = {
        struct.unpack("<I", value)[0]
        for section in sections
        if section.name.startswith(".nv.info.")
        for attribute, value in _records(section.data)
        if attribute == _ATTR_TOOLKIT
    }
    if len(toolkits) != 1:
        raise ValueError(f"a cubin must name one CUDA toolkit; got {sorted(toolkits)}")
    toolkit: int = toolkits.pop()
    return Cubin(arch, specific, divmod(toolkit, 10), kernels)


def _sections(image: bytes) -> list[_Section]:
    programs, table = struct.unpack_from("<QQ", image, 32)
    each, number, size, count, names = struct.unpack_from("<5H", image, 54)
    if programs + each * number > len(image):
        raise ValueError("not a readable cubin: cut short")
    headers = [struct.unpack_from("<IIQQQQIIQQ", image, table + index * size) for index in range(count)]
    strings = headers[names][4]
    sections: list[_Section] = []
    for name, kind, _, _, offset, length, _, info, _, _ in headers:
        end = image.find(b"\0", strings + name)
        # NOBITS (8): shared memory has a size and no bytes.
        data = b"" if kind == 8 else image[offset : offset + length]
        if kind != 8 and len(data) != length:
            raise ValueError("not a readable cubin: cut short")
        sections.append(_Section(image[strings + name : end].decode(), data, length, info))
    return sections


def _records(data: bytes) -> list[tuple[int, bytes]]:
    """The (attribute, payload) records of an info section; short formats carry their two bytes as the payload."""
    records: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        form, attribute, value = struct.unpack_from("<BBH", data, at)
        at += 4
        payload = data[at : at + value] if form == _PAYLOAD else data[at - 2 : at]
        at += value if form == _PAYLOAD else 0
        records.append((attribute, payload))
    return records


def _kernels(sections: list[_Section]) -> tuple[Kernel, ...]:
    by_name = {section.name: section for section in sections}
    symbols = by_name[".symtab"].data if ".symtab" in by_name else b""
    strings = by_name[".strtab"].data if ".strtab" in by_name else b""
    registers: dict[str, int] = {}
    stack: dict[str, int] = {}
    for attribute, payload in _records(by_name[".nv.info"].data if ".nv.info" in by_name else b""):
        if attribute in (_ATTR_REGISTERS, _ATTR_FRAME, _ATTR_STACK):
            symbol, value = struct.unpack("<II", payload)
            (start,) = struct.unpack_from("<I", symbols, symbol * 24)
            name = strings[start : strings.index(0, start)].decode()
            if attribute == _ATTR_REGISTERS:
                registers[name] = value
            else:
                stack[name] = max(stack.get(name, 0), value)

    kernels: list[Kernel] = []
    for name in sorted(registers):
        info = _records(by_name[f".nv.info.{name}"].data)
        parameters: dict[int, tuple[int, int]] = {}
        threads = 0
        for attribute, payload in info:
            if attribute == _ATTR_PARAM:
                _, ordinal, offset, packed = struct.unpack("<IHHI", payload)
                parameters[ordinal] = (offset, packed >> _PARAM_SIZE_SHIFT)
            elif attribute == _ATTR_THREADS:
                x, y, z = struct.unpack("<III", payload)
                threads = x * y * z
        shared = by_name.get(_SHARED + name)
        kernels.append(
            Kernel(
                name=name,
                registers=registers[name],
                # A kernel whose stack is not stated is not one whose stack is known to be 0.
                stack_bytes=stack[name] if name in stack else _no_stack(name),
                shared_bytes=0 if shared is None else shared.size,
                threads=threads,
                parameters=tuple(parameters[ordinal] for ordinal in sorted(parameters)),
            )
        )
    if not kernels:
        raise ValueError("a cubin without a kernel")
    return tuple(kernels)


def _no_stack(name: str) -> int:
    raise ValueError(f"the cubin does not say how much stack {name} needs")
