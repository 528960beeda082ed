"""The driver's library: what is called, and what its refusals become."""

from __future__ import annotations

import subprocess
import sys

import pytest

from smalti_kernels.errors import DriverError, DriverUnavailable, KernelError, SmaltiError
from smalti_kernels.impl.cuda import driver as module
from smalti_kernels.impl.cuda.driver import OLDEST_CUDA, Device, open_driver


def test_opening_describes_the_machine(stub):
    stub.machine(capability=86, version=13010, devices=2)
    driver = open_driver("libdoes-not-exist.so", stub.path)
    assert driver.version == (13, 1)
    assert driver.device_count == 2
    assert driver.device(1) == Device(1, "Stub 71", 86, 4)


def test_no_library(monkeypatch):
    with pytest.raises(DriverUnavailable, match=r"no NVIDIA driver \(libno-such-cuda\.so.*install a current") as caught:
        open_driver("libno-such-cuda.so")
    assert isinstance(caught.value, KernelError)
    assert isinstance(caught.value, SmaltiError)
    assert 'impl="numpy"' in caught.value.remedy
    # A failure is not remembered: a driver that is there later is found.
    monkeypatch.setattr(module, "DRIVER_LIBRARIES", ("libno-such-cuda.so",))
    module.driver.cache_clear()
    for _ in range(2):
        with pytest.raises(DriverUnavailable):
            module.driver()


def test_the_machines_driver_is_opened_once(stub, monkeypatch):
    monkeypatch.setattr(module, "DRIVER_LIBRARIES", (stub.path,))
    module.driver.cache_clear()
    assert module.driver() is module.driver()
    module.driver.cache_clear()


def test_a_library_that_is_no_driver():
    library = "kernel32.dll" if sys.platform == "win32" else None
    with pytest.raises(DriverUnavailable, match="has no cuInit"):
        module.Driver(module.ctypes.CDLL(library), "another library")


def test_a_driver_without_devices(stub):
    stub.fail("cuInit", 100)
    with pytest.raises(DriverUnavailable, match=r"CUDA_ERROR_NO_DEVICE.*CUDA_VISIBLE_DEVICES"):
        stub.driver()
    stub.reset()
    stub.machine(devices=0)
    with pytest.raises(DriverUnavailable, match="has no device"):
        stub.driver()


def test_a_driver_that_does_not_start(stub):
    stub.fail("cuInit", 999)
    with pytest.raises(DriverUnavailable, match=r"an unknown error \(999\).*install a current NVIDIA driver"):
        stub.driver()


def test_a_driver_that_is_too_old(stub):
    stub.machine(version=11080)
    with pytest.raises(DriverUnavailable, match=r"supports CUDA 11\.8; the kernels need 12\.0 \(driver 525"):
        stub.driver()
    stub.machine(version=OLDEST_CUDA[0] * 1000 + OLDEST_CUDA[1] * 10)
    assert stub.driver().version == OLDEST_CUDA


@pytest.mark.parametrize("ordinal", [-1, 1])
def test_a_device_that_is_not_there(stub, ordinal):
    with pytest.raises(DriverUnavailable, match=f"no CUDA device {ordinal}; this driver shows 1"):
        stub.driver().device(ordinal)


def test_every_refusal_names_the_call_the_result_and_its_text(stub):
    driver = stub.driver()
    calls = {
        "cuDevicePrimaryCtxRetain": lambda: driver.primary_context(0),
        "cuCtxGetCurrent": driver.current_context,
        "cuCtxGetId": lambda: driver.context_id(0xC0),
        "cuCtxGetDevice": driver.context_device,
        "cuModuleLoadData": lambda: driver.load_module(b"image"),
        "cuModuleGetFunction": lambda: driver.function(5, "kernel"),
        "cuLaunchKernel": lambda: driver.launch(6, grid=1, threads=32, shared=0, stream=0, arguments=b"1234"),
        "cuStreamSynchronize": lambda: driver.synchronize(7),
        "cuMemAlloc_v2": lambda: driver.allocate(8),
        "cuMemFree_v2": lambda: driver.free(8),
        "cuMemHostAlloc": lambda: driver.allocate_pinned(8),
        "cuMemFreeHost": lambda: driver.free_pinned(8),
        "cuStreamCreate": driver.create_stream,
        "cuStreamDestroy_v2": lambda: driver.destroy_stream(7),
        "cuMemcpyDtoDAsync_v2": lambda: driver.copy(8, 8, 1, 0),
        "cuMemcpyHtoDAsync_v2": lambda: driver.upload(8, 8, 1, 0),
        "cuMemcpyDtoHAsync_v2": lambda: driver.download(8, 8, 1, 0),
    }
    for call, run in calls.items():
        stub.fail(call, 700)
        with pytest.raises(
            DriverError, match=rf"{call} failed with CUDA_ERROR_ILLEGAL_ADDRESS \(700\): what the"
        ) as caught:
            run()
        assert (caught.value.call, caught.value.code) == (call, 700)
        assert caught.value.name == "CUDA_ERROR_ILLEGAL_ADDRESS"
        assert "restart this process" in caught.value.remedy


