"""Cubins read back: every figure against what the compiler and cuobjdump say of the same file."""

from __future__ import annotations

import importlib.util
import re
import struct
import subprocess
from pathlib import Path

import pytest

from smalti_kernels.build.elf import read_cubin
from smalti_kernels.impl.cuda.targets import TARGETS

CUBINS = [target for target in TARGETS if not target.ptx]


@pytest.fixture(scope="module")
def summed(toys) -> dict[str, dict]:
    return toys.compile("summed", *[target.name for target in TARGETS])


@pytest.fixture(scope="module")
def image(summed) -> bytes:
    return Path(summed["sm_75"]["image"]).read_bytes()


def usage(path: str) -> dict[str, int]:
    """The resource usage that the CUDA toolkit's own reader prints of a cubin with one kernel."""
    spec = importlib.util.find_spec("triton")
    assert spec is not None
    assert spec.origin is not None
    tool = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    text = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", text)}


@pytest.mark.parametrize("target", CUBINS, ids=lambda target: target.name)
def test_a_cubin_says_what_the_toolkit_says_of_it(summed, target):
    report = summed[target.name]
    cubin = read_cubin(Path(report["image"]).read_bytes())
    assert (cubin.arch, cubin.specific) == (target.capability, target.exact)
    assert cubin.toolkit == tuple(int(part) for part in summed["versions"][tool_of(target)].split(".")[:2])
    # What a driver must support at least is what the assembler's major version asks for.
    assert target.cuda == (cubin.toolkit[0], 0)
    (kernel,) = cubin.kernels
    said = usage(report["image"])
    assert kernel.name == "summed"
    assert kernel.threads == 4 * 32
    assert (kernel.registers, kernel.stack_bytes, kernel.shared_bytes) == (said["REG"], said["STACK"], said["SHARED"])
    assert said["LOCAL"] == 0
    # Two pointers, a number, and Triton's two pointers to scratch memory.
    assert kernel.parameters == ((0, 8), (8, 8), (16, 4), (24, 8), (32, 8))


def tool_of(target) -> str:
    return "ptxas-blackwell" if target.capability >= 100 else "ptxas"


@pytest.mark.parametrize("arch", [61, 120])
def test_a_stack_is_seen(toys, tmp_path, arch):
    """A kernel with too few registers: the compiler's check names the same stack as the toolkit."""
    report = toys.compile("plain", f"sm_{arch}", registers=16)[f"sm_{arch}"]
    (stack,) = re.findall(r"(\d+) bytes of stack", report["error"])
    # Several where an earlier test had the same kernel compiled; each architecture's ELF says which it is.
    found = list((toys.folder / "plain-16").rglob("*.cubin"))
    file = next(file for file in found if read_cubin(file.read_bytes()).arch == arch)
    assert int(stack) == usage(str(file))["STACK"] > 0
    (kernel,) = read_cubin(file.read_bytes()).kernels
    assert kernel.stack_bytes == int(stack)
    file.unlink()


@pytest.mark.parametrize("size", [0, 5, 40, 64, 700, -100])
def test_files_cut_short_are_refused(image, size):
    with pytest.raises(ValueError, match=r"not a (readable )?cubin"):
        read_cubin(image[:size])


@pytest.mark.parametrize(
    ("offset", "value", "says"),
    [
        (0, b"\x7fELG", "expected a little-endian ELF64"),
        (5, b"\x02", "expected a little-endian ELF64"),
        (8, b"\x09", "ABI version 9; this reader knows 7 and 8"),
        (18, struct.pack("<H", 62), "ELF machine 62"),
        (60, struct.pack("<H", 0), "not a readable cubin"),
        (40, struct.pack("<Q", 1 << 60), "not a readable cubin"),
    ],
)
def test_other_files_are_refused(image, offset, value, says):
    changed = image[:offset] + value + image[offset + len(value) :]
    with pytest.raises(ValueError, match=says):
        read_cubin(changed)


def test_a_cubin_without_its_stack_is_refused(image):
    # The attribute of the frame and of the stack become one that nobody knows.
    info = image.index(struct.pack("<BBH", 4, 0x11, 8))
    changed = image.replace(struct.pack("<BBH", 4, 0x11, 8), struct.pack("<BBH", 4, 0xEE, 8), 1)
    changed = changed[: info + 12] + changed[info + 12 :].replace(struct.pack("<BBH", 4, 0x12, 8), b"\x04\xee\x08\0", 1)
    with pytest.raises(ValueError, match="does not say how much stack summed needs"):
        read_cubin(changed)
