"""Engines: TensorRT-RTX builds the embedded bundle's, what is there is not built again, and a failure loses none."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from helpers.fake_tensorrt import FakeTensorRT
from helpers.fixed_profiles import FixedProfiles
from helpers.golden_bundle import plain_bundle
from smalti import BundleError, EngineError, OutputError, UsageError, open_bundle
from smalti.bundle import engines as engine_records
from smalti.bundle.engine_folder import engine_cache, engines_of, read_folder, write_folder
from smalti.cli.main import _run
from smalti.codec.tiles import tile_of
from smalti.errors import exit_code
from smalti.system.platform import system_name
from smalti.verification.verify import verify
from smalti_export.engines import job
from smalti_export.engines.build import Progress, build_engines
from smalti_export.engines.toolkit import PORTABLE, DeviceToolkit, PortableToolkit
from smalti_kernels.impl.cuda.driver import Device


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "make_profiles", FixedProfiles())
    return open_bundle(plain_bundle(tmp_path / "bundle"))


def tools(targets=("sm_86",), **options) -> PortableToolkit:
    return PortableToolkit(targets, FakeTensorRT(portable=True, **options))


def build(bundle, output: Path, toolkit=None, **options):
    return build_engines(bundle, toolkit or tools(), output, precision="fp32", **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_engines_are_listed_with_hash_size_source_and_version(bundle, tmp_path):
    engines = build(bundle, tmp_path / "out", tools(["sm_86", "sm_120"]))
    assert engine_records.decode((tmp_path / "out" / "engines.json").read_bytes(), "here") == engines
    assert (engines.bundle, engines.bundle_digest) == ("tiny-sundae", bundle.digest)
    assert [record.component for record in engines.engines] == list(bundle.manifest.components)
    for record in engines.engines:
        plan = (tmp_path / "out" / record.engine.file).read_bytes()
        assert plan.startswith(b"vtrt")
        assert record.engine.bytes == len(plan)
        assert record.engine.sha256 == hashlib.sha256(plan).hexdigest()
        assert record.source_sha256 == bundle.variant(record.component, "fp32").graph.sha256
        assert (record.runtime, record.version, record.targets) == ("rtx", "10.13.0", ("sm_86", "sm_120"))
    assert len(contents(tmp_path / "out")) == 4


def test_building_again_replaces_what_has_no_use_and_keeps_the_rest(bundle, tmp_path):
    first = build(bundle, tmp_path / "out")
    second = build(bundle, tmp_path / "out", tools(["sm_86", "sm_89"]), components=["denoiser"])
    kept = [record for record in first.engines if record.component != "denoiser"]
    assert [record for record in second.engines if record.component != "denoiser"] == kept
    third = build(bundle, tmp_path / "out", tools(["sm_120"]), components=["denoiser"])
    assert [one.component for one in third.engines] == ["decoder", "denoiser", "denoiser", "encoder"]
    assert [one.targets for one in third.engines[1:3]] == [("sm_120",), ("sm_86", "sm_89")]  # the newest first
    second = third
    files = {record.engine.file for record in second.engines}
    assert set(contents(tmp_path / "out")) == {*files, "engines.json"}


def test_engines_of_another_bundle_are_not_replaced(bundle, tmp_path):
    build(bundle, tmp_path / "out")
    before = contents(tmp_path / "out")
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    (bundle.path / "manifest.json").write_text(json.dumps(manifest | {"name": "other"}))
    with pytest.raises(UsageError, match=r"holds engines of another bundle .*tiny-sundae\. Name another folder"):
        build(open_bundle(bundle.path), tmp_path / "out", components=["decoder"])
    assert contents(tmp_path / "out") == before


def test_engines_are_not_put_among_a_bundles_files(bundle):
    before = contents(bundle.path)
    with pytest.raises(UsageError, match=r"is a bundle; name a folder of engines, such as .*engines"):
        build(bundle, bundle.path)
    assert contents(bundle.path) == before


def test_engines_in_the_bundles_own_folder_belong_to_it_and_are_verified(bundle, capsys):
    folder = bundle.path / "engines"
    digest = bundle.digest
    record = build(bundle, folder).engines[0]
    assert open_bundle(bundle.path).digest == digest
    found = verify(bundle)
    assert (found.engines, found.problems, found.undeclared) == (3, (), ())
    assert _run(["bundle", "inspect", str(bundle.path)]) == 0
    said = capsys.readouterr().out
    assert "rtx 10.13.0 on sm_86" in said
    assert 'they run with: pip install "smalti[cli,rtx]" tensorrt-rtx==10.13.0' in said
    (folder / record.engine.file).write_bytes(b"vtrt" + bytes(32))
    assert _run(["bundle", "verify", str(bundle.path)]) == 3
    error = capsys.readouterr().err
    assert f"engines/{record.engine.file} is damaged" in error
    assert "build it again" in error
    (folder / record.engine.file).unlink()
    assert f"engines/{record.engine.file} is missing" in verify(bundle).problems[0]
    listed = json.loads((folder / "engines.json").read_text())
    (folder / "engines.json").write_text(json.dumps(listed | {"bundle_digest": "0" * 64}))
    assert "lists engines of another bundle" in verify(bundle).problems[0]
    for broken, says in (("{", "cannot be read"), (json.dumps(listed | {"schema_version": 3}), "Update smalti")):
        (folder / "engines.json").write_text(broken)
        assert says in verify(bundle).problems[0]


def test_engines_built_from_another_graph_are_found_out(bundle):
    build(bundle, bundle.path / "engines")
    file = bundle.path / "engines" / "engines.json"
    content = json.loads(file.read_text())
    content["engines"][0]["source_sha256"] = "0" * 64
    file.write_text(json.dumps(content))
    (problem,) = verify(bundle).problems
    assert f"was not built from the bundle's {content['engines'][0]['component']} fp32" in problem


def test_a_name_that_leads_out_of_the_folder_is_refused(bundle):
    build(bundle, bundle.path / "engines")
    file = bundle.path / "engines" / "engines.json"
    content = json.loads(file.read_text())
    content["engines"][0]["engine"]["file"] = "../manifest.json"
    file.write_text(json.dumps(content))
    (problem,) = verify(bundle).problems
    assert "'../manifest.json', which is not a file beside it" in problem


@pytest.mark.parametrize("fail", ["device", "parse", "build"])
def test_a_build_that_fails_leaves_the_engines_that_were_there(fail, bundle, tmp_path):
    build(bundle, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(EngineError):
        build(bundle, tmp_path / "out", tools(fail=fail), force=True)
    assert contents(tmp_path / "out") == before


def test_a_damaged_graph_is_the_bundles_fault(bundle, tmp_path):
    (bundle.path / "denoiser.fp32.onnx").write_bytes(b"damaged")
    with pytest.raises(BundleError, match=r"denoiser\.fp32\.onnx is damaged"):
        build(bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_built_is_refused_before_any_work(bundle, tmp_path):
    with pytest.raises(UsageError, match=r"TensorRT-RTX has no fp32 matrix product.*--precision fp16"):
        build(bundle, tmp_path / "out", tools(["sm_75", "sm_86"]))
    with pytest.raises(UsageError, match="has no component in fp16; in fp16 there are: none"):
        build_engines(bundle, tools(), tmp_path / "out")
    with pytest.raises(UsageError, match="int8: its scales are chosen for CPUs"):
        build_engines(bundle, tools(), tmp_path / "out", precision="int8")
    with pytest.raises(UsageError, match="has no predictor in fp32; in fp32 there are: decoder, denoiser, encoder"):
        build(bundle, tmp_path / "out", components=["predictor"])
    assert not (tmp_path / "out").exists()


def test_writing_that_fails_keeps_the_old_list(bundle, tmp_path, monkeypatch):
    engines = build(bundle, tmp_path / "out")
    before = contents(tmp_path / "out")
    monkeypatch.setattr(engine_records, "encode", lambda engines: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_folder(tmp_path / "out", engines, {"extra.rtx": b"x"})
    assert {name: (tmp_path / "out" / name).read_bytes() for name in before} == before


def test_without_a_folder_engines_go_into_the_cache_of_the_bundle(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("SMALTI_CACHE_DIR", str(tmp_path / "cache"))
    engines = build_engines(bundle, tools(), precision="fp32")
    folder = tmp_path / "cache" / "engines" / f"tiny-sundae-{bundle.digest[:16]}"
    assert read_folder(folder) == engines
    kept, wrong = engines_of(bundle)
    assert [one.record for one in kept] == list(engines.engines)
    assert wrong == []
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    (bundle.path / "manifest.json").write_text(json.dumps(manifest | {"name": "../../../elsewhere"}))
    assert engine_cache(open_bundle(bundle.path)).parent == folder.parent


def test_an_engine_that_is_there_is_not_built_again(bundle, tmp_path):
    said, toolkit = list[str](), tools()
    first = build(bundle, tmp_path / "out", toolkit)
    before = contents(tmp_path / "out")
    assert build(bundle, tmp_path / "out", toolkit, say=said.append) == first
    assert contents(tmp_path / "out") == before
    assert said == [
        f"{one.component} fp32: is there already: {one.engine.file}"
        for role in bundle.manifest.components
        for one in first.engines
        if one.component == role
    ]
    again = build(bundle, tmp_path / "out", toolkit, force=True)
    assert {one.engine.file for one in again.engines}.isdisjoint(one.engine.file for one in first.engines)
    assert set(contents(tmp_path / "out")) == {"engines.json", *(one.engine.file for one in again.engines)}


@pytest.mark.parametrize(
    "change",
    [
        {"version": "10.12.0"},
        {"built_sha256": "0" * 64},
        {"built_sha256": None},
        {"source_sha256": "0" * 64},
        {"profiles": []},
        {"system": "windows-x86_64"},
    ],
    ids=lambda change: "-".join(map(str, change)),
)
def test_an_engine_of_anything_else_is_built_again(change, bundle, tmp_path):
    build(bundle, tmp_path / "out", components=["denoiser"])
    listed = json.loads((tmp_path / "out" / "engines.json").read_text())
    (record,) = listed["engines"]
    listed["engines"] = [record | change]
    (tmp_path / "out" / "engines.json").write_text(json.dumps(listed))
    said = list[str]()
    engines = build(bundle, tmp_path / "out", components=["denoiser"], say=said.append)
    assert any("building for sm_86" in line for line in said)
    assert len(engines.engines) == (2 if "system" in change else 1)
    assert engines.engines[0].built_sha256 is not None


def test_an_engine_that_the_bundle_or_the_cache_has_is_copied(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("SMALTI_CACHE_DIR", str(tmp_path / "cache"))
    cached = build_engines(bundle, tools(), precision="fp32")
    said = list[str]()
    assert build(bundle, tmp_path / "out", say=said.append) == cached
    assert all(f": taken from {engine_cache(bundle)}" in line for line in said)
    for record in cached.engines:
        assert (tmp_path / "out" / record.engine.file).read_bytes().startswith(b"vtrt")


def test_an_engine_for_one_gpu_stands_beside_that_for_another(bundle, tmp_path):
    gpus = [Device(0, name, 86, 28) for name in ("NVIDIA GeForce RTX 3060", "NVIDIA GeForce RTX 3080")]
    for gpu in (*gpus, gpus[0]):
        engines = build(bundle, tmp_path / "out", DeviceToolkit(FakeTensorRT(), gpu), components=["decoder"])
    assert {(one.device, one.system, one.targets) for one in engines.engines} == {
        (gpu.name, system_name(), ("sm_86",)) for gpu in gpus
    }


def test_what_is_there_needs_no_cache_that_can_be_written(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("SMALTI_CACHE_DIR", str(tmp_path / "cache"))
    first = build_engines(bundle, tools(), precision="fp32")

    def read_only(*arguments: object) -> None:
        raise OutputError("the file system is read-only")

    for name in ("check_folder", "write_folder", "changing"):
        monkeypatch.setattr(f"smalti_export.engines.build.{name}", read_only)
    assert build_engines(bundle, tools(), precision="fp32") == first
    with pytest.raises(OutputError, match=r"read-only\. Set SMALTI_CACHE_DIR to a folder that can be written"):
        build_engines(bundle, tools(), precision="fp32", force=True)


@pytest.mark.parametrize("fail", ["build:denoiser", "build:decoder"])
def test_one_that_fails_does_not_lose_the_others(fail, bundle, tmp_path):
    _, _, name = fail.partition(":")
    with pytest.raises(EngineError, match=rf"could not build {name} fp32: .*Cannot compile.*; the others are in .*out"):
        build(bundle, tmp_path / "out", tools(fail=fail))
    listed = read_folder(tmp_path / "out")
    assert listed is not None
    assert {one.component for one in listed.engines} == {"denoiser", "decoder", "encoder"} - {name}
    assert len(contents(tmp_path / "out")) == 3
    assert exit_code(EngineError()) == 5


def test_a_list_of_a_later_smalti_is_not_written_over(bundle, tmp_path):
    build(bundle, tmp_path / "out")
    listed = json.loads((tmp_path / "out" / "engines.json").read_text())
    (tmp_path / "out" / "engines.json").write_text(json.dumps(listed | {"schema_version": 99}))
    before = contents(tmp_path / "out")
    with pytest.raises(BundleError, match="Update smalti"):
        build(bundle, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_progress_names_the_engine_and_a_cancelled_build_keeps_what_was_finished(bundle, tmp_path):
    heard = list[Progress]()

    def go_on() -> bool:
        return not heard or heard[-1].number < 2

    with pytest.raises(EngineError, match=r"the build of .* was cancelled"):
        build(bundle, tmp_path / "out", progress=heard.append, go_on=go_on)
    assert {(one.number, one.of) for one in heard} == {(1, 3), (2, 3)}
    first = [one for one in heard if one.number == 1]
    assert [one.phase for one in first[:4]] == ["Building", "Building", "Timing", "Timing"]
    assert [one.share for one in first[:5]] == [0, 0.5, 0.5, 0.625, 0.75]
    assert (first[-1].done, first[-1].share) == (True, 1.0)
    listed = read_folder(tmp_path / "out")
    assert listed is not None
    assert [one.component for one in listed.engines] == [first[0].component]
    heard.clear()
    build(bundle, tmp_path / "out", components=[first[0].component], progress=heard.append)
    assert [(one.done, one.share) for one in heard] == [(True, 1.0)]  # it is there already


def engine(*arguments: object) -> int:
    return _run(["engine", "build", *map(str, arguments)])


@pytest.mark.parametrize("targets", [["sm_75"], list(PORTABLE)], ids=["sm_75", "portable"])
def test_tensorrt_rtx_builds_the_embedded_bundle_for_gpus_that_are_not_there(targets, tmp_path, capsys):
    trt = pytest.importorskip("tensorrt_rtx", reason='needs TensorRT-RTX: pip install "smalti[engines]"')
    options = [word for target in targets for word in ("--target", target)]
    parts = ["--component", "denoiser", "--component", "decoder"]
    assert engine("--runtime", "rtx", *options, *parts, "-o", tmp_path / "out", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    bundle = open_bundle()
    assert content["bundle_digest"] == bundle.digest
    assert [record["component"] for record in content["engines"]] == ["decoder", "denoiser"]
    for record in content["engines"]:
        plan = (tmp_path / "out" / record["engine"]["file"]).read_bytes()
        assert plan[:4] == b"vtrt"
        weights = bundle.path / f"{record['component']}.safetensors"
        assert weights.stat().st_size / 2 < len(plan) == record["engine"]["bytes"] < 4 * weights.stat().st_size
        assert record["engine"]["sha256"] == hashlib.sha256(plan).hexdigest()
        assert record["targets"] == targets
        assert record["version"] == trt.__version__


def test_tensorrt_rtx_builds_every_size_and_the_encoder_for_turing(sized_bundle, tmp_path, capsys):
    pytest.importorskip("tensorrt_rtx", reason='needs TensorRT-RTX: pip install "smalti[engines]"')
    parts = [word for name in ("encoder", "decoder_256") for word in ("--component", name)]
    assert engine(sized_bundle, "--target", "sm_75", *parts, "-o", tmp_path / "out", "--json") == 0
    records = {one["component"]: one for one in json.loads(capsys.readouterr().out)["engines"]}
    manifest = open_bundle(sized_bundle).manifest
    canvas = tile_of(64) + 2 * manifest.resolution(256).halo
    assert records["decoder_256"]["profiles"][1]["tokens"]["most"] == [1, canvas, canvas]
    seen = 16 * (tile_of(16) + 2 * manifest.latent.encoder_halo)
    assert records["encoder"]["profiles"][1]["images"]["most"] == [1, seen, seen, 3]


def test_tensorrt_rtx_is_not_asked_for_fp32_on_turing(tmp_path, capsys):
    pytest.importorskip("tensorrt_rtx", reason='needs TensorRT-RTX: pip install "smalti[engines]"')
    assert engine("--target", "sm_75", "--precision", "fp32", "-o", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "TensorRT-RTX has no fp32 matrix product for Turing" in error
    assert "--precision fp16" in error
    assert not (tmp_path / "out").exists()