def test_an_unknown_result_is_still_an_error(stub):
    driver = stub.driver()
    stub.fail("cuCtxGetCurrent", 12345)
    with pytest.raises(DriverError, match=r"an unknown error \(12345\): no description"):
        driver.current_context()


def test_a_context_is_entered_and_left_also_after_an_error(stub):
    driver = stub.driver()
    stub.make_current(0xAA)
    with driver.entered(0xC0):
        assert driver.current_context() == 0xC0
    assert driver.current_context() == 0xAA
    with pytest.raises(ZeroDivisionError), driver.entered(0xC0):
        raise ZeroDivisionError
    assert driver.current_context() == 0xAA
    stub.fail("cuCtxPopCurrent_v2", 700)
    with pytest.raises(DriverError, match="cuCtxPopCurrent"), driver.entered(0xC0):
        pass
    with pytest.raises(ZeroDivisionError), driver.entered(0xC0):
        raise ZeroDivisionError
    stub.fail("cuCtxPushCurrent_v2", 201)
    with pytest.raises(DriverError, match="INVALID_CONTEXT"), driver.entered(0xC0):
        pass


def test_memory_goes_there_and_back(stub):
    driver = stub.driver()
    sent = module.ctypes.create_string_buffer(b"0123456789")
    received = module.ctypes.create_string_buffer(10)
    with driver.entered(driver.primary_context(0)), driver.allocated(10) as pointer, driver.new_stream() as stream:
        assert pointer % 256 == 0
        driver.upload(pointer, module.ctypes.addressof(sent), 10, stream)
        driver.download(module.ctypes.addressof(received), pointer + 2, 8, stream)
        driver.synchronize(stream)
    assert received.raw == b"23456789\0\0"
    assert stub.allocated == 0
    assert stub.calls("cuStreamSynchronize") == [f"{stream:#x}"]


def test_a_launch_passes_everything_on(stub):
    driver = stub.driver()
    with driver.entered(driver.primary_context(0)):
        driver.launch(0x99, grid=7, threads=128, shared=64, stream=0xABC, arguments=bytes(range(24)))
    assert stub.launches() == [
        {
            "grid": "7,1,1",
            "block": "128,1,1",
            "shared": "64",
            "stream": "0xabc",
            "arguments": bytes(range(24)).hex(),
        }
    ]


def test_importing_loads_no_driver():
    code = (
        "import smalti_kernels.impl.cuda.launch, smalti_kernels.impl.cuda.driver as d\n"
        "assert d.driver.cache_info().currsize == 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_memory_that_lasts_is_copied_on_the_device_and_freed(stub):
    driver = stub.driver()
    with driver.entered(driver.primary_context(0)):
        source, target = driver.allocate(8), driver.allocate(8)
        sent = module.ctypes.create_string_buffer(b"01234567", 8)
        driver.upload(source, module.ctypes.addressof(sent), 8, 0)
        driver.copy(target + 1, source + 2, 5, 0x77)
        assert module.ctypes.string_at(target + 1, 5) == b"23456"
        assert stub.calls("cuMemcpyDtoDAsync_v2") == ["5 stream=0x77"]
        assert {(source, 8), (target, 8)} <= set(stub.regions)
        driver.free(source)
        assert stub.allocated == 1
        assert source not in dict(stub.regions)
        driver.free(target)
    assert stub.allocated == 0


def test_pinned_memory_is_the_hosts(stub):
    driver = stub.driver()
    with driver.entered(driver.primary_context(0)):
        pointer = driver.allocate_pinned(10)
        module.ctypes.memmove(pointer, b"0123456789", 10)
        with driver.allocated(10) as there:
            driver.upload(there, pointer, 10, 0)
            driver.download(pointer, there + 5, 5, 0)
        assert module.ctypes.string_at(pointer, 10) == b"5678956789"
        driver.free_pinned(pointer)
        driver.free_pinned(driver.allocate_pinned(0))
    assert stub.calls("cuMemHostAlloc") == ["10 0", "1 0"]
    assert stub.allocated == 0


def test_streams_that_last_are_destroyed_once(stub):
    driver = stub.driver()
    with driver.entered(driver.primary_context(0)):
        one, other = driver.create_stream(), driver.create_stream()
        assert one != other
        driver.destroy_stream(one)
    assert stub.calls("cuStreamCreate") == ["1", "1"]
    assert stub.calls("cuStreamDestroy_v2") == [f"{one:#x}"]


def test_memory_and_streams_need_a_context(stub):
    driver = stub.driver()
    for run in (driver.create_stream, lambda: driver.allocate_pinned(1), lambda: driver.copy(8, 8, 1, 0)):
        with pytest.raises(DriverError, match=r"CUDA_ERROR_INVALID_CONTEXT.*keep its context alive"):
            run()
