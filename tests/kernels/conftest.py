"""A CUDA driver of host memory, compiled from C, so that the launcher's real calls are tested; and toy kernels."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.kernel_files import write_all
from helpers.stub_driver import Stub
from smalti_kernels.impl.cuda.launch import Kernels


@pytest.fixture(scope="session")
def text_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of prebuilt kernels that are only text, of every form and target."""
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
