"""Engines that a program has built for it: by a real process, watched and cancelled, while another provider draws.

The process runs the real command with a stand-in for TensorRT and the stub driver in place of a GPU.
"""

from __future__ import annotations

import threading
import time

import pytest

import smalti
from helpers.device_cases import same
from helpers.fake_tensorrt_runtime import FakeRuntime
from helpers.planted_gpu import planted_gpu
from helpers.stub_device import StubDevice
from helpers.table_denoiser import TableDenoiser
from smalti import EngineBuild, EngineError, ProviderUnavailable, UsageError
from smalti.backends.tensorrt.backend import TensorRt
from smalti.backends.tensorrt.bindings import Bindings
from smalti.backends.tensorrt.choice import Host
from smalti.bundle.engine_folder import engine_cache, engines_of, read_folder
from smalti.loading import building, load, upgrade
from smalti.loading.building import build_missing
from smalti.system.platform import system_name


@pytest.fixture
def machine(tmp_path, monkeypatch, stub_library):
    """A user's cache of its own; a process finds a stand-in for TensorRT, and the stub as NVIDIA's driver."""
    for name, value in planted_gpu(tmp_path, stub_library).items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.fixture
def bundle(tiny_bundle):
    return smalti.open_bundle(tiny_bundle)


def backend(stub_library, fake: FakeRuntime) -> TensorRt:
    device = StubDevice(stub_library)
    found = stub_library.driver().device(0)
    return TensorRt(device.kernels(), Bindings("trt", fake), Host("trt", "10.13.3", "sm_80", found.name, system_name()))


def test_what_is_missing_is_built_told_and_then_run(bundle, machine, stub_library):
    machine.setenv("FAKE_TENSORRT_PAUSE", "0.05")
    fake = FakeRuntime("10.13.3", portable=False)
    trt, told = backend(stub_library, fake), []
    (roles,) = trt.missing(bundle, "auto").values()
    assert {"denoiser", "decoder"} <= {*roles}
    build_missing(trt, bundle, "auto", told.append)
    assert trt.missing(bundle, "auto") == {}
    assert {one.component for one in told} == {*roles}
    assert all(0 <= one.share <= 1 and one.phase for one in told)
    assert told[-1].share > told[0].share
    listed = read_folder(engine_cache(bundle))
    assert listed is not None
    assert {(one.device, one.system, one.targets) for one in listed.engines} == {
        (trt.host.device, system_name(), ("sm_80",))
    }
    fake.knows(bundle, listed.engines)
    expected = smalti.load(bundle, "cpu", "fp16", 1).generate(2, 5)
    same(smalti.load(bundle, backend=trt).generate(2, 5), expected)
    built = {one.engine.sha256 for one in listed.engines}
    build_missing(trt, bundle, "auto")
    assert {one.record.engine.sha256 for one in engines_of(bundle)[0]} == built


def test_a_build_that_is_cancelled_keeps_what_is_finished(bundle, machine):
    machine.setenv("FAKE_TENSORRT_PAUSE", "0.2")
    first, cancel = threading.Event(), threading.Event()
    build = EngineBuild(bundle, "trt", on_progress=lambda told: first.set() if told.component != "encoder" else None)
    assert not build.done
    assert first.wait(60)
    cancel.set()
    started = time.monotonic()
    with pytest.raises(EngineError, match=r"was cancelled; those that were finished are kept"):
        build.wait(cancel)
    assert time.monotonic() - started < 15
    assert build.done
    listed = read_folder(engine_cache(bundle))
    for one in listed.engines if listed else ():
        assert (engine_cache(bundle) / one.engine.file).stat().st_size == one.engine.bytes
    machine.setenv("FAKE_TENSORRT_PAUSE", "0")
    EngineBuild(bundle, "trt").wait()
    assert len(engines_of(bundle)[0]) == sum("fp16" in bundle.precisions(role) for role in bundle.manifest.components)


def test_a_build_that_fails_says_what_the_builder_said(bundle, machine):
    machine.setenv("FAKE_TENSORRT_FAIL", "build:decoder")
    with pytest.raises(EngineError, match=r"engines cannot be built: .*decoder.*Cannot compile operation"):
        EngineBuild(bundle, "trt").wait()
    kept = {one.record.component for one in engines_of(bundle)[0]}
    assert "denoiser" in kept
    assert "decoder" not in kept


def test_an_error_of_who_is_told_ends_the_build_and_is_raised(bundle, machine):
    machine.setenv("FAKE_TENSORRT_PAUSE", "0.1")

    def told(progress: smalti.BuildProgress) -> None:
        raise ZeroDivisionError("of the caller")

    build = EngineBuild(bundle, "trt", on_progress=told)
    with pytest.raises(ZeroDivisionError, match="of the caller"):
        build.wait()
    assert build.done


def test_what_comes_in_fp32_alone_is_built_in_fp32(tmp_path, machine, stub_library):
    plain = smalti.open_bundle(TableDenoiser((3, 4), 6, 2).bundle(tmp_path / "plain"))
    assert backend(stub_library, FakeRuntime("10.13.3", portable=False)).missing(plain, "auto") == {
        "fp32": [*plain.manifest.components]
    }


