"""Whole runs on a device that is the stub driver's memory: what ONNX Runtime and the shipped PTX draw there is what the
CPU draws."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from PIL import Image

import smalti
from helpers.device_cases import CODES, GRID, LABELS, RUNS, all_families, same
from helpers.stub_device import StubDevice
from helpers.stub_kernel import memory
from helpers.table_denoiser import TableDenoiser, TimedTableDenoiser
from smalti import ProviderUnavailable, SamplingError, SmaltiError, UsageError
from smalti.backends.device.backend import ArraySession
from smalti.backends.device.graphs import ComparedGraphs
from smalti.backends.onnxruntime_cuda import OnnxRuntimeDevice
from smalti.backends.onnxruntime_device import BoundGraph
from smalti.backends.onnxruntime_places import on_cpu as cpu_place
from smalti.bundle.reader import open_bundle


@pytest.fixture(scope="module")
def bundles(sized_bundle, tiny_bundle, tmp_path_factory):
    return all_families(sized_bundle, tiny_bundle, tmp_path_factory.mktemp("device"))


@pytest.fixture(scope="module")
def on_cpu(bundles):
    return {name: smalti.load(path, precision="fp32", threads=1) for name, path in bundles.items()}


@pytest.fixture
def device(stub_library) -> StubDevice:
    return StubDevice(stub_library)


@pytest.mark.parametrize("name", RUNS)
def test_tokens_and_pixels_are_those_of_the_cpu(name, bundles, on_cpu, device):
    family, options = RUNS[name]
    gen = smalti.load(bundles[family], backend=device.backend())
    found, expected = gen.generate(seed=11, **options), on_cpu[family].generate(seed=11, **options)
    same(found, expected)
    assert found.settings == expected.settings
    assert (device.launched["smalti_sample"] > 0) == (family != "autoregressive")


@pytest.mark.parametrize("family", ["absorbing", "sundae", "multinomial"])
def test_what_is_not_masked_stays(family, bundles, on_cpu, device):
    gen = smalti.load(bundles[family], backend=device.backend())
    image = on_cpu[family].generate(seed=3).images[0]
    mask = np.zeros((image.height, image.width), np.bool_)
    mask[: image.height // 2, image.width // 4 :] = True
    for options in ({}, {"guidance": 2.0, "label": gen.labels[0]}):
        found = gen.inpaint(image, mask, count=2, seed=5, **options)
        same(found, on_cpu[family].inpaint(image, mask, count=2, seed=5, **options))
        assert np.array_equal(np.asarray(found.images[0])[~mask], np.asarray(image.convert("RGB"))[~mask])


@pytest.fixture
def wide(tmp_path_factory):
    """A multinomial and a SUNDAE bundle of 16x16 tokens, where most tokens may be kept."""
    folder = tmp_path_factory.mktemp("wide")
    return {
        "sundae": TableDenoiser((16, 16), CODES, 2).bundle(folder / "sundae", classes=LABELS, steps=3),
        "multinomial": TimedTableDenoiser((16, 16), CODES, 2, 30).bundle(folder / "noise", classes=LABELS, steps=3),
    }


@pytest.mark.parametrize("family", ["sundae", "multinomial"])
@pytest.mark.parametrize("share", [8, 2])
def test_a_small_part_of_a_large_grid_is_repainted(family, share, wide, device):
    gen, other = smalti.load(wide[family], backend=device.backend()), smalti.load(wide[family], threads=1)
    image = other.generate(seed=3).images[0]
    mask = np.zeros((image.height, image.width), np.bool_)
    mask[: image.height // share, : image.width // share] = True
    same(gen.inpaint(image, mask, count=2, seed=5), other.inpaint(image, mask, count=2, seed=5))


@pytest.mark.parametrize(
    "options",
    [
        {"count": 3, "order": "confidence", "steps": 4},
        {"count": 2, "order": "confidence", "steps": 3, "size": (112, 80), "stride": 3},
        {"count": 3, "order": "random", "remask": 0.6, "steps": 5},
        {"count": 2, "order": "halton", "size": (96, 96), "steps": 3},
    ],
)
def test_runs_of_many_calls_a_step(options, bundles, on_cpu, device, monkeypatch):
    monkeypatch.setattr("smalti.backends.device.plan.ROWS", 24)
    gen = smalti.load(bundles["absorbing"], backend=device.backend())
    same(gen.generate(seed=8, **options), on_cpu["absorbing"].generate(seed=8, **options))


def test_all_other_verbs_are_those_of_the_cpu(bundles, on_cpu, device):
    gen, other = smalti.load(bundles["absorbing"], backend=device.backend()), on_cpu["absorbing"]
    images = other.generate(2, 9).images
    tokens = gen.encode(images)
    assert np.array_equal(tokens, other.encode(images))
    assert gen.decode(tokens, 128) == other.decode(tokens, 128)
    assert np.array_equal(gen.embed(images), other.embed(images))
    same(gen.outpaint(images[0], seed=2, right=32, steps=2), other.outpaint(images[0], seed=2, right=32, steps=2))


def test_a_stream_shows_every_step_and_its_previews(bundles, on_cpu, device):
    gen = smalti.load(bundles["absorbing"], backend=device.backend())
    options = {"seed": 4, "steps": 3, "remask": 0.5}
    steps, others = list(gen.stream(**options)), list(on_cpu["absorbing"].stream(**options))
    assert [step.tokens.tolist() for step in steps] == [step.tokens.tolist() for step in others]
    assert np.array_equal(np.asarray(steps[1].preview()[0]), np.asarray(others[1].preview()[0]))


def transfers(device: StubDevice) -> tuple[list[int], list[int]]:
    """Bytes of each upload and download since the last reset of the log."""
    up, down = (device.stub.calls(f"cuMemcpy{way}Async_v2") for way in ("HtoD", "DtoH"))
    return [int(call.split()[0]) for call in up], [int(call.split()[0]) for call in down]


def test_uploads_do_not_grow_with_the_number_of_steps(bundles, device):
    gen = smalti.load(bundles["absorbing"], backend=device.backend())
    gen.generate(2, steps=1)
    counts = []
    for steps in (2, 8):
        before = transfers(device)
        gen.generate(2, steps=steps, remask=0.5, order="random")
        up, down = (now[len(then) :] for now, then in zip(transfers(device), before))
        counts.append((len(up), len(down)))
        # The first draw of an error, the grids, and the pixels; nothing else comes down.
        assert down == [12, (2 + 1) * 16 * 4, 2 * 64 * 64 * 3]
    assert counts[0] == counts[1] == (2, 3)


def test_freezing_and_confidence_bring_down_a_few_bytes_for_each_row(bundles, device):
    gen = smalti.load(bundles["sundae"], backend=device.backend())
    gen.generate(2, steps=30, min_steps=29)
    _, down = transfers(device)
    assert sum(size for size in down if size not in (12, 2 * 12 * 16 * 3)) < 1000
    confident = smalti.load(bundles["absorbing"], backend=device.backend())
    before = len(transfers(device)[1])
    confident.generate(1, steps=4, order="confidence")
    assert sum(transfers(device)[1][before:]) < 4 * 16 * 4 + 12 + 128 + 64 * 64 * 3


def test_a_stream_that_is_left_launches_nothing_more_and_frees_all(bundles, device):
    gen = smalti.load(bundles["absorbing"], backend=device.backend())
    gen.generate(1)
    held, launched = device.stub.allocated, sum(device.launched.values())
    stream = gen.stream(seed=1, steps=8)
    next(stream)
    once = sum(device.launched.values()) - launched
    next(stream)
    stream.close()
    assert sum(device.launched.values()) - launched == 2 * once
    assert device.stub.allocated == held


def test_a_thousand_runs_leak_nothing(bundles, device):
    gen = smalti.load(bundles["sundae"], backend=device.backend())
    gen.generate(1, steps=1)
    device.only_moves()  # the start stays, which is a grid too
    held, streams = device.stub.allocated, len(device.stub.calls("cuStreamCreate"))
    for seed in range(1000):
        gen.generate(1, seed, steps=1)
    assert device.stub.allocated == held
    assert len(device.stub.calls("cuStreamCreate")) == streams


FAULTS = {
    "cuMemAlloc_v2": 2,
    "cuMemHostAlloc": 2,
    "cuMemcpyHtoDAsync_v2": 700,
    "cuMemcpyDtoHAsync_v2": 700,
    "cuMemcpyDtoDAsync_v2": 700,
    "cuLaunchKernel": 700,
    "cuStreamSynchronize": 700,
    "cuMemFree_v2": 700,
    "cuCtxPushCurrent_v2": 201,
    "cuCtxPopCurrent_v2": 201,
}


@pytest.mark.parametrize("call", FAULTS)
def test_a_fault_is_reported_and_the_next_run_is_right(call, bundles, on_cpu, device):
    gen = smalti.load(bundles["absorbing"], backend=device.backend())
    options = {"seed": 6, "steps": 2, "order": "confidence"}
    expected = on_cpu["absorbing"].generate(**options)
    same(gen.generate(**options), expected)
    gen.backend.place.release()
    held = device.stub.allocated
    messages: list[str] = []
    for number in (0, 1, 2, *range(3, 40, 7)):
        device.stub.fail(call, FAULTS[call], after=number)
        try:
            gen.backend.place.release()
            gen.generate(**options)
        except SmaltiError as error:
            messages.append(str(error))
        finally:
            device.stub.fail("", 0)
    assert messages
    assert all(call in message for message in messages)
    same(gen.generate(**options), expected)
    gen.backend.place.release()
    leaked = 0 if call not in ("cuMemFree_v2", "cuMemFreeHost", "cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2") else 24
    assert device.stub.allocated <= held + leaked


def test_generators_side_by_side_do_not_meet(bundles, on_cpu, device):
    gens = [smalti.load(bundles["absorbing"], backend=device.backend()) for _ in range(2)]
    streams = [gen.stream(seed=seed, steps=3) for seed, gen in enumerate(gens)]
    both = [[step.tokens for step in steps] for steps in zip(*streams)]
    for seed in range(2):
        expected = list(on_cpu["absorbing"].stream(seed=seed, steps=3))
        assert [pair[seed].tolist() for pair in both] == [step.tokens.tolist() for step in expected]
    assert len({call.rpartition("stream=")[2] for call in device.stub.calls("cuMemcpyHtoDAsync_v2")}) >= 2


def test_threads_share_a_generator(bundles, on_cpu, device):
    gen = smalti.load(bundles["absorbing"], backend=device.backend())
    found: dict[int, smalti.Result] = {}

    def work(seed: int) -> None:
        found[seed] = gen.generate(seed=seed, steps=2)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.keys() == {0, 1, 2}
    for seed, result in found.items():
        same(result, on_cpu["absorbing"].generate(seed=seed, steps=2))


def test_the_step_of_an_error_is_named(tmp_path, device):
    table = TableDenoiser(GRID, CODES, len(LABELS))
    table.labels[1] = np.nan
    gen = smalti.load(table.bundle(tmp_path / "nan", classes=LABELS), backend=device.backend())
    assert gen.generate(label="a", steps=2).tokens.shape == (1, 3, 4)
    with pytest.raises(SamplingError, match=r"sample 0, position 0, step 0: logits contain NaN"):
        gen.generate(label="b", steps=2)


class Stale:
    """A captured graph that has kept its first answer, as ONNX Runtime's have been seen to do."""

    def __init__(self, session: BoundGraph, device: StubDevice) -> None:
        self.inputs, self.outputs = session.inputs, session.outputs
        self.session, self.first = session, {}

    def queue(self, inputs, outputs) -> None:
        self.session.queue(inputs, outputs)
        for name, tensor in outputs.items():
            array = memory(tensor.address, tensor.shape, tensor.dtype)
            array[...] = self.first.setdefault((name, tensor.shape), array.copy())


