"""The launcher on a driver of host memory: arguments, contexts, modules, errors, and draws with a kernel in NumPy."""

from __future__ import annotations

import ctypes
import struct
import threading
from collections import Counter

import numpy as np
import pytest

from smalti_kernels import abi, cuda, driver, launch, prebuilt, reference, tables
from smalti_kernels.abi import ARGUMENTS, FLAG_GUIDED, FLAG_LOGPROB, FLAG_TRUNCATED, KERNEL_NAME, VARIANTS
from smalti_kernels.checks import Request, as_request
from smalti_kernels.errors import DamagedKernel, DriverError, DriverUnavailable, NoMatchingKernel, SamplingError
from smalti_kernels.launch import Kernels, Pointers, Shape, load_kernels
from smalti_kernels.prebuilt import Entry, write_kernels
from smalti_kernels.targets import TARGETS

OPTIONAL = {"uncond": FLAG_GUIDED, "keep": FLAG_TRUNCATED, "logprob": FLAG_LOGPROB}


def image_of(target: str, variant: str) -> bytes:
    return f"image of {variant} for {target}".encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Prebuilt kernels that are only text, of every variant and target."""
    path = tmp_path_factory.mktemp("cubins")
    kernels = []
    for target in TARGETS:
        for variant in VARIANTS:
            image = image_of(target.name, variant.name)
            sha256 = prebuilt.hashlib.sha256(image).hexdigest()
            figures = (KERNEL_NAME, variant.num_warps, 16 * variant.num_warps, 40, 0, 0, (12, 8))
            kernels.append((Entry(target.name, variant.name, sha256, len(image), *figures), image))
    write_kernels(path, {"triton": "none"}, kernels)
    return path


@pytest.fixture
def kernels(stub, folder) -> Kernels:
    opened = stub.driver()
    return Kernels(opened, opened.primary_context(0), opened.device(0), folder)


def unpack(arguments: bytes) -> dict[str, int | float]:
    """The kernel's view of its arguments: every one at the next multiple of its size, two NULL pointers at the end."""
    values: dict[str, int | float] = {}
    at = 0
    for name, kind in [*((a.name, a.type) for a in ARGUMENTS), ("scratch", "*"), ("profile", "*")]:
        form, size = ("<Q", 8) if kind[0] == "*" else ("<f", 4) if kind == "fp32" else ("<i", 4)
        at = -(-at // size) * size
        (values[name],) = struct.unpack_from(form, arguments, at)
        at += size
    assert at == len(arguments)
    assert values.pop("scratch") == values.pop("profile") == 0
    return values


def memory(address: int, shape: tuple[int, ...], dtype) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_ubyte * size).from_address(address), dtype).reshape(shape)


