"""Whole runs on engines: the stub driver's memory, the shipped PTX, and ONNX Runtime computing what engines compute.

Engines of the absorbing bundle are really built by TensorRT-RTX. What reads them is a stand-in, since the real runtime
needs a GPU; ``test_engine_bindings.py`` compares its calls with the real bindings.
"""

from __future__ import annotations

import re

import numpy as np
import pytest

import smalti
from helpers.device_cases import RUNS, all_families, same
from helpers.fake_tensorrt_runtime import FakeContext, FakeRuntime, plant
from helpers.stub_device import StubDevice
from smalti import BundleError, ProviderUnavailable, UsageError
from smalti.backends.tensorrt.backend import TensorRt, TensorRtRtx
from smalti.backends.tensorrt.bindings import Bindings
from smalti.backends.tensorrt.choice import Host
from smalti.bundle.engine_folder import engine_cache
from smalti.bundle.reader import open_bundle
from smalti.loading.trial import try_out
from smalti.system.platform import system_name
from smalti.verification.remeasure import remeasure
from smalti_export.engines.build import build_engines
from smalti_export.engines.toolkit import PortableToolkit

FP16 = ("absorbing", "autoregressive")
"""Families whose small bundle comes in fp16; the others have fp32 alone."""


@pytest.fixture(scope="module")
def bundles(sized_bundle, tiny_bundle, tmp_path_factory):
    return all_families(sized_bundle, tiny_bundle, tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def on_cpu(bundles):
    def load(name):
        bundle = open_bundle(bundles[name])
        precision = "fp16" if "fp16" in bundle.precisions("decoder") and name == "absorbing" else "fp32"
        return smalti.load(bundle, "cpu", precision, threads=1)

    return {name: load(name) for name in bundles}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A user's cache of its own, so that tests do not see each other's engines."""
    monkeypatch.setenv("SMALTI_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def device(stub_library) -> StubDevice:
    return StubDevice(stub_library)


def rtx(device: StubDevice, fake: FakeRuntime, **options) -> TensorRtRtx:
    host = Host("rtx", fake.__version__, "sm_86", "stub GPU", system_name())
    return TensorRtRtx(device.kernels(), Bindings("rtx", fake), host, **options)


@pytest.fixture(scope="module")
def real_engines(sized_bundle, tmp_path_factory):
    """What TensorRT-RTX builds of the absorbing bundle, in a folder."""
    pytest.importorskip("tensorrt_rtx", reason='needs TensorRT-RTX: pip install "smalti[engines]"')
    folder = tmp_path_factory.mktemp("real")
    bundle = open_bundle(sized_bundle)
    return folder, build_engines(bundle, PortableToolkit(["sm_75", "sm_86"]), folder / "engines")


@pytest.mark.parametrize("name", RUNS)
def test_engines_draw_what_the_cpu_draws(name, bundles, on_cpu, device, cache):
    family, options = RUNS[name]
    bundle, fake = open_bundle(bundles[family]), FakeRuntime()
    precision = on_cpu[family].report.requested_precision
    fake.knows(bundle, plant(bundle, precision))
    gen = smalti.load(bundle, backend=rtx(device, fake))
    assert set(gen.report.precision.values()) == {precision}
    same(gen.generate(seed=11, **options), on_cpu[family].generate(seed=11, **options))
    assert (device.launched["smalti_sample"] > 0) == (family != "autoregressive")
    assert {call[1] for call in fake.calls if call[0] == "run"} <= set(bundle.manifest.components)


def test_engines_that_tensorrt_rtx_built_are_read_out_of_the_bundle(
    sized_bundle, real_engines, on_cpu, device, tmp_path
):
    import shutil

    folder, listed = real_engines
    carried = tmp_path / "carried"
    shutil.copytree(sized_bundle, carried)
    shutil.copytree(folder / "engines", carried / "engines")
    bundle, fake = open_bundle(carried), FakeRuntime(listed.engines[0].version)
    fake.knows(bundle, listed.engines)
    gen = smalti.load(bundle, backend=rtx(device, fake))
    options = {"count": 2, "seed": 3, "resolution": 128}
    same(gen.generate(**options), on_cpu["absorbing"].generate(**options))
    image = on_cpu["absorbing"].generate(seed=4).images[0]
    assert np.array_equal(gen.encode([image]), on_cpu["absorbing"].encode([image]))
    assert np.allclose(gen.embed([image]), on_cpu["absorbing"].embed([image]), atol=1e-3)
    (carried / "engines" / listed.engines[-1].engine.file).write_bytes(b"vtrt damaged")
    with pytest.raises(ProviderUnavailable, match=r"is damaged.*build it again with smalti engine build"):
        rtx(device, fake).open(bundle, listed.engines[-1].component, "fp16")


def test_a_batch_that_no_profile_takes_is_run_in_parts(bundles, on_cpu, device, cache):
    bundle, fake = open_bundle(bundles["absorbing"]), FakeRuntime()
    fake.knows(bundle, plant(bundle))
    gen = smalti.load(bundle, backend=rtx(device, fake))
    options = {"count": 3, "seed": 1, "size": (96, 64), "steps": 2}
    same(gen.generate(**options), on_cpu["absorbing"].generate(**options))
    runs = [
        shapes["tokens"]
        for kind, role, *rest in fake.calls
        if kind == "run" and role == "decoder"
        for shapes in rest[1:]
    ]
    assert (1, 4, 6) in runs


def test_sizes_that_no_profile_takes_are_refused(bundles, device, cache):
    bundle, fake = open_bundle(bundles["absorbing"]), FakeRuntime()
    fake.knows(bundle, plant(bundle))
    session = rtx(device, fake).open(bundle, "denoiser", "fp16")
    wrong = {"tokens": np.zeros((1, 9), np.int32), "labels": np.zeros(1, np.int32), "rows": np.zeros((1, 2), np.int32)}
    with pytest.raises(
        BundleError, match=r"was not built for .*tokens \[1, 9\].*it takes .*tokens \[1, 16\] \.\. \[16, 16\]"
    ):
        session(wrong)


def test_what_is_missing_or_does_not_fit_is_told_with_the_command(bundles, device, cache):
    bundle, fake = open_bundle(bundles["absorbing"]), FakeRuntime()
    backend = rtx(device, fake)
    with pytest.raises(ProviderUnavailable, match=NONE):
        smalti.load(bundle, backend=backend)
    plant(bundle, roles=["denoiser"], version="1.6.0")
    plant(bundle, roles=["denoiser"], targets=("sm_120",))
    plant(bundle, roles=["denoiser"], source_sha256="0" * 64)
    with pytest.raises(ProviderUnavailable) as raised:
        smalti.load(bundle, backend=backend)
    for says in (
        r"built with TensorRT-RTX 1\.6\.0, and 1\.7\.1\.116 is installed",
        "built for sm_120, and not for sm_86",
        "built from another graph",
    ):
        assert re.search(says, str(raised.value))
    (engine_cache(bundle) / "engines.json").write_text("{")
    with pytest.raises(ProviderUnavailable, match=r"engines\.json cannot be read"):
        smalti.load(bundle, backend=backend)
    with pytest.raises(UsageError, match="provider rtx runs fp16 and fp32"):
        smalti.load(bundle, precision="int8", backend=backend)


NONE = (
    r"no engine of the denoiser in fp16 for sm_86: there is none\. Build it with smalti engine build .* "
    "--runtime rtx --precision fp16 --target sm_86"
)
REFUSALS = {
    "deserialize_cuda_engine": "cannot read it: the engine is for another version",
    "get_engine_validity": r"does not run here \(VERSION_MISMATCH, OLD_CUDA_DRIVER\)",
    "create_execution_context": "no room for it, or cannot compile it: .*out of memory",
    "set_optimization_profile_async": "its profile 0 cannot be used",
    "infer_shapes": "sizes of its inputs do not fit together",
    "set_input_shape": r"does not take tokens \[1, 4, 4\]",
    "set_tensor_address": "set_tensor_address failed",
    "execute_async_v3": "cannot be run: .* says: execute_async_v3 failed",
}


@pytest.mark.parametrize("call", REFUSALS)
def test_each_call_that_fails_is_told_and_the_next_run_is_right(call, bundles, on_cpu, device, cache):
    bundle, fake = open_bundle(bundles["absorbing"]), FakeRuntime()
    fake.knows(bundle, plant(bundle))
    backend = rtx(device, fake)
    fake.refuse = call
    with pytest.raises(ProviderUnavailable, match=REFUSALS[call]):
        smalti.load(bundle, backend=backend).generate(seed=2, steps=2)
    fake.refuse = ""
    same(smalti.load(bundle, backend=backend).generate(seed=2), on_cpu["absorbing"].generate(seed=2))


def test_kernels_are_compiled_once_and_kept(bundles, device, cache):
    bundle, fake = open_bundle(bundles["absorbing"]), FakeRuntime()
    fake.knows(bundle, plant(bundle))
    smalti.load(bundle, backend=rtx(device, fake)).generate(steps=2)
    assert {"denoiser", "decoder"} <= fake.compiled
    assert not list((cache / "compiled").glob("*.trying"))
    fake.compiled.clear()
    smalti.load(bundle, backend=rtx(device, fake)).generate(steps=2)
    assert not fake.compiled
    for file in (cache / "compiled").glob("*.cache"):
        file.write_bytes(b"damaged, or another version's")
    smalti.load(bundle, backend=rtx(device, fake)).generate(steps=2)
    assert {"denoiser", "decoder"} <= fake.compiled
    fake.compiled.clear()
    smalti.load(bundle, backend=rtx(device, fake)).generate(steps=2)
    assert not fake.compiled


def test_kernels_that_killed_a_process_are_not_used_again(bundles, device, cache):
    bundle, fake = open_bundle(bundles["absorbing"]), FakeRuntime()
    fake.knows(bundle, plant(bundle))
    smalti.load(bundle, backend=rtx(device, fake)).generate(steps=2)
    files = list((cache / "compiled").glob("*.cache"))
    for file in files:
        file.with_suffix(".trying").touch()  # as a process leaves it that died on first use
    fake.compiled.clear()
    smalti.load(bundle, backend=rtx(device, fake)).generate(steps=2)
    assert {"denoiser", "decoder"} <= fake.compiled
    assert not list((cache / "compiled").glob("*.trying"))
    assert sorted((cache / "compiled").glob("*.cache")) == sorted(files)


def test_a_cache_that_cannot_be_written_costs_nothing_else(bundles, on_cpu, device, cache):
    bundle, fake = open_bundle(bundles["absorbing"]), FakeRuntime()
    fake.knows(bundle, plant(bundle))
    (cache / "compiled").write_text("a file where a folder is wanted")
    same(smalti.load(bundle, backend=rtx(device, fake)).generate(seed=2), on_cpu["absorbing"].generate(seed=2))


def test_a_component_without_an_engine_is_refused_when_it_is_needed(bundles, on_cpu, device, cache, monkeypatch):
    bundle, fake = open_bundle(bundles["absorbing"]), FakeRuntime()
    fake.knows(bundle, plant(bundle, roles=["denoiser", "decoder"]))
    found, gen = try_out(bundle, rtx(device, fake), "auto", timed=False)
    assert gen is not None
    assert found.problem == ""
    assert "encoder cannot be run: provider rtx has no engine of the encoder" in found.note
    assert "none of" in gen.report.why
    same(gen.generate(seed=2), on_cpu["absorbing"].generate(seed=2))
    with pytest.raises(ProviderUnavailable, match="no engine of the encoder"):
        gen.encode(on_cpu["absorbing"].generate(seed=2).images)
    measured = remeasure(bundle, rtx(device, fake))
    assert {(one.component, one.precision) for one in measured} == {("denoiser", "fp16"), ("decoder", "fp16")}


def test_an_engine_that_computes_wrongly_and_has_none_in_fp32_is_told_as_that(bundles, device, cache, monkeypatch):
    bundle, fake = open_bundle(bundles["absorbing"]), FakeRuntime()
    fake.knows(bundle, plant(bundle))
    monkeypatch.setattr(FakeContext, "execute_async_v3", lambda *_: True)  # it writes nothing
    found, gen = try_out(bundle, rtx(device, fake), "auto", timed=False)
    assert gen is None
    assert "dB in fp16" in found.problem or "computes golden inputs wrongly" in found.problem


def test_cuda_graphs_are_asked_of_the_runtime_and_compared(bundles, on_cpu, device, cache):
    bundle, fake = open_bundle(bundles["absorbing"]), FakeRuntime()
    fake.knows(bundle, plant(bundle))
    gen = smalti.load(bundle, backend=rtx(device, fake, graphs=True))
    for seed in (1, 2, 3):
        same(gen.generate(seed=seed, steps=3), on_cpu["absorbing"].generate(seed=seed, steps=3))


def test_a_decoder_that_overflows_needs_an_engine_in_fp32(bundles, device, cache, monkeypatch):
    bundle, fake = open_bundle(bundles["absorbing"]), FakeRuntime()
    fake.knows(bundle, plant(bundle))
    monkeypatch.setattr("smalti.backends.device.backend.decodes_wrongly", lambda *_: "it decodes at 3.0 dB in fp16")
    with pytest.raises(ProviderUnavailable, match=r"decoder: it decodes at 3\.0 dB.*no engine of the decoder in fp32"):
        smalti.load(bundle, backend=rtx(device, fake))
    fake.knows(bundle, plant(bundle, "fp32", ["decoder"]))
    gen = smalti.load(bundle, backend=rtx(device, fake))
    assert gen.report.precision["decoder"] == "fp32"
    assert "3.0 dB" in gen.report.why


def test_tensorrt_runs_what_was_built_on_this_device(bundles, on_cpu, device, cache):
    bundle, fake = open_bundle(bundles["absorbing"]), FakeRuntime("10.13.3", portable=False)
    host = Host("trt", "10.13.3", "sm_86", "stub GPU", system_name())
    backend = TensorRt(device.kernels(), Bindings("trt", fake), host)
    assert backend.missing(bundle, "auto") == {"fp16": [*bundle.manifest.components]}
    there = {"runtime": "trt", "version": "10.13.3", "system": system_name()}
    plant(bundle, device="another GPU", **there)
    with pytest.raises(ProviderUnavailable, match=r"built on another GPU, and this is stub GPU.*--runtime trt"):
        smalti.load(bundle, backend=backend)
    fake.knows(bundle, plant(bundle, device="stub GPU", **there))
    assert backend.missing(bundle, "auto") == {}
    same(smalti.load(bundle, backend=backend).generate(seed=2), on_cpu["absorbing"].generate(seed=2))


@pytest.mark.parametrize("portable", [True, False])
def test_a_runtime_that_is_too_old_or_does_not_start_is_told(portable):
    runtime = "rtx" if portable else "trt"
    with pytest.raises(ProviderUnavailable, match=r"needs TensorRT.*and this is .*pip install --upgrade"):
        Bindings(runtime, FakeRuntime("1.0.0" if portable else "8.6.1", portable=portable))
    fake = FakeRuntime("1.7.1" if portable else "10.13.3", portable=portable)
    fake.refuse = "Runtime"
    with pytest.raises(ProviderUnavailable, match=r"does not start \(no CUDA-capable device is detected"):
        Bindings(runtime, fake)
