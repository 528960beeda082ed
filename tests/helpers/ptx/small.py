"""Small kernels written for tests: what surrounds their instructions, and arrays in memory to launch them on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.ptx.machine import Kernel
from helpers.ptx.memory import Memory, aligned_copy
from helpers.ptx.values import bits_of, dtype_of

_PREFIX = {1: "%p", 16: "%h", 32: "%r", 64: "%d"}


def written(body: str, parameters: Sequence[str] = ("u64", "u64"), threads: int = 32, shared: str = "") -> str:
    """The text of a kernel ``small`` with parameters ``a0``, ``a1``, ...; its registers are %p, %h, %r, %f and %d.

    %d90, %d91, ... hold the parameters of 64 bits, %r99 the number of the thread in its program, %r98 that of the
    program, and %r97 that of the thread in the launch.
    """
    declared = ", ".join(f".param .{kind} a{index}" for index, kind in enumerate(parameters))
    loads = "".join(f"ld.param.u64 %d{90 + at}, [a{at}];\n" for at, kind in enumerate(parameters) if kind[1:] == "64")
    return f"""
    .version 7.1
    .target sm_80
    .address_size 64
    {shared}
    .visible .entry small({declared}) .reqntid {threads}
    {{
    .reg .pred %p<100>;
    .reg .b16 %h<100>;
    .reg .b32 %r<100>;
    .reg .f32 %f<100>;
    .reg .b64 %d<100>;
    mov.u32 %r99, %tid.x;
    mov.u32 %r98, %ctaid.x;
    mad.lo.u32 %r97, %r98, {threads}, %r99;
    {loads}
    {body}
    ret;
    }}
    """


@cache
def compiled(text: str) -> Kernel:
    """The kernel of a text, compiled once."""
    return Kernel(text)


def run(body: str, *arrays: NDArray[Any], grid: int = 1, threads: int = 32, shared_bytes: int = 0, shared: str = ""):
    """Launch a body with the addresses of copies of arrays as its parameters; what the copies are afterwards."""
    copies = [aligned_copy(array) for array in arrays]
    kernel = compiled(written(body, ["u64"] * len(arrays), threads, shared))
    memory = Memory((copy.ctypes.data, copy.nbytes) for copy in copies)
    kernel.run(grid, [copy.ctypes.data for copy in copies], memory, shared_bytes)
    return copies


def computed(opcode: str, result: str, kinds: Sequence[str], *operands: NDArray[Any]) -> NDArray[Any]:
    """What an instruction makes of operands, one value for each thread.

    Args:
        opcode: of the instruction.
        result: type of its result.
        kinds: types of its operands.
        operands: values of these types, at least one.
    """
    count = len(operands[0])
    lines: list[str] = []
    names: list[str] = []
    for at, kind in enumerate(kinds):
        bits = bits_of(kind)
        stored = max(8, bits)
        names.append(f"{_PREFIX[max(16, bits) if bits > 1 else 1]}{at + 1}")
        lines.append(f"mad.wide.u32 %d{at + 1}, %r97, {stored // 8}, %d{90 + at};")
        if bits == 1:
            lines.append(f"ld.global.u8 %h{at + 1}, [%d{at + 1}];")
            lines.append(f"setp.ne.b16 {names[-1]}, %h{at + 1}, 0;")
        else:
            lines.append(f"ld.global.b{stored} {names[-1]}, [%d{at + 1}];")
    out = bits_of(result)
    lines.append(f"mad.wide.u32 %d60, %r97, {max(8, out) // 8}, %d{90 + len(kinds)};")
    target = f"{_PREFIX[max(16, out) if out > 1 else 1]}50"
    lines.append(f"{opcode} {', '.join([target, *names])};")
    lines.append("selp.b16 %h50, 1, 0, %p50;" if out == 1 else "")
    lines.append(f"st.global.b{max(8, out)} [%d60], {'%h50' if out == 1 else target};")
    # Whole warps: the last operands again.
    padded = [np.concatenate([values, np.repeat(values[-1:], -count % 32)]) for values in operands]
    place = np.zeros(len(padded[0]), dtype_of(result))
    made = run("\n".join(lines), *padded, place, grid=len(place) // 32)
    return made[-1][:count]