def run_reference(arguments: bytes) -> None:
    """What the kernel does, on the stub's memory, by the reference: nothing is known here but the arguments."""
    a = unpack(arguments)
    rows, flags = a["rows"], a["flags"]
    sample = memory(a["sample"], (rows,), np.int32)
    count = int(sample.max()) + 1
    # The type of the logits is the variant's, which the module's image names.
    kind = KIND[0]
    dtype = {"fp32": np.float32, "fp16": np.float16, "bf16": np.uint16}[kind]
    logits, uncond = (
        memory(a[name], (rows, a["stride"]), dtype)[:, : a["vocabulary"]] for name in ("logits", "uncond")
    )
    edge = -(-a["vocabulary"] // 16) * 16
    beyond = reference.widened(memory(a["logits"], (rows, a["stride"]), dtype)[:, a["vocabulary"] : edge])
    assert np.all(beyond == -np.inf)
    keep = memory(a["keep"], (count, 2), np.int32).astype(np.int64)
    assert np.array_equal(memory(a["tables"], (tables.TABLE_WORDS,), np.int32), tables.packed_tables())
    tokens = memory(a["tokens"], (count, a["length"]), np.int32)
    request = Request(
        logits=logits.copy(),
        uncond=uncond.copy() if flags & FLAG_GUIDED else None,
        kind=kind,
        guidance=np.float32(a["guidance"]),
        tokens=tokens.copy(),
        sample=sample.astype(np.int64),
        position=memory(a["position"], (rows,), np.int32).astype(np.int64),
        step=memory(a["step"], (rows,), np.uint32).astype(np.uint64),
        seeds=memory(a["seeds"], (count,), np.uint64).copy(),
        scale=memory(a["scale"], (count,), np.float32).copy(),
        top_k=keep[:, 0] if flags & FLAG_TRUNCATED else np.zeros(count, np.int64),
        top_p=keep[:, 1] if flags & FLAG_TRUNCATED else np.full(count, 65536, np.int64),
        width=a["width"],
        logprob=bool(flags & FLAG_LOGPROB),
        threads=1,
    )
    errors = memory(a["errors"], (rows,), np.int32)
    errors[:] = 0
    for row in range(rows):
        if reference.explain(request, row, logits[row], uncond[row] if flags & FLAG_GUIDED else None):
            errors[row] = abi.ERROR_NAN
    if errors.any():
        return
    drawn = reference.draw(request)
    tokens[:] = drawn.tokens
    memory(a["changed"], (rows,), np.int8)[:] = drawn.changed
    if flags & FLAG_LOGPROB:
        memory(a["logprob"], (rows,), np.int32)[:] = drawn.logprob


KIND = ["fp32"]


def request_of(seed: int = 0, vocabulary: int = 70, rows: int = 30, dtype=np.float32, **changes) -> Request:
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((rows, vocabulary)) * 3).astype(dtype)
    order = rng.permutation(36)[:rows]
    arguments = {
        "sample": order // 12,
        "position": order % 12,
        "seeds": [5, 2**63 + 1, 2**40],
        "step": rng.integers(0, 2**32, rows),
        "width": 4,
        "temperature": [0.7, 1.0, 2.0],
        "uncond": None,
        "guidance": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "logprob": False,
        "threads": 1,
    }
    tokens = rng.integers(0, vocabulary, (3, 12)).astype(np.int32)
    return as_request(changes.pop("logits", logits), tokens, **(arguments | changes))


@pytest.mark.parametrize(
    ("variant", "flags"),
    [
        pytest.param(variant, flags, id=f"{variant.name}-{flags}")
        for variant in VARIANTS
        for flags in ((2, 7) if variant.held else (0, 1, 4))
    ],
)
def test_every_argument_of_every_variant(stub, kernels, variant, flags):
    addresses = {name: 0x10000 * (index + 1) for index, name in enumerate(Pointers._fields)}
    given = {name: 0 if name in OPTIONAL and not flags & OPTIONAL[name] else a for name, a in addresses.items()}
    stride = variant.vocabulary + 32
    shape = Shape(variant.logits, 1000, variant.vocabulary, stride, 256, 16)
    kernels.draw(Pointers(**given), shape, guidance=2.5, flags=flags, stream=0x5EED)

    (launched,) = stub.launches()
    assert launched["grid"] == f"{abi.programs_for(1000, variant, 4)},1,1"
    assert launched["block"] == f"{32 * variant.num_warps},1,1"
    assert launched["shared"] == str(16 * variant.num_warps)
    assert launched["stream"] == "0x5eed"
    values = unpack(bytes.fromhex(launched["arguments"]))
    for name, value in given.items():
        passed = values.pop(name)
        # What is not read still is the address of something: a kernel may load before it selects.
        assert passed == value if value else passed in addresses.values(), name
    assert memory(values.pop("tables"), (tables.TABLE_WORDS,), np.int32).tolist() == tables.packed_tables().tolist()
    assert values == {
        "guidance": 2.5 if flags & FLAG_GUIDED else 1.0,
        "rows": 1000,
        "vocabulary": variant.vocabulary,
        "stride": stride,
        "length": 256,
        "width": 16,
        "flags": flags,
    }
    assert stub.image == image_of("sm_80", variant.name)
    assert stub.calls("cuModuleGetFunction") == [KERNEL_NAME]


