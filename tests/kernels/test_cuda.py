"""The prebuilt kernels on a real GPU, against the NumPy reference bit for bit. Skipped where there is no driver."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from smalti_kernels.checks import Request, as_request
from smalti_kernels.errors import DriverError, DriverUnavailable, SamplingError
from smalti_kernels.impl import reference
from smalti_kernels.impl.abi import FLAG_LOGPROB, MAX_VOCABULARY, VARIANTS, variant_for
from smalti_kernels.impl.cuda import draw as cuda
from smalti_kernels.impl.cuda import prebuilt
from smalti_kernels.impl.cuda.driver import Driver, open_driver
from smalti_kernels.impl.cuda.launch import Kernels, Pointers, Shape, load_kernels
from smalti_kernels.impl.cuda.targets import TARGETS, Target

try:
    DRIVER: Driver | None = open_driver()
    REASON = ""
except DriverUnavailable as error:
    DRIVER, REASON = None, str(error)

pytestmark = pytest.mark.skipif(DRIVER is None, reason=REASON)


def runnable() -> list[Target]:
    """Every built file that device 0 can run, its own first: the others must draw the same."""
    if DRIVER is None:
        return []
    capability = DRIVER.device(0).capability

    def runs(target: Target) -> bool:
        if target.ptx or target.capability == capability:
            return target.capability <= capability and target.cuda <= DRIVER.version
        return target.capability // 10 == capability // 10 and target.capability < capability and not target.exact

    return [target for target in reversed(TARGETS) if runs(target)]


@pytest.fixture(scope="module", params=runnable(), ids=lambda target: target.name)
def kernels(request) -> Kernels:
    found = load_kernels(0)
    forced = Kernels(found.driver, found.context, found.device)
    forced.target = request.param
    return forced


@pytest.fixture(scope="module")
def own() -> Kernels:
    return load_kernels(0)


def request_of(seed: int, rows: int, vocabulary: int, kind: str = "fp16", **changes) -> Request:
    """A draw at `rows` of the positions of a few grids, in scrambled order."""
    rng = np.random.default_rng(seed)
    guided = bool(changes.pop("guided", False))
    logits: dict[str, np.ndarray] = {}
    for name in ("logits", "uncond")[: 1 + guided]:
        values = rng.standard_normal((rows, vocabulary), np.float32)
        values *= 3
        if name == "logits":
            values.ravel()[rng.integers(0, values.size, values.size // 50)] = -np.inf
            values[:, 0] = np.maximum(values[:, 0], -20)
        logits[name] = values
    length = 64
    count = -(-rows // length) + 1
    place = rng.permutation(count * length)[:rows]
    stored = {"fp32": np.float32, "fp16": np.float16, "bf16": np.float32}[kind]
    request = as_request(
        logits["logits"].astype(stored),
        rng.integers(0, vocabulary, (count, length)).astype(np.int32),
        sample=place // length,
        position=place % length,
        seeds=rng.integers(0, 2**63, count),
        step=rng.integers(0, 2**32, rows),
        width=8,
        temperature=rng.choice([0.05, 0.7, 1.0, 2.0], count),
        uncond=logits["uncond"].astype(stored) if guided else None,
        guidance=2.5 if guided else 1.0,
        top_k=changes.pop("top_k", 0),
        top_p=changes.pop("top_p", 1.0),
        logprob=changes.pop("logprob", False),
        threads=None,
    )
    assert not changes
    if kind != "bf16":
        return request

    def bits(values):
        return None if values is None else (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)

    return request._replace(logits=bits(request.logits), uncond=bits(request.uncond), kind="bf16")


def assert_same(request: Request, kernels: Kernels) -> None:
    drawn, expected = cuda.draw(request, kernels), reference.draw(request)
    assert int((drawn.tokens != expected.tokens).sum()) == 0
    assert np.array_equal(drawn.changed, expected.changed)
    assert (drawn.logprob is None) == (expected.logprob is None)
    assert drawn.logprob is None or np.array_equal(drawn.logprob, expected.logprob)


OPTIONS = {
    "plain": {},
    "logprob": {"logprob": True},
    "guided": {"guided": True},
    "top-k": {"top_k": 50},
    "top-p": {"top_p": 0.9, "logprob": True},
    "all": {"guided": True, "top_k": 200, "top_p": 0.8, "logprob": True},
}


@pytest.mark.parametrize(
    ("variant", "options"),
    [
        pytest.param(variant, options, id=f"{variant.name}-{name}")
        for variant in VARIANTS
        for name, options in OPTIONS.items()
        if bool(variant.held) == ("top_k" in options or "top_p" in options)
    ],
)
def test_every_variant_draws_what_the_reference_draws(kernels, variant, options):
    smaller = [other.vocabulary for other in VARIANTS if bool(other.held) == bool(variant.held)]
    least = max((v for v in smaller if v < variant.vocabulary), default=0) + 1
    for vocabulary in (least, (least + variant.vocabulary) // 2, variant.vocabulary):
        assert variant_for(variant.logits, vocabulary, 2 if variant.held else 0) == variant
        assert_same(request_of(vocabulary, 61, vocabulary, variant.logits, **options), kernels)


@pytest.mark.parametrize("kind", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("vocabulary", [256, 1000, 1024, 8192, MAX_VOCABULARY])
def test_a_million_draws_are_the_references(own, vocabulary, kind):
    """Over all vocabularies and types, 0 tokens that differ in a million draws."""
    total = 1_000_000 // 15 + 1
    rows = min(total, (1 << 26) // vocabulary)
    for index in range(-(-total // rows)):
        assert_same(request_of(index, rows, vocabulary, kind), own)


@pytest.mark.parametrize("rows", [1, 2, 3, 31, 32, 33, 1000, 70_001])
def test_any_number_of_rows(own, rows):
    assert_same(request_of(rows, rows, 70), own)
    assert_same(request_of(rows, min(rows, 2000), 1000, logprob=True), own)


@pytest.mark.parametrize("fill", [np.nan, np.inf, -np.inf, 60_000.0])
@pytest.mark.parametrize("options", [{}, {"guided": True}, {"top_k": 5}])
def test_a_row_without_an_answer_raises_the_references_error(kernels, fill, options):
    request = request_of(3, 50, 300, "fp32", **options)
    request.logits[[17, 40]] = fill
    with pytest.raises(SamplingError) as expected:
        reference.draw(request)
    with pytest.raises(SamplingError) as caught:
        cuda.draw(request, kernels)
    assert str(caught.value) == str(expected.value)


def test_one_bad_logit_among_good_ones_is_found(own):
    for vocabulary in (70, 1024, 16000):
        for column in (0, vocabulary // 2, vocabulary - 1):
            request = request_of(4, 9, vocabulary, "fp32")
            request.logits[5, column] = np.nan
            with pytest.raises(SamplingError, match=r"row 5 .*logits contain NaN"):
                cuda.draw(request, own)


def test_ties_go_to_the_lowest_index_and_extremes_are_drawn(own):
    request = request_of(5, 64, 1024, "fp32")
    for fill in (0.0, -700.0, 700.0):
        request.logits[:] = fill
        assert_same(request, own)
    request.logits[:, 1::2] = -np.inf
    request.logits[:, 900] = 1000
    assert_same(request._replace(scale=np.full_like(request.scale, 65536)), own)


def test_threads_draw_at_once(own):
    requests = [request_of(seed, 500, 1024) for seed in range(8)]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(5):
            if not np.array_equal(cuda.draw(requests[index], own).tokens, expected[index]):
                wrong.append(index)

    expected = [reference.draw(request).tokens for request in requests]
    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(requests))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_the_driver_refuses_what_is_no_kernel(own):
    with own.driver.entered(own.context):
        for image in (b"this is no cubin", prebuilt.read_image(prebuilt.find_entry("sm_61", VARIANTS[0].name))):
            if own.device.capability == 61:
                continue
            with pytest.raises(DriverError, match="cuModuleLoadData failed with CUDA_ERROR_"):
                own.driver.load_module(image)
        with pytest.raises(DriverError, match=r"cuMemAlloc_v2 failed with CUDA_ERROR_OUT_OF_MEMORY.*draw fewer rows"):
            own.driver.allocate(1 << 50)
    assert_same(request_of(6, 50, 300), own)


def on_device(torch, request: Request) -> tuple[dict, Shape, int]:
    """The arrays of a request as torch tensors."""
    arrays, shape, flags = cuda.host_arrays(request)
    tensors = {
        name: torch.from_numpy(array.view(np.int16) if array.dtype == np.uint16 else array).cuda()
        for name, array in arrays.items()
    }
    return tensors, shape, flags


@pytest.fixture(scope="module")
def torch():
    module = pytest.importorskip("torch")
    if not module.cuda.is_available():
        pytest.skip("torch sees no GPU")
    return module


def test_torchs_memory_context_and_stream(torch, own):
    """The context is torch's, the pointers are, and the launch comes after what its stream was given before."""
    request = request_of(7, 1000, 1024, logprob=True)
    expected = reference.draw(request)
    tensors, shape, flags = on_device(torch, request)
    assert own.driver.current_context() == own.context
    stream = torch.cuda.Stream()
    real = tensors["logits"].clone()
    tensors["logits"].fill_(float("nan"))
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        busy = torch.randn(4096, 4096, device="cuda")
        for _ in range(20):
            busy = busy @ busy * 1e-3
        tensors["logits"].copy_(real)
    pointers = Pointers(**{name: tensor.data_ptr() for name, tensor in tensors.items()})
    own.draw(pointers, shape, flags=flags, stream=stream.cuda_stream)
    stream.synchronize()
    assert flags == FLAG_LOGPROB
    assert not tensors["errors"].any()
    assert np.array_equal(tensors["tokens"].cpu().numpy(), expected.tokens)
    assert np.array_equal(tensors["changed"].cpu().numpy().view(np.bool_), expected.changed)
    assert np.array_equal(tensors["logprob"].cpu().numpy(), expected.logprob)


