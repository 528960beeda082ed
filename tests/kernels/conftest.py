"""A CUDA driver of host memory, compiled from C, so that the launcher's real calls are tested; and toy kernels."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.kernel_files import write_all
from smalti_kernels.impl.cuda.driver import Driver
from smalti_kernels.impl.cuda.launch import Kernels

LAUNCH = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_ubyte), ctypes.c_size_t, ctypes.c_uint, ctypes.c_uint, use_errno=False
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

        def call(buffer, size, grid, threads):
            return function(bytes(buffer[:size]), grid, threads)

        self._callback = LAUNCH(call)
        self.library.stub_on_launch(self._callback)

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


@pytest.fixture(scope="session")
def stub_library(tmp_path_factory: pytest.TempPathFactory) -> Stub:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler to build the stub driver with")
    path = tmp_path_factory.mktemp("stub") / "libstub_cuda.so"
    source = Path(__file__).with_name("stub_cuda.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", path, source], check=True)
    return Stub(path)


@pytest.fixture
def stub(stub_library: Stub) -> Stub:
    stub_library.reset()
    return stub_library


@pytest.fixture(scope="session")
def text_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of prebuilt kernels that are only text, of every variant and target."""
    return write_all(tmp_path_factory.mktemp("cubins"))


@pytest.fixture
def kernels(stub: Stub, text_kernels: Path) -> Kernels:
    """The text kernels in the primary context of the stub's device."""
    opened = stub.driver()
    return Kernels(opened, opened.primary_context(0), opened.device(0), text_kernels)


class Toys:
    """Toy kernels compiled by Triton in processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def compile(self, kernel: str, *targets: str, registers: int = 128) -> dict[str, dict]:
        """The report of `compile_toy.py`: by target, what was made or the error."""
        cache = self.folder / f"{kernel}-{registers}"
        cache.mkdir(exist_ok=True)
        script = Path(__file__).with_name("compile_toy.py")
        # The environment of the tests may name the interpreter or odd options: none of it may matter.
        hostile = {"TRITON_INTERPRET": "1", "TRITON_DISABLE_LINE_INFO": "0", "TRITON_DEFAULT_FP_FUSION": "1"}
        done = subprocess.run(
            [sys.executable, script, cache, kernel, str(registers), *targets],
            capture_output=True,
            text=True,
            env={**os.environ, **hostile},
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Toys:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    return Toys(tmp_path_factory.mktemp("toys"))
