"""``smalti engine list`` and ``explain``: which engines are there, which would run, and why the others would not."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from helpers.hints import installs
from helpers.kept_engines import INSTALLED, keep
from smalti import DriverUnavailable, UsageError, embedded_bundles, open_bundle
from smalti.bundle.engine_folder import engine_cache
from smalti.bundle.reader import Bundle
from smalti.cli import engine as command_line
from smalti.cli.main import _run
from smalti.system.platform import install_hint, system_name
from smalti.verification.doctor import safe_driver
from smalti.verification.engines.cards import GPUS, target_named
from smalti.verification.engines.explaining import Gpu, explain, find_gpu
from smalti.verification.engines.hosts import supports
from smalti.verification.engines.listing import engines_of_bundle
from smalti_kernels.impl.cuda.driver import Device

RTX_3060 = Gpu("sm_86", "NVIDIA GeForce RTX 3060", here=True, cuda=(13, 0))
BOTH = "with extra cu13 or cu12"


def states(bundle: Bundle, installed=INSTALLED) -> dict[str, tuple[str, str]]:
    found, wrong = engines_of_bundle(bundle, installed)
    assert wrong == []
    return {Path(one.engine.path).name: (one.state, one.note) for one in found}


def test_help_lists_all_four_and_needs_no_builder(capsys):
    assert _run(["engine", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in ("list", "explain", "prune", "build"))


def test_these_commands_work_without_torch_onnx_and_tensorrt(bundle, cache, python):
    record = keep(cache, bundle)
    code = """
from smalti.cli.main import _run
for line in (["list"], ["list", sys.argv[1]], ["explain", sys.argv[1], "--for", "sm_86"], ["prune", "--dry-run"]):
    assert _run(["engine", *line]) == 0, line
assert not {"torch", "onnx", "tensorrt", "tensorrt_rtx", "onnxruntime"} & set(sys.modules)
"""
    done = python(code, bundle.path, blocked=("torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "triton"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(record.engine.file) >= 3


def test_build_without_onnx_names_its_extra(python):
    done = python("from smalti.cli.main import main\nmain(['engine', 'build'])", blocked=("onnx",))
    assert done.returncode == 1
    assert f"smalti engine build needs onnx; {installs('engines')}" in done.stderr
    line = "['engine', 'build', '--runtime', 'trt']"
    code = f"""