def test_a_draw_is_captured_in_a_graph(torch, own):
    requests = [request_of(seed, 200, 1024) for seed in (8, 9)]
    tensors, shape, flags = on_device(torch, requests[0])
    own.prepare(variant_for(shape.logits, shape.vocabulary, flags))
    pointers = Pointers(**{name: tensor.data_ptr() for name, tensor in tensors.items()})
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        own.draw(pointers, shape, flags=flags, stream=stream.cuda_stream)
    for request in requests:
        fresh, _, _ = on_device(torch, request)
        for name, tensor in fresh.items():
            tensors[name].copy_(tensor)
        graph.replay()
        torch.cuda.synchronize()
        assert np.array_equal(tensors["tokens"].cpu().numpy(), reference.draw(request).tokens)


def test_onnx_runtimes_pointers_and_stream(torch, own):
    """Logits that a session leaves on the device are drawn from there, on the session's own stream."""
    runtime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    if "CUDAExecutionProvider" not in runtime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA provider")
    request = request_of(10, 300, 1024, "fp32")
    info = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [300, 1024]) for n in ("given", "logits")]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["given"], ["logits"])], "identity", info[:1], info[1:]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    stream = torch.cuda.Stream()
    options = runtime.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    provider = ("CUDAExecutionProvider", {"user_compute_stream": str(stream.cuda_stream)})
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=[provider])
    binding = session.io_binding()
    binding.bind_cpu_input("given", request.logits)
    binding.bind_output("logits", "cuda", 0)
    session.run_with_iobinding(binding)
    (logits,) = binding.get_outputs()
    tensors, shape, flags = on_device(torch, request)
    pointers = Pointers(**{name: tensor.data_ptr() for name, tensor in tensors.items()})
    own.draw(pointers._replace(logits=logits.data_ptr()), shape, flags=flags, stream=stream.cuda_stream)
    stream.synchronize()
    assert np.array_equal(tensors["tokens"].cpu().numpy(), reference.draw(request).tokens)