def test_without_a_gpu_a_build_says_so(bundle, machine, tmp_path):
    machine.setenv("LD_LIBRARY_PATH", str(tmp_path))
    with pytest.raises(EngineError, match="there is no NVIDIA driver"):
        EngineBuild(bundle, "trt").wait()


def test_a_frozen_program_builds_nothing(bundle, monkeypatch):
    monkeypatch.setattr(building.sys, "frozen", True, raising=False)
    with pytest.raises(EngineError, match="before it is frozen"):
        EngineBuild(bundle, "trt")


@pytest.fixture
def opened(bundle, stub_library, monkeypatch):
    """Provider trt on the stub device; the engines that a build made can be run."""
    fake = FakeRuntime("10.13.3", portable=False)
    honest = load.open_backend

    def open_backend(provider: str, threads: int | None = None):
        if provider != "trt":
            return honest(provider, threads)
        made = backend(stub_library, fake)
        plain = made.read

        def read(asked, role, precision):
            fake.knows(asked, [one.record for one in engines_of(asked)[0]])
            return plain(asked, role, precision)

        made.read = read
        return made

    monkeypatch.setattr(load, "open_backend", open_backend)


def test_another_provider_draws_until_engines_are_built(bundle, machine, opened):
    machine.setenv("FAKE_TENSORRT_PAUSE", "0.1")
    told: list[smalti.BuildProgress] = []
    ours = smalti.Upgrade(bundle, "trt", "cpu", on_build=told.append)
    expected = smalti.load(bundle, "cpu", "fp16", 1).generate(seed=3)
    first = ours.generator
    assert first.report.actual == "cpu"
    assert not ours.ready
    first.generate(seed=3)
    assert ours.wait(120), ours.problem
    assert ours.generator.report.actual == "trt"
    assert ours.progress is not None
    assert ours.progress in told
    same(ours.generator.generate(seed=3), expected)
    assert first.generate(seed=3).report.actual == "cpu"  # who kept it draws on as before


def test_an_upgrade_that_fails_leaves_the_first_provider_and_says_why(bundle, machine, opened):
    machine.setenv("FAKE_TENSORRT_FAIL", "parse")
    ours = smalti.Upgrade(bundle, "trt", "cpu")
    assert not ours.wait(120)
    assert isinstance(ours.problem, EngineError)
    assert ours.generator.report.actual == "cpu"


def test_an_upgrade_can_be_given_up(bundle, machine, opened):
    machine.setenv("FAKE_TENSORRT_PAUSE", "1")
    ours = smalti.Upgrade(bundle, "trt", "cpu")
    ours.cancel()
    assert not ours.wait(60)
    assert "cancelled" in str(ours.problem)


def test_what_is_wrong_with_the_first_provider_is_raised_at_once(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(upgrade, "load", smalti.load)
    with pytest.raises(UsageError, match="provider 'nonsense'"):
        smalti.Upgrade(bundle, "trt", "nonsense")
    plain = TableDenoiser((3, 4), 6, 2).bundle(tmp_path / "plain")
    ours = smalti.Upgrade(plain, "trt", "cpu")
    assert not ours.wait(60)
    assert isinstance(ours.problem, ProviderUnavailable)


@pytest.mark.parametrize(
    ("runtime", "targets", "says"),
    [
        ("trt", ["sm_86"], "targets ['sm_86']: TensorRT builds for the GPU at hand"),
        ("rtx", "sm_86", "targets 'sm_86': a list is needed"),
        ("rtx", [86], "targets 86"),
        ("rtx", ["GTX 1660"], "targets 'GTX 1660' is no card that smalti knows"),
        ("rtx", ["sm_86", "gpu; ls"], "targets 'gpu; ls' is no GPU that smalti knows; allowed are sm_61"),
    ],
)
def test_targets_that_cannot_be_built_for_are_refused_at_once(runtime, targets, says, bundle):
    with pytest.raises(UsageError) as raised:
        EngineBuild(bundle, runtime, targets=targets)
    assert says in str(raised.value)


def test_engines_of_tensorrt_rtx_are_built_for_the_targets_that_are_named(bundle, tmp_path, monkeypatch):
    pytest.importorskip("tensorrt_rtx", reason='needs TensorRT-RTX: pip install "smalti[engines]"')
    monkeypatch.setenv("SMALTI_CACHE_DIR", str(tmp_path / "cache"))
    EngineBuild(bundle, "rtx", components=["preview"], targets=["RTX 3060", "8.9"]).wait()
    EngineBuild(bundle, "rtx", "fp32", components=["preview"]).wait()  # sm_75 has no fp32, and is left out
    built = {one.record.precision: one.record.targets for one in engines_of(bundle)[0]}
    assert built == {"fp16": ("sm_86", "sm_89"), "fp32": ("sm_86", "sm_89", "sm_120")}