@pytest.mark.parametrize("target", ["sm_75", "sm_86", "sm_120", "ptx_80"])
def test_the_committed_kernel_is_what_the_driver_gets(stub, target):
    stub.machine(capability=int(target.partition("_")[2]), version=13010)
    if target == "ptx_80":
        stub.machine(capability=100, version=13010)
    opened = stub.driver()
    kernels = Kernels(opened, opened.primary_context(0), opened.device(0))
    variant = abi.variant_for("fp16", 1024, 0)
    kernels.prepare(variant)
    assert kernels.target.name == target
    assert stub.image == prebuilt.read_image(prebuilt.find_entry(target, variant.name))


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
    KIND[0] = request.kind
    stub.on_launch(lambda arguments, grid, threads: run_reference(arguments) or 0)
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
    KIND[0] = "bf16"
    stub.on_launch(lambda arguments, grid, threads: run_reference(arguments) or 0)
    assert np.array_equal(cuda.draw(half, kernels).tokens, reference.draw(half).tokens)
    assert stub.image == image_of("sm_80", abi.variant_for("bf16", 70, 0).name)


@pytest.mark.parametrize("fill", [np.nan, np.inf, -np.inf, 1e30])
def test_a_row_without_an_answer_raises_the_references_error(stub, kernels, fill):
    request = request_of()
    request.logits[17] = fill
    KIND[0] = "fp32"
    stub.on_launch(lambda arguments, grid, threads: run_reference(arguments) or 0)
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


@pytest.mark.parametrize(
    ("bits", "says"),
    [
        (abi.ERROR_NAN, "logits contain NaN; "),
        (abi.ERROR_NAN | abi.ERROR_GUIDED, "guided logits contain NaN; "),
        (abi.ERROR_INFINITE, "logits contain +inf; "),
        (abi.ERROR_FORBIDDEN, "logits are all -inf; "),
        (abi.ERROR_RANGE, "the greatest logit over temperature must lie within +-16384; "),
        (1 << 20, "the kernel reports 0x100000, which means nothing; "),
    ],
)
def test_errors_have_words(bits, says):
    assert launch.describe_error(bits).startswith(says)


def test_the_callers_context_is_entered_and_left(stub, kernels):
    KIND[0] = "fp32"
    stub.on_launch(lambda arguments, grid, threads: run_reference(arguments) or 0)
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
    KIND[0] = "fp32"
    stub.on_launch(lambda arguments, grid, threads: run_reference(arguments) or 0)
    stub.fail("cuModuleLoadData", 200)
    with pytest.raises(DriverError, match=r"INVALID_IMAGE.*update the NVIDIA driver"):
        cuda.draw(request_of(), kernels)
    stub.fail("", 0)
    assert np.array_equal(cuda.draw(request_of(), kernels).tokens, reference.draw(request_of()).tokens)


def test_a_damaged_kernel_is_not_loaded(stub, kernels, folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "sm_80.zip").write_bytes((folder / "sm_75.zip").read_bytes())
    damaged = Kernels(kernels.driver, kernels.context, kernels.device, tmp_path)
    with pytest.raises(DamagedKernel, match="sha256"):
        cuda.draw(request_of(), damaged)
    assert not stub.calls("cuModuleLoadData")


@pytest.mark.parametrize("capability", [50, 62, 70])
def test_a_gpu_without_kernels(stub, capability):
    stub.machine(capability=capability)
    opened = stub.driver()
    with pytest.raises(
        NoMatchingKernel, match=rf"Stub 70 has compute capability {capability / 10}.*sm_61.*impl=.numpy"
    ):
        Kernels(opened, opened.primary_context(0), opened.device(0))


