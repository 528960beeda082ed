"""`sample` and its implementations: which there are, what each loads, and that none stands in for another."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import smalti_kernels.impl.cuda.draw
from helpers.stub_kernel import reference_kernel
from smalti_kernels import DeviceLogits, DriverError, DriverUnavailable, KernelError, SamplingError, sample
from smalti_kernels.api import IMPLEMENTATIONS
from smalti_kernels.impl.cuda import driver
from smalti_kernels.impl.cuda.launch import Kernels


def case() -> dict[str, Any]:
    """Six rows of two grids, V no multiple of anything."""
    rng = np.random.default_rng(0)
    return {
        "logits": rng.standard_normal((6, 70)).astype(np.float32),
        "tokens": np.zeros((2, 12), np.int32),
        "sample": [0, 0, 0, 1, 1, 1],
        "position": [3, 1, 11, 0, 5, 2],
        "seeds": [1, 2],
        "step": 4,
        "width": 4,
        "temperature": 0.8,
        "logprob": True,
    }


@pytest.fixture
def no_driver(monkeypatch):
    """A machine without an NVIDIA driver, whatever this one has."""
    monkeypatch.setattr(driver, "DRIVER_LIBRARIES", ("libno-such-cuda.so",))
    driver.driver.cache_clear()


def test_there_are_three():
    assert list(IMPLEMENTATIONS) == ["numpy", "triton", "cuda"]
    for name in IMPLEMENTATIONS:
        assert f'"{name}"' in (sample.__doc__ or "")
    with pytest.raises(SamplingError, match="impl must be one of numpy, triton, cuda; got 'opencl'"):
        sample(**case(), impl="opencl")


def test_each_is_loaded_when_it_is_first_asked_for():
    code = "import sys, smalti_kernels; print(*[name for name in sys.modules if name.startswith('smalti_kernels.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[2] for name in done.stdout.split()}
    assert {"api", "checks"} <= loaded
    assert not {name for name in loaded if name.startswith(("impl.", "build"))}


def test_without_a_driver_cuda_says_what_to_do_and_nothing_falls_back(no_driver):
    with pytest.raises(DriverUnavailable, match=r"no NVIDIA driver .*; install a current NVIDIA driver") as caught:
        sample(**case(), impl="cuda")
    assert isinstance(caught.value, KernelError)
    assert 'impl="numpy"' in caught.value.remedy
    logits = DeviceLogits(4096, (6, 70), "float32", 80)
    with pytest.raises(DriverUnavailable, match="no NVIDIA driver"):
        sample(**(case() | {"logits": logits}), impl="cuda")


def test_cuda_draws_what_numpy_draws(stub, kernels, monkeypatch):
    monkeypatch.setattr(smalti_kernels.impl.cuda.draw, "load_kernels", lambda device: kernels)
    stub.on_launch(reference_kernel(stub))
    expected, found = sample(**case(), impl="numpy"), sample(**case(), impl="cuda")
    for before, after in zip(expected, found, strict=True):
        assert np.array_equal(before, after)
        assert before.dtype == after.dtype
    assert len(stub.launches()) == 1


def test_a_failed_launch_is_not_drawn_by_something_else(stub, kernels, monkeypatch):
    monkeypatch.setattr(smalti_kernels.impl.cuda.draw, "load_kernels", lambda device: kernels)
    stub.fail("cuLaunchKernel", 700)
    with pytest.raises(DriverError, match="cuLaunchKernel failed with CUDA_ERROR_ILLEGAL_ADDRESS"):
        sample(**case(), impl="cuda")


def test_no_kernel_for_the_device(stub, monkeypatch):
    stub.machine(capability=52)
    opened = stub.driver()
    monkeypatch.setattr(
        smalti_kernels.impl.cuda.draw, "load_kernels", lambda device: Kernels(opened, 0xC0, opened.device(device or 0))
    )
    with pytest.raises(smalti_kernels.NoMatchingKernel, match=r"capability 5\.2, for which no kernel was built"):
        sample(**case(), impl="cuda")


def test_numpy_takes_arrays_alone():
    logits = DeviceLogits(4096, (6, 70), "float32", 80)
    with pytest.raises(SamplingError, match='logits must be a NumPy array for impl="numpy"; got DeviceLogits'):
        sample(**(case() | {"logits": logits}))
