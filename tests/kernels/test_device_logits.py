"""Logits that lie on a device already, drawn by `impl="cuda"` from there, on a driver of host memory."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.stub_kernel import reference_kernel, request_of
from smalti_kernels import DeviceLogits, SamplingError, sample
from smalti_kernels.checks import Request
from smalti_kernels.impl import reference
from smalti_kernels.impl.cuda import draw as cuda
from smalti_kernels.impl.cuda import launch

NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
STREAM = 0x5EED


class Memory:
    """Arrays put into device memory by someone else."""

    def __init__(self, kernels: launch.Kernels) -> None:
        self.kernels = kernels

    def put(self, values: np.ndarray, kind: str, stride: int) -> DeviceLogits:
        """Rows `stride` apart: -inf up to the next multiple of 16, then what must not be read."""
        rows, vocabulary = values.shape
        edge = -(-vocabulary // 16) * 16
        wide = np.full((rows, stride), 0x7FC0 if kind == "bf16" else np.nan, values.dtype)
        wide[:, :vocabulary], wide[:, vocabulary:edge] = values, 0xFF80 if kind == "bf16" else -np.inf
        driver = self.kernels.driver
        with driver.entered(self.kernels.context):
            address = driver.allocate(wide.nbytes)
            driver.upload(address, wide.ctypes.data, wide.nbytes, STREAM)
        return DeviceLogits(address, (rows, vocabulary), NAMES[kind], stride, STREAM)

    def move(self, request: Request, stride: int = 96) -> Request:
        """The request with its logits, and its unconditional ones, on the device."""
        there = {
            name: self.put(array, request.kind, stride)
            for name in ("logits", "uncond")
            if (array := getattr(request, name)) is not None
        }
        return request._replace(**there)


@pytest.fixture
def device(stub, kernels) -> Memory:
    stub.on_launch(reference_kernel(stub))
    return Memory(kernels)


def request_as(kind: str, **changes) -> Request:
    request = request_of(**changes)
    if kind != "bf16":
        return request_of(dtype={"fp32": np.float32, "fp16": np.float16}[kind], **changes)
    return request._replace(logits=(request.logits.view(np.uint32) >> np.uint32(16)).astype(np.uint16), kind=kind)


@pytest.mark.parametrize("kind", list(NAMES))
@pytest.mark.parametrize("options", [{}, {"logprob": True, "top_k": 9}])
def test_they_draw_what_the_reference_draws_from_a_copy(stub, device, kind, options):
    request = request_as(kind, **options)
    found, expected = cuda.draw(device.move(request), device.kernels), reference.draw(request)
    assert np.array_equal(found.tokens, expected.tokens)
    assert np.array_equal(found.changed, expected.changed)
    assert (found.logprob is None) == (expected.logprob is None)
    assert found.logprob is None or np.array_equal(found.logprob, expected.logprob)


def test_the_draw_is_on_their_stream_and_moves_no_logits(stub, device):
    request = device.move(request_of(vocabulary=1000), stride=1008)
    before, held = len(stub.log), stub.allocated
    cuda.draw(request, device.kernels)
    log = stub.log[before:]
    (launched,) = stub.launches()
    assert launched["stream"] == f"{STREAM:#x}"
    assert not [line for line in log if line.startswith("cuStreamCreate")]
    # The tables come once, on the default stream; all else is on the stream of the logits, and far smaller than they.
    copies = [line.split() for line in log if line.startswith("cuMemcpy") and line.endswith(f"{STREAM:#x}")]
    assert len(copies) >= 9
    assert all(int(size) < 1000 for _, size, _ in copies)
    assert log[-3:] == [f"cuStreamSynchronize {STREAM:#x}", "cuMemFree_v2", "cuCtxPopCurrent_v2"]
    assert stub.allocated == held + 1


def test_guided_logits_come_from_both(device):
    rng = np.random.default_rng(3)
    request = request_of(uncond=rng.standard_normal((30, 70)).astype(np.float32), guidance=3.0)
    assert np.array_equal(cuda.draw(device.move(request), device.kernels).tokens, reference.draw(request).tokens)


@pytest.mark.parametrize("kind", list(NAMES))
def test_a_row_without_an_answer_is_fetched_and_explained(device, kind):
    request = request_as(kind)
    request.logits[17] = 0xFF80 if kind == "bf16" else -np.inf
    request.logits[21, 3] = 0x7FC0 if kind == "bf16" else np.nan
    with pytest.raises(SamplingError) as expected:
        reference.draw(request)
    with pytest.raises(SamplingError) as caught:
        cuda.draw(device.move(request), device.kernels)
    assert str(caught.value) == str(expected.value)


def test_without_kernels_named_those_of_their_device_draw(stub, device, monkeypatch):
    asked: list[int | None] = []

    def load(ordinal: int | None) -> launch.Kernels:
        asked.append(ordinal)
        return device.kernels

    monkeypatch.setattr(cuda, "load_kernels", load)
    request = device.move(request_of())
    cuda.draw(request._replace(logits=request.logits._replace(device=0)))
    cuda.draw(request._replace(logits=request.logits._replace(device=3)))
    cuda.draw(request_of())
    assert asked == [0, 3, None]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stride": 64}, "stride of logits must be a multiple of 16 elements and at least the vocabulary's 70; got 64"),
        ({"stride": 70}, r"stride of logits must be a multiple of 16 .*got 70: pad the rows"),
        ({"address": 4104}, "logits must lie at an address divisible by 16; got 0x1008"),
        ({"address": 0}, "logits must be a device address; got 0"),
    ],
)
def test_what_has_no_meaning_is_refused(stub, device, changes, says):
    request = device.move(request_of())
    with pytest.raises(SamplingError, match=says):
        cuda.draw(request._replace(logits=request.logits._replace(**changes)), device.kernels)
    assert not stub.launches()


def test_both_lie_in_one_place(device):
    request = request_of(uncond=np.zeros((30, 70), np.float32), guidance=2.0)
    there = device.move(request)
    mixed = (there._replace(uncond=request.uncond), there._replace(uncond=there.uncond._replace(stream=1)))
    for other in (*mixed, there._replace(uncond=there.uncond._replace(stride=112))):
        with pytest.raises(SamplingError, match="logits and uncond must lie in the same place"):
            cuda.draw(other, device.kernels)


def test_tensors_of_other_libraries_are_described_first(kernels):
    class Tensor:
        dtype, shape = "int32", (3, 12)

    with pytest.raises(
        SamplingError, match=r"tokens must be a NumPy array.*got Tensor: use smalti_kernels\.impl\.cuda\.launch"
    ):
        cuda.draw(request_of()._replace(tokens=Tensor()), kernels)
    with pytest.raises(SamplingError, match=r"logits must be a NumPy array or DeviceLogits.*got Tensor"):
        cuda.draw(request_of()._replace(logits=Tensor()), kernels)


def test_the_public_function_takes_them(device, monkeypatch):
    monkeypatch.setattr(cuda, "load_kernels", lambda ordinal: device.kernels)
    request = request_of()
    place = {"sample": request.sample, "position": request.position, "seeds": request.seeds, "step": request.step}
    drawn = [
        sample(logits, request.tokens, **place, width=4, temperature=[0.7, 1.0, 2.0], impl=impl).tokens
        for logits, impl in ((request.logits, "numpy"), (device.move(request).logits, "cuda"))
    ]
    assert np.array_equal(*drawn)
