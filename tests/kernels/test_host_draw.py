"""`impl="cuda"` on a driver of host memory, its kernel played by the reference: draws, contexts, failures, threads."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest

from helpers.kernel_files import image_of
from helpers.stub_kernel import memory, reference_kernel, request_of, unpack
from smalti_kernels.errors import DamagedKernel, DriverError, SamplingError
from smalti_kernels.impl import abi, reference
from smalti_kernels.impl.cuda import draw as cuda
from smalti_kernels.impl.cuda.launch import Kernels


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dtype": np.float16},
        {"vocabulary": 64},
        {"vocabulary": 300, "logprob": True},
        {"top_k": [0, 5, 9], "top_p": [0.9, 1.0, 0.5], "logprob": True},
        {"uncond": np.random.default_rng(9).standard_normal((30, 70)).astype(np.float32), "guidance": 3.0},
        {"rows": 0},
    ],
)
def test_a_draw_from_host_memory_is_the_references(stub, kernels, changes):
    request = request_of(**changes)
    stub.on_launch(reference_kernel(stub))
    before = request.tokens.copy()
    drawn, expected = cuda.draw(request, kernels), reference.draw(request)
    assert np.array_equal(drawn.tokens, expected.tokens)
    assert drawn.tokens.dtype == np.int32
    assert np.array_equal(drawn.changed, expected.changed)
    assert drawn.changed.dtype == np.bool_
    assert (drawn.logprob is None) == (expected.logprob is None)
    if drawn.logprob is not None:
        assert np.array_equal(drawn.logprob, expected.logprob)
    assert np.array_equal(request.tokens, before)
    assert drawn.tokens is not request.tokens
    assert len(stub.launches()) == (1 if len(request.sample) else 0)


def test_bfloat16_is_drawn_from_its_bits(stub, kernels):
    request = request_of()
    bits = (np.ascontiguousarray(request.logits).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    half = request._replace(logits=bits, kind="bf16")
    stub.on_launch(reference_kernel(stub))
    assert np.array_equal(cuda.draw(half, kernels).tokens, reference.draw(half).tokens)
    assert stub.image == image_of("sm_80", abi.variant_for("bf16", 70, 0).name)


@pytest.mark.parametrize("fill", [np.nan, np.inf, -np.inf, 1e30])
def test_a_row_without_an_answer_raises_the_references_error(stub, kernels, fill):
    request = request_of()
    request.logits[17] = fill
    stub.on_launch(reference_kernel(stub))
    with pytest.raises(SamplingError) as expected:
        reference.draw(request)
    with pytest.raises(SamplingError) as caught:
        cuda.draw(request, kernels)
    assert str(caught.value) == str(expected.value)
    assert f"row 17 (sample {request.sample[17]}" in str(caught.value)


def test_an_error_the_reference_does_not_see_is_still_an_error(stub, kernels):
    def report(arguments, grid, threads):
        memory(unpack(arguments)["errors"], (30,), np.int32)[4] = abi.ERROR_INFINITE | abi.ERROR_GUIDED
        return 0

    stub.on_launch(report)
    with pytest.raises(SamplingError, match=r"row 4 \(.*: guided logits contain \+inf"):
        cuda.draw(request_of(), kernels)


def test_the_callers_context_is_entered_and_left(stub, kernels):
    stub.on_launch(reference_kernel(stub))
    stub.make_current(0xAA)
    cuda.draw(request_of(), kernels)
    assert kernels.driver.current_context() == 0xAA
    assert set(stub.calls("cuCtxPushCurrent_v2")) == {f"{kernels.context:#x}"}
    # Only the tables stay on the device.
    assert stub.allocated == 1
    cuda.draw(request_of(), kernels)
    assert stub.allocated == 1
    assert len(stub.calls("cuModuleLoadData")) == 1
    streams = stub.calls("cuStreamDestroy_v2")
    assert {launched["stream"] for launched in stub.launches()} == set(streams)


@pytest.mark.parametrize(
    "call",
    [
        "cuCtxPushCurrent_v2",
        "cuMemAlloc_v2",
        "cuStreamCreate",
        "cuMemcpyHtoDAsync_v2",
        "cuModuleLoadData",
        "cuModuleGetFunction",
        "cuLaunchKernel",
        "cuMemcpyDtoHAsync_v2",
        "cuStreamSynchronize",
        "cuStreamDestroy_v2",
        "cuMemFree_v2",
        "cuCtxPopCurrent_v2",
    ],
)
def test_every_failure_is_typed_and_releases_what_it_can(stub, kernels, call):
    stub.on_launch(lambda arguments, grid, threads: 0)
    stub.fail(call, 700)
    with pytest.raises(DriverError, match=rf"{call} failed with CUDA_ERROR_ILLEGAL_ADDRESS") as caught:
        cuda.draw(request_of(), kernels)
    assert caught.value.call == call
    if call.startswith("cuModule"):
        assert "the kernel fp32_v256 for sm_80 does not load on Stub 70: " in str(caught.value)
    done = Counter(line.partition(" ")[0] for line in stub.log)
    assert done["cuCtxPopCurrent_v2"] == done["cuCtxPushCurrent_v2"] - (call == "cuCtxPushCurrent_v2")
    if call not in ("cuMemFree_v2", "cuMemAlloc_v2"):
        assert stub.allocated <= 1
        assert done["cuStreamDestroy_v2"] == done["cuStreamCreate"] - (call == "cuStreamCreate")


def test_the_first_of_many_failures_is_told(stub, kernels):
    """After an illegal address every call fails, also those that give memory back."""

    def broken(arguments, grid, threads):
        stub.fail("cuStreamDestroy_v2", 700)
        return 2

    stub.on_launch(broken)
    with pytest.raises(DriverError, match=r"cuLaunchKernel failed with CUDA_ERROR_OUT_OF_MEMORY.*draw fewer rows"):
        cuda.draw(request_of(), kernels)


def test_a_failed_load_may_be_tried_again(stub, kernels):
    stub.on_launch(reference_kernel(stub))
    stub.fail("cuModuleLoadData", 200)
    with pytest.raises(DriverError, match=r"INVALID_IMAGE.*update the NVIDIA driver"):
        cuda.draw(request_of(), kernels)
    stub.fail("", 0)
    assert np.array_equal(cuda.draw(request_of(), kernels).tokens, reference.draw(request_of()).tokens)


def test_a_damaged_kernel_is_not_loaded(stub, kernels, text_kernels, tmp_path):
    for path in text_kernels.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "sm_80.zip").write_bytes((text_kernels / "sm_75.zip").read_bytes())
    damaged = Kernels(kernels.driver, kernels.context, kernels.device, tmp_path)
    with pytest.raises(DamagedKernel, match="sha256"):
        cuda.draw(request_of(), damaged)
    assert not stub.calls("cuModuleLoadData")


def test_threads_share_modules_and_get_their_own_results(stub, kernels):
    stub.on_launch(reference_kernel(stub))
    requests = [request_of(seed) for seed in range(8)]
    results: dict[int, np.ndarray] = {}
    start = threading.Barrier(len(requests))

    def work(index: int) -> None:
        start.wait()
        results[index] = cuda.draw(requests[index], kernels).tokens

    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(requests))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for index, request in enumerate(requests):
        assert np.array_equal(results[index], reference.draw(request).tokens)
    assert len(stub.calls("cuModuleLoadData")) == 1
    assert stub.allocated == 1