def test_graphs_are_compared_with_runs_without_them(bundles, on_cpu, device):
    kernels = device.kernels()
    backend = OnnxRuntimeDevice(kernels, lambda stream: cpu_place(1, graphs=True))
    backend.certified = "fp32"
    same(smalti.load(bundles["absorbing"], backend=backend).generate(seed=3), on_cpu["absorbing"].generate(seed=3))

    opened = open_bundle(bundles["absorbing"])
    plain, other = (BoundGraph(opened, "denoiser", "fp32", cpu_place(1)) for _ in range(2))
    stale = ComparedGraphs(backend.place, Stale(other, device), plain, "denoiser")
    session = ArraySession(backend.place, stale, opened.manifest.components["denoiser"])
    inputs = {"labels": np.zeros(1, np.int32), "rows": np.zeros((1, 2), np.int32)}
    session({"tokens": np.zeros((1, 16), np.int32), **inputs})
    with pytest.raises(ProviderUnavailable, match=r"CUDA graph of the denoiser gives other results .*run 2"):
        session({"tokens": np.ones((1, 16), np.int32), **inputs})


def test_a_decoder_that_overflows_in_fp16_is_raised_to_fp32(bundles, on_cpu, device, monkeypatch):
    backend = device.backend()
    backend.certified = "fp16"
    right = backend.open_on_device

    def black(bundle, role, precision):
        """Sessions of which the fp16 decoder paints black."""
        session = right(bundle, role, precision)
        return Black(session) if (role, precision) == ("decoder", "fp16") else session

    monkeypatch.setattr(backend, "open_on_device", black)
    gen = smalti.load(bundles["absorbing"], backend=backend)
    assert gen.report.precision["decoder"] == "fp32"
    assert "decoder in fp32: golden input 0 decodes at" in gen.report.why
    assert gen.report.precision["denoiser"] == "fp16"
    tokens = on_cpu["absorbing"].generate(seed=1).tokens
    assert gen.decode(tokens) == on_cpu["absorbing"].decode(tokens)


class Black(Stale):
    def __init__(self, session: BoundGraph) -> None:
        self.inputs, self.outputs, self.session = session.inputs, session.outputs, session

    def queue(self, inputs, outputs) -> None:
        for tensor in outputs.values():
            memory(tensor.address, tensor.shape, tensor.dtype)[...] = 0


def test_a_generator_of_a_device_says_where_it_runs(bundles, device):
    gen = smalti.load(bundles["absorbing"], backend=device.backend())
    assert gen.report.actual == "cuda"
    assert gen.report.device == "Stub 70, compute capability 10.0"
    with pytest.raises(UsageError, match="brings its own provider"):
        smalti.load(bundles["absorbing"], provider="cuda", backend=device.backend())
    assert isinstance(gen.generate().images[0], Image.Image)
