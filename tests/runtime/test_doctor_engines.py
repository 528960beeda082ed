"""What the doctor says of engines: which GPU runs them, in which version, and whether that is enough to draw."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from helpers.golden_bundle import plain_bundle
from helpers.kept_engines import keep
from helpers.machines import GTX_1080, RTX_3060, machine, with_driver
from smalti import open_bundle
from smalti.bundle.engine_folder import engine_cache
from smalti.cli.main import _run
from smalti.verification.doctor.facts import Driver, Engine, Machine, OnnxRuntime
from smalti.verification.doctor.findings import conclude, draws_with
from smalti.verification.doctor.gather import gather


def said(found: Machine) -> str:
    (one,) = [one for one in conclude(found) if one.topic == "engines"]
    return one.text


def providers(found: Machine) -> list[str]:
    return draws_with(found, conclude(found))


def test_engines_are_matched_with_gpus_and_versions() -> None:
    engine = Engine("avatars", "denoiser", "fp16", "rtx", "1.7.1", ("sm_75", "sm_86"), bytes=20_000_000)
    both = (engine, replace(engine, component="decoder"))
    found = replace(with_driver(machine(), RTX_3060), engines=both)
    assert said(found) == "bundle avatars has 2 for sm_75, sm_86 (40.0 MB); 2 match a GPU here"
    assert "rtx" not in providers(found)  # the package is not there
    ready = replace(found, packages=(*found.packages, ("tensorrt-rtx", "1.7.1")))
    assert providers(ready)[:1] == ["rtx"]
    assert "rtx" not in providers(replace(ready, engines=both[:1]))
    newer = replace(found, packages=(*found.packages, ("tensorrt-rtx", "1.8.0")))
    assert "they need tensorrt-rtx 1.7.1, not 1.8.0" in said(newer)
    assert "rtx" not in providers(newer)
    assert "none is for a GPU here" in said(replace(found, driver=Driver()))


ENGINE = Engine("avatars", "denoiser", "fp16", "rtx", "1.7.1", ("sm_86",), bytes=20_000_000)


def worries(found: Machine, topic: str = "engines") -> list[str]:
    return [one.text for one in conclude(found) if one.topic == topic and one.verdict != "ok"]


def test_engines_that_cannot_be_used_are_no_ok() -> None:
    damaged = replace(ENGINE, state="damaged", note="/c: a.rtx is damaged: 1 byte; build it again")
    foreign = replace(damaged, bundle="mine (0123)", state="other graph", note="it was built from another graph")
    found = replace(with_driver(machine(), RTX_3060), engines=(damaged, foreign))
    assert worries(found) == [
        "bundle avatars has 1 engine that is damaged: /c: a.rtx is damaged: 1 byte",
        "bundle mine (0123) has 1 engine that is of another graph: it was built from another graph",
    ]
    ready = replace(found, packages=(*found.packages, ("tensorrt-rtx", "1.7.1")))
    assert "rtx" not in providers(replace(ready, engines=(damaged, replace(damaged, component="decoder"))))
    (line,) = worries(replace(machine(), broken_lists=("/c: engines.json cannot be read",)))
    assert line == "a list of engines cannot be used: /c: engines.json cannot be read"


def test_engines_of_another_version_are_told_without_a_gpu_too() -> None:
    found = replace(machine(), engines=(ENGINE,), packages=(("tensorrt-rtx", "1.8.0"),))
    (one,) = [one for one in conclude(found) if one.topic == "engines"]
    assert one.verdict == "warn"
    assert "they need tensorrt-rtx 1.7.1, not 1.8.0" in one.text
    assert "tensorrt-rtx==1.7.1" in one.remedy
    assert "smalti engine build" in one.remedy


def test_a_cache_that_cannot_be_written_is_no_ok() -> None:
    (one,) = [one for one in conclude(replace(machine(), unwritable="cannot write /c")) if one.topic == "caches"]
    assert (one.verdict, one.text) == ("warn", "cannot write /c")
    assert "SMALTI_CACHE_DIR" in one.remedy


def test_without_onnx_runtime_there_is_none_that_needs_no_libraries() -> None:
    (one,) = [one for one in conclude(replace(machine(), onnxruntime=OnnxRuntime())) if one.topic == "CUDA libraries"]
    assert "installed ONNX Runtime" not in one.text


def test_the_facts_have_the_states_of_engines_and_of_the_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SMALTI_CACHE_DIR", str(tmp_path / "cache"))
    bundle = open_bundle()
    whole, bad = keep(engine_cache(bundle), bundle, "decoder"), keep(engine_cache(bundle), bundle)
    (engine_cache(bundle) / bad.engine.file).write_bytes(b"")
    other = engine_cache(bundle).with_name("other")
    other.mkdir()
    (other / "engines.json").write_text("{")
    found = gather(driver=(), vulkan=())
    states = {one.component: (one.bundle, one.cached, one.state) for one in found.engines}
    assert states["denoiser"] == ("avatars", True, "damaged")
    assert states["decoder"][2] != "damaged"
    assert whole.component == "decoder"
    assert len(found.broken_lists) == 1
    assert found.unwritable == ""
    assert found.problems == ()
    (tmp_path / "file").touch()
    monkeypatch.setenv("SMALTI_CACHE_DIR", str(tmp_path / "file"))
    assert str(tmp_path / "file") in gather(driver=(), vulkan=()).unwritable


def test_engines_that_another_gpu_built_do_not_run_here() -> None:
    engine = Engine("avatars", "denoiser", "fp16", "trt", "10.13", ("sm_86",), device=RTX_3060.name, cached=True)
    there = (("tensorrt", "10.13"),)
    found = replace(with_driver(machine(), RTX_3060), engines=(engine, replace(engine, component="decoder")))
    assert "trt" in providers(replace(found, packages=(*found.packages, *there)))
    other = tuple(replace(one, device="another GPU") for one in found.engines)
    assert "trt" not in providers(replace(found, engines=other, packages=(*found.packages, *there)))


RTX_PACKAGE = ("tensorrt-rtx", "1.7.1")


def test_a_gpu_that_draws_by_engines_is_not_idle() -> None:
    whole = (ENGINE, replace(ENGINE, component="decoder"))
    base = with_driver(machine(), RTX_3060)
    idle = replace(base, packages=(*base.packages, RTX_PACKAGE))
    assert any("GPUs stay idle" in text for text in worries(idle, "ONNX Runtime"))
    draws = replace(idle, engines=whole)
    assert worries(draws, "ONNX Runtime") == []
    (text,) = [one.text for one in conclude(draws) if one.topic == "ONNX Runtime"]
    assert text == "onnxruntime 1.31.1 has no CUDA; the GPU draws with provider rtx"


def test_without_onnx_runtime_engines_of_a_bundle_draw() -> None:
    base = with_driver(machine(), RTX_3060)
    found = replace(base, packages=(RTX_PACKAGE,), onnxruntime=OnnxRuntime())
    (one,) = [one for one in conclude(found) if one.topic == "ONNX Runtime"]
    assert one.verdict == "warn"
    assert "provider rtx needs none, with a bundle that has engines for the GPU here" in one.text
    assert providers(found) == []
    engines = tuple(replace(ENGINE, bundle="/shipped.zip", component=name) for name in ("denoiser", "decoder"))
    shipped = replace(found, named=("/shipped.zip",), engines=engines)
    assert providers(shipped) == ["rtx"]
    (old,) = [one for one in conclude(with_driver(found, GTX_1080)) if one.topic == "ONNX Runtime"]
    assert old.verdict == "missing"  # TensorRT-RTX does not run there


def test_a_bundle_that_is_named_is_looked_at_too(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("SMALTI_CACHE_DIR", str(tmp_path / "cache"))
    bundle = open_bundle(plain_bundle(tmp_path / "mine"))
    keep(bundle.path / "engines", bundle)
    found = gather(named=[bundle])
    assert found.named == (str(bundle.path),)
    assert [(one.bundle, one.cached) for one in found.engines] == [(str(bundle.path), False)]
    assert _run(["doctor", "--bundle", str(bundle.path)]) == 0
    assert f"bundle {bundle.path} has 1 for sm_75, sm_86" in capsys.readouterr().out
    assert _run(["doctor", "--bundle", str(tmp_path / "none")]) == 3


def test_a_copy_of_an_embedded_bundle_goes_by_its_name(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SMALTI_CACHE_DIR", str(tmp_path / "cache"))
    embedded = open_bundle()
    copy = open_bundle(shutil.copytree(embedded.path, tmp_path / "copy"))
    keep(copy.path / "engines", copy, precision="fp16")
    found = gather(named=[copy, copy])
    assert found.named == ()
    assert [(one.bundle, one.component) for one in found.engines] == [(embedded.manifest.name, "denoiser")]


def test_engines_may_be_asked_for_before_they_are_built(monkeypatch) -> None:
    found = with_driver(machine(), RTX_3060)
    ready = replace(found, packages=(*found.packages, RTX_PACKAGE), variables=(("SMALTI_PROVIDER", "rtx"),))
    assert worries(ready, "settings") == []
    assert worries(replace(ready, packages=found.packages), "settings") != []


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SMALTI_PROVIDER", "banana", "no provider is called so"),
        ("SMALTI_PROVIDER", "cuda", "asks for cuda, which does not draw here"),
        ("SMALTI_PROVIDER", "cpu", ""),
        ("SMALTI_PROVIDER", "auto", ""),
        ("SMALTI_THREADS", "abc", "no number of cores"),
        ("SMALTI_THREADS", "0", "no number of cores"),
        ("SMALTI_THREADS", "4", ""),
        ("SMALTI_CACHE_DIR", "/c", ""),
    ],
)
def test_settings_that_stop_every_command_are_told(name, value, says) -> None:
    found = worries(replace(machine(), variables=((name, value),)), "settings")
    assert len(found) == bool(says)
    assert says in "".join(found)


def test_settings_are_read_from_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("SMALTI_PROVIDER", "banana")
    monkeypatch.setenv("SMALTI_TOKEN", "secret-secret-secret")
    assert ("SMALTI_PROVIDER", "banana") in gather().variables
    assert "secret" not in repr(gather())