@pytest.mark.parametrize(
    ("pointers", "shape", "guidance", "flags", "error", "says"),
    [
        ({}, {"logits": "fp64"}, 1.0, 0, NoMatchingKernel, "logits must be one of fp32, fp16, bf16"),
        ({}, {"vocabulary": 16385, "stride": 16400}, 1.0, 0, NoMatchingKernel, r"from 1 to 16384 tokens.*numpy"),
        ({}, {"vocabulary": 0}, 1.0, 0, NoMatchingKernel, "from 1 to 16384 tokens; got 0"),
        ({}, {"rows": -1}, 1.0, 0, SamplingError, "rows must be from 0"),
        ({}, {"rows": 1 << 31}, 1.0, 0, SamplingError, "rows must be from 0"),
        ({}, {"stride": 992}, 1.0, 0, SamplingError, "multiple of 16 elements and at least the vocabulary's 1000"),
        ({}, {"stride": 1004}, 1.0, 0, SamplingError, "multiple of 16 elements.*pad the rows"),
        ({}, {"width": 0}, 1.0, 0, SamplingError, "width must be at least 1"),
        ({}, {"width": 5}, 1.0, 0, SamplingError, "divide the grid's 256 positions"),
        ({}, {"length": 0}, 1.0, 0, SamplingError, "width must be at least 1"),
        ({"logits": 4104}, {}, 1.0, 0, SamplingError, "logits must lie at an address divisible by 16; got 0x1008"),
        ({"uncond": 4104}, {}, 1.0, 1, SamplingError, "uncond must lie at an address divisible by 16"),
        ({"uncond": 0}, {}, 1.0, 1, SamplingError, "uncond must be a device address; got 0"),
        ({"keep": 0}, {}, 1.0, 2, SamplingError, "keep must be a device address; got 0"),
        ({"logprob": 0}, {}, 1.0, 4, SamplingError, "logprob must be a device address; got 0"),
        ({"errors": 0}, {}, 1.0, 0, SamplingError, "errors must be a device address; got 0"),
        ({}, {}, 1e39, 1, SamplingError, "guidance must be finite"),
        ({}, {}, float("nan"), 1, SamplingError, "guidance must be finite"),
    ],
)
def test_launches_without_a_meaning_are_refused(stub, kernels, pointers, shape, guidance, flags, error, says):
    given = Pointers(**({name: 4096 for name in Pointers._fields} | pointers))
    described = Shape("fp32", 8, 1000, 1008, 256, 16)._replace(**shape)
    with pytest.raises(error, match=says):
        kernels.draw(given, described, guidance=guidance, flags=flags)
    assert not stub.launches()


def test_no_rows_are_no_launch(stub, kernels):
    kernels.draw(Pointers(*[0] * 9), Shape("fp32", 0, 1000, 1008, 256, 16))
    assert not stub.launches()
    assert not stub.calls("cuModuleLoadData")


def test_tensors_are_for_the_other_function(kernels):
    class Tensor:
        dtype, shape = "int32", (3, 12)

    with pytest.raises(SamplingError, match=r"tokens must be a NumPy array.*got Tensor: use smalti_kernels\.launch"):
        cuda.draw(request_of()._replace(tokens=Tensor()), kernels)


def test_threads_share_modules_and_get_their_own_results(stub, kernels):
    KIND[0] = "fp32"
    stub.on_launch(lambda arguments, grid, threads: run_reference(arguments) or 0)
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


def test_one_object_for_each_context(stub, monkeypatch):
    stub.machine(devices=2)
    opened = stub.driver()
    monkeypatch.setattr(launch, "driver", lambda: opened)
    first = load_kernels(0)
    assert first is load_kernels(0)
    # Without a device: the thread's own context if there is one, else device 0.
    assert load_kernels() is first
    stub.make_current(0xAA)
    own = load_kernels()
    assert own.context == 0xAA
    assert own.device.name == "Stub 70"
    assert own is load_kernels()
    assert load_kernels(0) is first
    assert load_kernels(1).device.ordinal == 1
    # One reference of a primary context each, however often it is asked for.
    assert Counter(stub.calls("cuDevicePrimaryCtxRetain")) == {"70": 1, "71": 1}
    with pytest.raises(DriverUnavailable, match="no CUDA device 2"):
        load_kernels(2)


def test_without_a_driver_nothing_falls_back(monkeypatch):
    monkeypatch.setattr(driver, "LIBRARIES", ("libno-such-cuda.so",))
    driver.driver.cache_clear()
    with pytest.raises(DriverUnavailable, match="there is no NVIDIA driver"):
        cuda.draw(request_of())
