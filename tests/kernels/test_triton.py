"""`impl="triton"`: interpreted, it equals the reference; without a device or without Triton, it says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smalti_kernels import sample
from smalti_kernels.errors import KernelError

HERE = Path(__file__).parent
PLACE: dict[str, Any] = {"sample": [0], "position": [0], "seeds": [1], "step": 0, "width": 1, "temperature": 1.0}


def python(*arguments: str, interpret: bool) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("tests", ["interpreted_kernel.py", "interpreted_steps.py"])
def test_the_interpreted_kernels_equal_the_reference(tests):
    pytest.importorskip("triton")
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / tests), interpret=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_counted_comparison_runs():
    pytest.importorskip("triton")
    script = HERE.parents[1] / "bench/quality/kernel_statistics.py"
    done = python(str(script), "--scale", "0.0001", interpret=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "broken: none" in done.stdout


def test_without_a_device_numpy_arrays_are_refused():
    pytest.importorskip("triton")
    code = f"""
import numpy as np, smalti_kernels
try:
    smalti_kernels.sample(np.zeros((1, 4), np.float32), np.zeros((1, 4), np.int32), impl="triton", **{PLACE})
except smalti_kernels.SmaltiError as error:
    print(error)
"""
    done = python("-c", code, interpret=False)
    assert "must be tensors on one CUDA device" in done.stdout, done.stderr
    assert "TRITON_INTERPRET=1" in done.stdout


def test_without_triton_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(KernelError, match=r"needs Triton, which is not installed.*smalti\[kernels\]"):
        sample(np.zeros((1, 4), np.float32), np.zeros((1, 4), np.int32), impl="triton", **PLACE)
