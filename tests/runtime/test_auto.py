"""Provider auto: what computes wrongly is refused, of the rest the fastest is taken, and the report says why."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

import smalti
from helpers import swiftshader
from helpers.golden_bundle import golden_bundle, plain_bundle
from helpers.swiftshader import environment
from helpers.table_denoiser import TableDenoiser
from smalti import BundleError, DriverError, ProviderUnavailable, SamplingError, UsageError
from smalti.backends.onnxruntime_cpu import OnnxRuntimeCpu
from smalti.bundle.reader import open_bundle
from smalti.loading import auto, trial, trial_process
from smalti.loading.auto import load_best
from smalti.loading.trial import Trial
from smalti.loading.trial_process import in_own_process
from smalti.system import verdicts


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SMALTI_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bundle(tmp_path, cache):
    return open_bundle(golden_bundle(tmp_path / "bundle"))


@pytest.fixture
def spoiled(monkeypatch):
    """Let a component compute noise on the CPU in some precisions, as the int8 decoder of OpenVINO does on some."""

    def spoil(role: str, *precisions: str) -> None:
        honest = OnnxRuntimeCpu.open

        def opened(self, bundle, asked, precision):
            session = honest(self, bundle, asked, precision)
            if asked != role or precision not in precisions:
                return session
            rng = np.random.default_rng(5)

            def noise(inputs):
                right = session(inputs)[0]
                return [rng.integers(0, 255, right.shape).astype(right.dtype)]

            noise.inputs, noise.outputs = session.inputs, session.outputs
            return noise

        monkeypatch.setattr(OnnxRuntimeCpu, "open", opened)

    return spoil


def here(bundle, precision: str) -> str:
    return ""


def gone(bundle, precision: str) -> str:
    return "there is no driver"


def found(**seconds: float | str):
    """Trials of GPUs that found these seconds, or these problems."""
    asked: list[str] = []

    def try_gpu(bundle, provider: str, precision: str) -> Trial:
        asked.append(provider)
        told = seconds[provider]
        known = {"problem": told} if isinstance(told, str) else {"seconds": told}
        return Trial(provider=provider, made=trial.time.time(), **known)

    try_gpu.asked = asked
    return try_gpu


@pytest.fixture
def planted(monkeypatch):
    """Providers cuda and webgpu that are the CPU under another name."""
    honest = auto.open_backend

    def opened(name: str, threads: int | None = None):
        backend = honest("cpu", threads)
        if name != "cpu":
            backend.__class__ = type(f"Planted{name}", (OnnxRuntimeCpu,), {"name": name})
        return backend

    monkeypatch.setattr(auto, "open_backend", opened)


def test_the_cpu_is_taken_where_it_is_alone_and_the_reasons_are_told(bundle):
    gen = load_best(bundle, "auto", 1, {"cuda": gone, "rtx": gone, "webgpu": lambda *_: "it is not installed"})
    assert (gen.report.requested, gen.report.actual, gen.report.requested_precision) == ("auto", "cpu", "auto")
    for says in ("cpu passed the golden inputs", "cuda and rtx: there is no driver", "webgpu: it is not installed"):
        assert says in gen.report.why


def test_golden_inputs_are_measured_once_for_a_bundle_and_a_machine(bundle, monkeypatch):
    asked: list[str] = []
    honest = trial.compare_golden
    monkeypatch.setattr(trial, "compare_golden", lambda b, role, *rest: (asked.append(role), honest(b, role, *rest))[1])
    load_best(bundle, "auto", 1, {})
    assert sorted(asked) == ["decoder", "denoiser", "encoder"]
    load_best(bundle, "auto", 1, {})
    assert len(asked) == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")  # the machine is another one now
    load_best(bundle, "auto", 1, {})
    assert len(asked) == 6
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    (bundle.path / "manifest.json").write_text(json.dumps(manifest | {"name": "other"}))
    load_best(open_bundle(bundle.path), "auto", 1, {})
    assert len(asked) == 9


def test_a_verdict_that_is_old_or_damaged_is_given_again(bundle, cache, monkeypatch):
    load_best(bundle, "auto", 1, {})
    (file,) = (cache / "trials").iterdir()
    whole = file.read_bytes()
    for broken in (b"", b"{", b"[1]", whole.replace(b'"made":1', b'"made":"x')):
        file.write_bytes(broken)
        assert load_best(bundle, "auto", 1, {}).report.actual == "cpu"
        assert msgspec.json.decode(file.read_bytes(), type=Trial).provider == "cpu"
    old = msgspec.structs.replace(msgspec.json.decode(whole, type=Trial), made=1.0, problem="once wrong")
    file.write_bytes(msgspec.json.encode(old))
    assert load_best(bundle, "auto", 1, {}).report.actual == "cpu"
    shutil.rmtree(cache)
    cache.write_text("a file where a folder is wanted")
    assert load_best(bundle, "auto", 1, {}).report.actual == "cpu"


def test_a_decoder_that_computes_wrongly_in_8_bits_is_not_used(tiny_bundle, cache, spoiled):
    spoiled("decoder", "int8")
    opened = open_bundle(tiny_bundle)
    for _ in range(2):  # by measurement, then by the verdict that was kept
        gen = load_best(opened, "auto", 1, {})
        assert set(gen.report.precision.values()) == {"fp32"}
        assert gen.report.requested_precision == "auto"
        assert "fp32, as decoder in int8 computes golden inputs wrongly: psnr" in gen.report.why
    with pytest.raises(
        ProviderUnavailable, match=r"no provider here computes .* decoder in int8 .*psnr.* Name a provider"
    ):
        load_best(opened, "int8", 1, {})
    assert smalti.load(opened, "cpu", "int8").report.precision["decoder"] == "int8"


def test_nothing_is_taken_that_computes_wrongly_in_every_precision(bundle, spoiled):
    spoiled("encoder", "fp32")
    for _ in range(2):
        with pytest.raises(
            ProviderUnavailable, match=r"no provider here .*encoder in fp32 computes golden inputs wrongly"
        ):
            load_best(bundle, "auto", 1, {})
    assert smalti.load(bundle, "cpu").report.actual == "cpu"


def test_the_fastest_that_passes_is_taken(bundle, planted):
    gpus = {"cuda": here, "rtx": here, "webgpu": here, "trt": gone}
    try_gpu = found(cuda=1e-9, rtx="decoder in fp16 computes golden inputs wrongly: psnr 12", webgpu=50.0)
    gen = load_best(bundle, "auto", 1, gpus, try_gpu)
    assert gen.report.actual == "cuda"
    for says in (
        "cuda passed the golden inputs, 1e-09 s a picture",
        "webgpu 50 s",
        "rtx was refused: decoder in fp16 computes golden inputs wrongly: psnr 12",
        "trt: there is no driver",
    ):
        assert says in gen.report.why
    assert load_best(bundle, "auto", 1, gpus, try_gpu).report.actual == "cuda"
    assert try_gpu.asked == ["cuda", "rtx", "webgpu"]


def test_a_gpu_that_is_slower_than_the_cpu_is_not_taken(bundle, planted):
    gen = load_best(bundle, "auto", 1, {"webgpu": here}, found(webgpu=500.0))
    assert gen.report.actual == "cpu"
    assert "slower: webgpu 500 s" in gen.report.why


def test_a_cpu_that_was_alone_is_timed_once_there_are_others(bundle, planted, cache):
    load_best(bundle, "auto", 1, {})
    assert load_best(bundle, "auto", 1, {"webgpu": here}, found(webgpu=500.0)).report.actual == "cpu"


def test_a_gpu_that_is_gone_since_its_trial_is_told(bundle, monkeypatch):
    honest = auto.open_backend

    def opened(name: str, threads: int | None = None):
        if name != "cpu":
            raise ProviderUnavailable(f"provider {name} has no memory left")
        return honest(name, threads)

    monkeypatch.setattr(auto, "open_backend", opened)
    gen = load_best(bundle, "auto", 1, {"cuda": here}, found(cuda=1e-9))
    assert gen.report.actual == "cpu"
    assert "cuda was refused: provider cuda has no memory left" in gen.report.why


def test_a_bundle_without_golden_inputs_cannot_be_judged_and_runs(tmp_path, cache):
    gen = load_best(open_bundle(plain_bundle(tmp_path / "plain")), "auto", 1, {})
    assert "cpu was tried: the bundle has no golden inputs" in gen.report.why


def test_golden_inputs_that_do_not_fit_keep_nobody_from_drawing(tmp_path, cache):
    path = golden_bundle(tmp_path / "odd", lambda tensors: tensors.update({"nonsense": tensors["runs"]}))
    gen = load_best(open_bundle(path), "auto", 1, {})
    assert "golden inputs cannot be used" in gen.report.why


def test_what_was_asked_for_wrongly_is_no_providers_fault(bundle):
    with pytest.raises(UsageError, match="precision 'fp4'"):
        smalti.load(bundle, precision="fp4")
    with pytest.raises(UsageError, match="has no fp16 variant"):
        smalti.load(bundle, precision="fp16")


def test_8_bits_leave_gpus_out(tiny_bundle, cache):
    gen = smalti.load(tiny_bundle, precision="int8")
    assert "cuda and rtx and trt and webgpu: int8 is for CPUs" in gen.report.why


def own_process(bundle: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "import json, sys, smalti; print(json.dumps(smalti.load(sys.argv[1], threads=1).report.to_dict()))"
    command = [sys.executable, "-c", code, str(bundle)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=os.environ | environment, check=False
    )


@pytest.mark.skipif(bool(swiftshader.missing()), reason=swiftshader.missing() or "")
def test_webgpu_is_tried_in_a_process_of_its_own_and_timed(bundle, cache):
    done = own_process(bundle.path, **environment())
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["actual"] == "cpu"  # SwiftShader computes on the same cores, far slower
    assert "slower: webgpu" in report["why"]
    assert len([*(cache / "trials").iterdir()]) == 2


@pytest.mark.skipif(bool(swiftshader.missing()), reason=swiftshader.missing() or "")
def test_a_driver_that_crashes_ends_only_its_trial(bundle, cache, tmp_path):
    source, library = tmp_path / "crash.c", tmp_path / "libcrash.so"
    source.write_text("#include <stdlib.h>\n__attribute__((constructor)) static void crash(void) { abort(); }\n")
    subprocess.run([shutil.which("cc") or "gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    driver = tmp_path / "crash_icd.json"
    icd = {"library_path": str(library), "api_version": "1.1.0"}
    driver.write_text(json.dumps({"file_format_version": "1.0.0", "ICD": icd}))
    done = own_process(bundle.path, **environment(VK_ICD_FILENAMES=str(driver), VK_DRIVER_FILES=str(driver)))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["actual"] == "cpu"
    assert "webgpu was refused: the process that tried it ended with -6" in report["why"]


def test_what_cannot_run_here_is_not_tried_with_every_bundle(bundle, tmp_path):
    asked: list[str] = []

    def try_gpu(bundle, provider: str, precision: str) -> Trial:
        asked.append(bundle.manifest.name)
        return trial.refused(provider, "no GPU", trial.ABSENT)

    for one in (bundle, open_bundle(plain_bundle(tmp_path / "other"))):
        assert "webgpu was refused: no GPU" in load_best(one, "auto", 1, {"webgpu": here}, try_gpu).report.why
    assert len(asked) == 1


def test_logits_that_are_nan_are_told_when_they_are_drawn_from(tmp_path, cache):
    broken = TableDenoiser((3, 4), 6, 2)
    broken.own[:] = np.nan
    gen = load_best(open_bundle(broken.bundle(tmp_path / "broken")), "auto", 1, {"webgpu": here}, found(webgpu=500.0))
    with pytest.raises(SamplingError, match="NaN"):
        gen.generate()


def test_a_trial_that_never_ends_is_ended(bundle, monkeypatch):
    monkeypatch.setattr(trial_process, "LONGEST", 0.05)
    assert "took longer than" in in_own_process(bundle, "webgpu", "auto").problem


@pytest.fixture
def failing(monkeypatch):
    """Let a component fail on the CPU in a precision, with an error of a given class."""

    def fail(role: str, precision: str, kind: type[Exception]) -> None:
        honest = OnnxRuntimeCpu.open

        def opened(self, bundle, asked, in_precision):
            session = honest(self, bundle, asked, in_precision)
            if (asked, in_precision) != (role, precision):
                return session

            def fails(inputs):
                raise kind("the device said no")

            fails.inputs, fails.outputs = session.inputs, session.outputs
            return fails

        monkeypatch.setattr(OnnxRuntimeCpu, "open", opened)

    return fail


def test_a_component_that_fails_hides_no_other_that_computes_wrongly(bundle, spoiled, failing):
    spoiled("decoder", "fp32")
    failing("encoder", "fp32", BundleError)
    with pytest.raises(ProviderUnavailable) as raised:
        load_best(bundle, "auto", 1, {})
    assert "decoder in fp32 computes golden inputs wrongly" in str(raised.value)
    assert "encoder in fp32 cannot compute golden inputs: the device said no" in str(raised.value)


def test_a_component_that_fails_in_8_bits_alone_runs_in_32(tiny_bundle, cache, failing):
    failing("decoder", "int8", BundleError)
    gen = load_best(open_bundle(tiny_bundle), "auto", 1, {})
    assert gen.report.precision["decoder"] == "fp32"
    assert "decoder in int8 cannot compute golden inputs: the device said no" in gen.report.why


def test_what_may_be_over_soon_is_believed_for_minutes(bundle, cache, failing, monkeypatch):
    failing("decoder", "fp32", ProviderUnavailable)  # as where the device is out of memory
    with pytest.raises(ProviderUnavailable, match="the device said no"):
        load_best(bundle, "auto", 1, {})
    monkeypatch.undo()
    monkeypatch.setenv("SMALTI_CACHE_DIR", str(cache))
    with pytest.raises(ProviderUnavailable, match="the device said no"):
        load_best(bundle, "auto", 1, {})
    later = trial.time.time() + 3600 * trial.PASSING + 1
    monkeypatch.setattr(verdicts.time, "time", lambda: later)
    assert load_best(bundle, "auto", 1, {}).report.actual == "cpu"


def test_errors_of_a_driver_are_told_like_others(bundle, monkeypatch):
    honest = auto.open_backend

    def opened(name: str, threads: int | None = None):
        if name != "cpu":
            raise DriverError("cuMemAlloc_v2 failed with CUDA_ERROR_OUT_OF_MEMORY", "", call="", code=2, name="")
        return honest(name, threads)

    monkeypatch.setattr(auto, "open_backend", opened)
    gen = load_best(bundle, "auto", 1, {"cuda": here}, found(cuda=1e-9))
    assert gen.report.actual == "cpu"
    assert "cuda was refused: cuMemAlloc_v2 failed" in gen.report.why
    assert "slower" not in gen.report.why


def test_a_users_files_are_not_imported_by_a_trial(bundle, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here/onnxruntime.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    monkeypatch.chdir(tmp_path / "here")
    assert in_own_process(bundle, "cpu", "auto").problem == ""
    assert not (tmp_path / "imported").exists()


def test_what_libraries_print_is_no_answer(bundle, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import ctypes\nctypes.CDLL(None).puts(b'printed by a library, when the process ends')\nprint('at once')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    assert in_own_process(bundle, "cpu", "auto").seconds is not None


def test_a_user_without_a_home_draws_all_the_same(bundle, monkeypatch):
    monkeypatch.delenv("SMALTI_CACHE_DIR")

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    assert load_best(bundle, "auto", 1, {}).report.actual == "cpu"


def test_a_trial_of_what_cannot_run_says_why(bundle):
    assert "provider trt cannot run here" in in_own_process(bundle, "trt", "auto").problem


def test_a_verdict_of_a_precision_that_there_is_not_is_given_again(bundle, cache):
    load_best(bundle, "auto", 1, {})
    (file,) = (cache / "trials").iterdir()
    file.write_bytes(file.read_bytes().replace(b'"precision":"auto"', b'"precision":"banana"'))
    assert b"banana" in file.read_bytes()
    assert load_best(bundle, "auto", 1, {}).report.actual == "cpu"
    assert b"banana" not in file.read_bytes()