import sys, types
from types import SimpleNamespace
sys.modules["tensorrt"] = SimpleNamespace(__version__="10.13.0")
import smalti_export.engines.toolkit as toolkit
toolkit.driver = lambda: SimpleNamespace(device=lambda number: SimpleNamespace(capability=86, name="a GPU"))
from smalti.cli.main import main
main({line})
"""
    done = python(code, blocked=("onnx",))
    assert done.returncode == 1
    assert f"smalti engine build needs onnx; {installs('trt')}" in done.stderr


def test_every_state_of_an_engine_is_told(bundle, cache):
    ok = keep(cache, bundle)
    other_version = keep(cache, bundle, version="1.7.0")
    other_graph = keep(cache, bundle, source_sha256="1" * 64)
    flipped, cut, missing = (keep(cache, bundle, targets=(target,)) for target in ("sm_80", "sm_89", "sm_120"))
    (cache / flipped.engine.file).write_bytes(bytes(flipped.engine.bytes))
    (cache / cut.engine.file).write_bytes(b"vtrt")
    (cache / missing.engine.file).unlink()
    trt = keep(cache, bundle, runtime="trt", device="NVIDIA GeForce RTX 3060", system=system_name())
    found = states(bundle, {"rtx": "1.7.1", "trt": ""})
    assert found[ok.engine.file] == ("ok", "")
    assert found[other_version.engine.file] == (
        "other version",
        "built with TensorRT-RTX 1.7.0, and 1.7.1 is installed; pip install tensorrt-rtx==1.7.0, or build it again "
        "with smalti engine build",
    )
    assert found[other_graph.engine.file][0] == "other graph"
    assert found[trt.engine.file] == ("not installed", "TensorRT is not installed")
    for record, says in ((flipped, "its sha256 is not that in"), (cut, "4 bytes instead of"), (missing, "is missing")):
        state, note = found[record.engine.file]
        assert state == "damaged"
        assert says in note
        assert "build it again with smalti engine build" in note


def test_the_list_has_a_bundles_own_engines_and_those_in_the_cache(bundle, cache, engine):
    own, cached = keep(bundle.path / "engines", bundle, "decoder"), keep(cache, bundle)
    code, said, _ = engine("list", bundle.path, "--json")
    assert code == 0
    content = json.loads(said)
    assert content["problems"] == []
    assert [one["path"] for one in content["engines"]] == [
        str(bundle.path / "engines" / own.engine.file),
        str(cache / cached.engine.file),
    ]
    assert content["engines"][1] == {
        "bundle": "tiny-sundae",
        "digest": bundle.digest,
        "component": "denoiser",
        "precision": "fp32",
        "runtime": "rtx",
        "version": "1.7.1",
        "installed": "1.7.1",
        "targets": ["sm_75", "sm_86"],
        "device": None,
        "system": None,
        "bytes": cached.engine.bytes,
        "path": str(cache / cached.engine.file),
        "state": "ok",
        "note": "",
    }
    code, said, _ = engine("list", bundle.path)
    assert code == 0
    assert said.splitlines()[0] == f"tiny-sundae ({bundle.digest[:12]})"
    assert "  ok            TensorRT-RTX 1.7.1, sm_75, sm_86" in said


def test_without_a_bundle_the_list_has_the_embedded_ones_and_bundles_that_are_gone(bundle, cache, engine):
    embedded = open_bundle()
    gone, there = keep(cache, bundle), keep(engine_cache(embedded), embedded, precision="fp16")
    shutil.rmtree(bundle.path)
    broken = cache.with_name("broken")
    broken.mkdir()
    (broken / "engines.json").write_text("{")
    code, said, _ = engine("list", "--json")
    assert code == 0
    content = json.loads(said)
    assert {(one["bundle"], Path(one["path"]).name, one["state"]) for one in content["engines"]} == {
        (embedded.manifest.name, there.engine.file, "ok"),
        ("tiny-sundae", gone.engine.file, "ok"),
    }
    assert len(content["problems"]) == 1
    assert "broken: engines.json cannot be read" in content["problems"][0]
    assert f"! {broken}: engines.json cannot be read" in engine("list")[1]


def test_an_empty_list_says_how_engines_are_made(bundle, cache, engine):
    assert "smalti engine build" in engine("list", bundle.path)[1]


def runs(bundle: Bundle, gpu: Gpu, installed=INSTALLED, role: str = "denoiser", runtime: str = "rtx"):
    """The engine that runs, by its file's name, and the reasons of the others."""
    outcomes = explain(bundle, gpu, installed).outcomes
    (one,) = (one for one in outcomes if (one.component, one.runtime, one.precision) == (role, runtime, "fp32"))
    return Path(one.engine).name, one.reasons


def test_explain_names_the_engine_that_runs_and_why_each_other_does_not(bundle, cache):
    last = keep(cache, bundle)
    good = keep(cache, bundle, targets=("sm_86",))
    damaged = keep(cache, bundle, targets=("sm_86", "sm_89"))
    (cache / damaged.engine.file).write_bytes(b"")
    keep(cache, bundle, version="1.6.0")
    keep(cache, bundle, source_sha256="1" * 64)
    keep(cache, bundle, targets=("sm_120",))
    file, reasons = runs(bundle, RTX_3060)
    assert file == good.engine.file
    assert [reason.partition(": ")[2] for reason in reasons[:3]] == [
        "it was built for sm_120, and not for sm_86",
        "it was built from another graph than the bundle's denoiser fp32",
        "it was built with TensorRT-RTX 1.6.0, and 1.7.1 is installed; an engine runs in the version that built it",
    ]
    assert f"{damaged.engine.file} is damaged" in reasons[3]
    assert reasons[4:] == (f"{cache / last.engine.file}: another one comes first",)
    assert runs(bundle, RTX_3060, role="decoder") == ("", ())


def test_engines_of_tensorrt_run_on_their_gpu_and_system_alone(bundle, cache):
    here = {"runtime": "trt", "targets": ("sm_86",), "system": system_name(), "device": RTX_3060.name}
    keep(cache, bundle, **here | {"device": "NVIDIA GeForce RTX 3080"})
    assert "it was built on NVIDIA GeForce RTX 3080, and this is" in runs(bundle, RTX_3060, runtime="trt")[1][0]
    keep(cache, bundle, **here | {"system": "plan9-mips"})
    assert f"it was built on plan9-mips, and this is {system_name()}" in runs(bundle, RTX_3060, runtime="trt")[1][0]
    good = keep(cache, bundle, **here)
    assert runs(bundle, RTX_3060, runtime="trt")[0] == good.engine.file


