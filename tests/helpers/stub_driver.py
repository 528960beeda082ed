"""A CUDA driver of host memory, compiled from C, with controls of its own."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from smalti_kernels.impl.cuda.driver import Driver

SOURCE = Path(__file__).parents[1] / "kernels" / "stub_cuda.c"
LAUNCH = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_ubyte), ctypes.c_size_t, ctypes.c_uint, ctypes.c_uint, ctypes.c_size_t
)


class Stub:
    """The stub library with its own controls."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.library = ctypes.CDLL(self.path)
        self.library.stub_log.restype = ctypes.c_char_p
        self.library.stub_image.restype = ctypes.c_size_t
        self.library.stub_allocated.restype = ctypes.c_long
        self.library.stub_make_current.argtypes = [ctypes.c_size_t]
        self.library.stub_image_of.argtypes = [ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t)]
        self.library.stub_image_of.restype = ctypes.c_void_p
        self.library.stub_regions.restype = ctypes.c_size_t
        self._callback = None

    def reset(self) -> None:
        self.library.stub_reset()
        self._callback = None

    def driver(self) -> Driver:
        return Driver(ctypes.CDLL(self.path), "the stub")

    def fail(self, call: str, code: int, after: int = 0) -> None:
        """Let a function return `code` from its `after`-th next call on (0: the next)."""
        self.library.stub_fail(call.encode(), code, after)

    def machine(self, capability: int = 80, version: int = 12080, devices: int = 1) -> None:
        self.library.stub_machine(capability, version, devices)

    def make_current(self, context: int) -> None:
        self.library.stub_make_current(context)

    def on_launch(self, function: Callable[[bytes, int, int], int]) -> None:
        """Let `function(arguments, grid, threads)` stand in for the kernel; it returns a CUresult."""

        def call(buffer, size, grid, threads, _):
            return function(bytes(buffer[:size]), grid, threads)

        self._callback = LAUNCH(call)
        self.library.stub_on_launch(self._callback)

    def on_launch_of(self, function: Callable[[bytes, bytes, int, int], int]) -> None:
        """Let `function(image, arguments, grid, threads)` stand in for all kernels; it returns a CUresult."""

        def call(buffer, size, grid, threads, handle):
            return function(self.image_of(handle), bytes(buffer[:size]), grid, threads)

        self._callback = LAUNCH(call)
        self.library.stub_on_launch(self._callback)

    def image_of(self, handle: int) -> bytes:
        """The module that a function was found in."""
        size = ctypes.c_size_t()
        return ctypes.string_at(self.library.stub_image_of(handle, ctypes.byref(size)), size.value)

    @property
    def regions(self) -> list[tuple[int, int]]:
        """Address and size of all device memory in use."""
        addresses, sizes = (ctypes.c_size_t * 4096)(), (ctypes.c_size_t * 4096)()
        count = self.library.stub_regions(addresses, sizes, 4096)
        return list(zip(addresses[:count], sizes[:count]))

    @property
    def log(self) -> list[str]:
        return self.library.stub_log().decode().splitlines()

    def calls(self, name: str) -> list[str]:
        """What was recorded of the calls of one function."""
        return [line.partition(" ")[2] for line in self.log if line.partition(" ")[0] == name]

    def launches(self) -> list[dict[str, str]]:
        return [dict(re.findall(r"(\w+)=(\S+)", call)) for call in self.calls("cuLaunchKernel")]

    @property
    def image(self) -> bytes:
        """The module that was loaded last."""
        size = self.library.stub_image(None, 0)
        buffer = ctypes.create_string_buffer(size)
        self.library.stub_image(buffer, size)
        return buffer.raw

    @property
    def allocated(self) -> int:
        """Device allocations not yet freed."""
        return self.library.stub_allocated()


def build_stub(folder: Path) -> Stub:
    """Compile the library into a folder; skip where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler to build the stub driver with")
    path = folder / "libstub_cuda.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", path, SOURCE], check=True)
    return Stub(path)