def test_what_is_missing_comes_with_the_command_that_builds_it(bundle, cache, engine):
    keep(cache, bundle, "decoder")
    found = explain(bundle, RTX_3060, INSTALLED, "my bundle.zip")
    lines = [one.line for one in found.remedies]
    quoted = "'my bundle.zip'" if os.name == "posix" else '"my bundle.zip"'
    assert lines == [
        f"smalti engine build {quoted} --runtime rtx --target sm_86 --precision fp32 --component denoiser "
        "--component encoder",
        f"smalti engine build {quoted} --runtime trt --precision fp32",
    ]
    said = engine("explain", bundle.path, "--for", "sm_86")[1]
    assert f"  smalti engine build {bundle.path} --runtime trt --precision fp32" in said
    assert "trt fp32: no engine of any component" in said
    for role in ("denoiser", "encoder"):
        keep(cache, bundle, role)
    assert [one.runtime for one in explain(bundle, RTX_3060, INSTALLED).remedies] == ["trt"]


@pytest.mark.parametrize(
    ("target", "kernels", "cuda", "rtx", "trt"),
    [
        ("sm_61", "the prebuilt sm_61", "with extra cu12", None, None),
        ("sm_70", None, None, None, None),
        (
            "sm_75",
            "the prebuilt sm_75",
            BOTH,
            "engines in fp16, built anywhere",
            "in fp16 and fp32",
        ),
        (
            "sm_86",
            "the prebuilt sm_86",
            BOTH,
            "engines in fp16 and fp32, built",
            "in fp16 and fp32",
        ),
        ("sm_90", "the prebuilt sm_90", BOTH, None, "in fp16 and fp32"),
        ("sm_100", "the prebuilt ptx_80, which the driver compiles", "with extra cu12", None, "in fp16 and fp32"),
        ("sm_120", "the prebuilt sm_120", BOTH, "engines in fp16 and fp32", "in fp16 and fp32"),
    ],
)
def test_for_any_gpu_it_is_told_what_runs_there(target, kernels, cuda, rtx, trt, bundle, cache, engine):
    found = {one.name: one for one in supports(target)}
    for name, says in (("kernels", kernels), ("cuda", cuda), ("rtx", rtx), ("trt", trt)):
        assert found[name].works == (says is not None)
        assert (says or "") in found[name].text
    assert found["webgpu"].works
    code, said, _ = engine("explain", bundle.path, "--for", target)
    assert code == 0
    assert f"GPU    {target}: {GPUS[target]}" in said
    assert f"  {'rtx':<8} {'' if rtx else 'no: '}" in said
    # fp32 is all that this bundle has, and TensorRT-RTX has no fp32 for Turing.
    assert ("--runtime rtx" in said) == (target in ("sm_86", "sm_120"))
    assert ("--runtime trt" in said) == (trt is not None)


def test_a_gpu_that_nobody_knows_is_refused(engine):
    code, _, error = engine("explain", "--for", "sm_99")
    assert code == 2
    assert "--for 'sm_99' is no GPU that smalti knows; allowed are sm_61 (GeForce GTX 10), " in error
    with pytest.raises(UsageError):
        find_gpu("GTX 980")


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("GTX 1080 Ti", "sm_61"),
        ("1080", "sm_61"),
        ("geforce rtx 2070 super", "sm_75"),
        ("NVIDIA A100-SXM4-80GB", "sm_80"),
        ("RTX3060", "sm_86"),
        ("RTX 4090", "sm_89"),
        ("NVIDIA H100 80GB HBM3", "sm_90"),
        ("RTX 5090 Laptop GPU", "sm_120"),
        ("SM_86", "sm_86"),
        ("sm61", "sm_61"),
        ("8.6", "sm_86"),
        ("120", "sm_120"),
        ("980", ""),
        ("10", ""),
        ("foo", ""),
        ("", ""),
    ],
)
def test_gpus_go_by_their_names_too(text, target):
    assert target_named(text) == target
    if target:
        assert find_gpu(text).target == target


def test_every_gpu_is_known_by_the_name_that_messages_give_it():
    assert {name: target_named(name) for name in GPUS.values()} == {name: target for target, name in GPUS.items()}


def test_check_exits_with_3_for_damage_and_broken_lists(bundle, cache, engine):
    record = keep(cache, bundle)
    keep(cache, bundle, version="1.6.0")
    assert engine("list", bundle.path, "--check")[0] == 0
    (cache / record.engine.file).write_bytes(b"")
    assert engine("list", bundle.path)[0] == 0
    code, said, error = engine("list", "--check")
    assert code == 3
    assert "damaged" in said
    assert f"{record.engine.file} is damaged" in error
    (cache / "engines.json").write_text("{")
    code, said, error = engine("list", "--check", "--json")
    assert code == 3
    assert len(json.loads(said)["problems"]) == 1
    assert "engines.json cannot be read" in error


def test_the_list_tells_the_bundles_engines_from_the_caches_and_what_runs_them(bundle, cache, engine):
    keep(bundle.path / "engines", bundle, "decoder")
    keep(cache, bundle)
    lines = engine("list", bundle.path)[1].splitlines()
    assert f"  in the bundle: {bundle.path}" in lines
    assert f"  in the cache: {cache}" in lines
    assert lines.count('    runs with: pip install "smalti[cli,rtx]" tensorrt-rtx==1.7.1') == 2


def test_without_a_gpu_engines_are_told_with_their_targets(bundle, cache, engine, monkeypatch):
    def none():
        raise DriverUnavailable("there is no NVIDIA driver (libcuda.so.1)", "install one")

    monkeypatch.setattr(safe_driver, "driver", none)
    keep(cache, bundle)
    old = keep(cache, bundle, "decoder", version="1.6.0")
    code, said, _ = engine("explain", bundle.path)
    assert code == 0
    assert "GPU    none here: there is no NVIDIA driver. Name one with --for, such as --for sm_86" in said
    assert "(for sm_75, sm_86)" in said
    assert f"    not used: {cache / old.engine.file}: it was built with TensorRT-RTX 1.6.0" in said
    content = json.loads(engine("explain", bundle.path, "--json")[1])
    assert (content["gpu"]["target"], content["supports"], content["remedies"]) == ("", [], [])


def test_this_machines_gpu_is_the_drivers_first(monkeypatch):
    class Driver:
        version = (12, 8)

        def device(self, ordinal: int) -> Device:
            return Device(ordinal, "NVIDIA GeForce RTX 3060", 86, 28)

    monkeypatch.setattr(safe_driver, "driver", Driver)
    assert find_gpu(None) == Gpu("sm_86", "NVIDIA GeForce RTX 3060", here=True, cuda=(12, 8))
    told = {one.name: one.text for one in supports("sm_86", (12, 8))}
    assert told["cuda"] == "with extra cu12"


@pytest.mark.parametrize("card", ["GTX 1660 Ti", "MX450", "T1000", "GTX 980", "RTX 7090", "Tesla K80"])
def test_a_card_that_is_not_known_is_told_as_that(card, bundle, engine):
    code, _, error = engine("explain", bundle.path, "--for", card)
    assert code == 2
    assert f"'{card}' is no card that smalti knows; look its compute capability up" in error
    assert "allowed are" not in error


@pytest.mark.parametrize(
    ("card", "target"),
    [
        ("A10G", "sm_86"),
        ("A2", "sm_86"),
        ("Quadro RTX 4000", "sm_75"),
        ("RTX 4000 Ada", "sm_89"),
        ("RTX 500 Ada Generation", "sm_89"),
        ("RTX PRO 6000 Blackwell", "sm_120"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "sm_120"),
        ("A100", "sm_80"),
        ("RTX A100", ""),
        ("RTX A500", "sm_86"),
        ("A6000", "sm_86"),
        ("RTX A4000", "sm_86"),
        ("Quadro P4000", "sm_61"),
        ("GT 1030", "sm_61"),
        ("NVIDIA H20", "sm_90"),
        ("RTX 2050", "sm_86"),
    ],
)
def test_cards_of_workstations_and_servers_are_known(card, target):
    assert target_named(card) == target


@pytest.mark.parametrize("card", ["GTX 1080", "V100"])
def test_nothing_is_to_be_installed_that_does_not_run_on_a_card(card, bundle, engine, monkeypatch):
    monkeypatch.setattr(command_line, "installed_versions", lambda: {"rtx": "", "trt": ""})
    told = engine("explain", bundle.path, "--for", card)[1]
    assert "pip install" not in told.partition("no engine")[0]
    assert "is not installed" not in told
    assert "is not installed" in engine("explain", bundle.path, "--for", "RTX 4090")[1]


def test_explain_says_what_the_extra_does_where_there_are_no_engines(bundle, cache, engine, monkeypatch):
    said = engine("explain", bundle.path, "--for", "sm_86")[1]
    assert "The wheel of smalti carries graphs and no engines" in said
    assert not any((path / "engines").exists() for path in embedded_bundles().values())
    assert "The wheel" not in engine("explain", bundle.path, "--for", "sm_61")[1]
    keep(cache, bundle)
    monkeypatch.setattr(command_line, "installed_versions", lambda: {"rtx": "", "trt": ""})
    said = engine("explain", bundle.path, "--for", "sm_86")[1]
    assert "The wheel" not in said
    line = f"TensorRT-RTX is not installed; engines here need 1.7.1; {install_hint('rtx')} tensorrt-rtx==1.7.1"
    assert line in said
