"""Engines: TensorRT-RTX builds the embedded bundle's engines, and no interrupt leaves a folder half-written."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.fake_tensorrt import FakeTensorRT
from helpers.golden_bundle import plain_bundle
from smalti import BundleError, EngineError, UsageError, open_bundle
from smalti.bundle import engines as engine_records
from smalti.bundle.engines import Profile
from smalti.bundle.manifest import Component, Role
from smalti.cli.main import _run
from smalti.codec.tiles import tile_of
from smalti.verification.verify import verify
from smalti_export.engines import build as building
from smalti_export.engines.build import build_engines, write_engines
from smalti_export.engines.toolkit import PORTABLE, PortableToolkit


class FixedProfiles:
    """Build with arbitrary profiles: the table bundle's codec has sides that no profile covers."""

    def __call__(self, role: Role, component: Component, *sizes: object) -> tuple[dict[str, Profile], ...]:
        return ({spec.name: Profile(least=(1,), best=(1,), most=(1,)) for spec in component.inputs},)


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "make_profiles", FixedProfiles())
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


def test_building_again_replaces_what_is_built_and_keeps_the_rest(bundle, tmp_path):
    first = build(bundle, tmp_path / "out")
    second = build(bundle, tmp_path / "out", tools(["sm_89"]), components=["denoiser"])
    kept = [record for record in first.engines if record.component != "denoiser"]
    assert list(second.engines[:-1]) == kept
    assert second.engines[-1].targets == ("sm_89",)
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
    assert "rtx 10.13.0 on sm_86" in capsys.readouterr().out
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
    for broken, says in (("{", "cannot be read"), (json.dumps(listed | {"schema_version": 2}), "Update smalti")):
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
        build(bundle, tmp_path / "out", tools(fail=fail))
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


KILL = """
import os, shutil, signal, sys
from pathlib import Path
import smalti.bundle.engines as records
from smalti_export.engines import build

old, new = Path(sys.argv[1]), records.decode((Path(sys.argv[2]) / "engines.json").read_bytes(), "new")
plans = {record.engine.file: b"vtrt new" for record in new.engines}

def write_and_die(folder, moment):
    left = moment

    def step(event, arguments):
        # Before each step that changes a file or a folder.
        nonlocal left
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in ("os.rename", "os.remove"):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(step)
    build.write_engines(folder, new, plans)
    os._exit(0)

for moment in range(40):
    folder = Path(shutil.copytree(old, old.parent / f"killed-{moment:02}"))
    child = os.fork()
    if not child:
        write_and_die(folder, moment)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


@pytest.mark.skipif(sys.platform == "win32", reason="fork and SIGKILL are POSIX")
def test_killed_at_any_moment_the_list_and_its_files_are_the_old_ones_or_the_new(bundle, tmp_path):
    build(bundle, tmp_path / "old", components=["denoiser", "decoder"])
    new = build(bundle, tmp_path / "new", tools(["sm_120"]), components=["denoiser", "decoder"])
    subprocess.run([sys.executable, "-c", KILL, tmp_path / "old", tmp_path / "new"], check=True, timeout=100)
    before = contents(tmp_path / "old")
    states: list[str] = []
    killed = sorted(tmp_path.glob("killed-*"))
    for folder in killed:
        found = contents(folder)
        listed = engine_records.decode(found["engines.json"], "killed")
        assert all(record.engine.file in found for record in listed.engines)
        states.append("new" if listed == new else "old")
        assert listed == new or before.items() <= found.items()
    assert 8 < len(killed) < 40
    assert states == sorted(states, reverse=True)
    assert {"old", "new"} == set(states)
    # The last process ran to its end.
    assert set(contents(killed[-1])) == {"engines.json", *(record.engine.file for record in new.engines)}


def test_writing_that_fails_keeps_the_old_list(bundle, tmp_path, monkeypatch):
    engines = build(bundle, tmp_path / "out")
    before = contents(tmp_path / "out")
    monkeypatch.setattr(building.engine_records, "encode", lambda engines: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_engines(tmp_path / "out", engines, {"extra.rtx": b"x"})
    assert {name: (tmp_path / "out" / name).read_bytes() for name in before} == before


def engine(*arguments: object) -> int:
    return _run(["engine", "build", *map(str, arguments)])


@pytest.mark.parametrize("targets", [["sm_75"], list(PORTABLE)], ids=["sm_75", "portable"])
def test_tensorrt_rtx_builds_the_embedded_bundle_for_gpus_that_are_not_there(targets, tmp_path, capsys):
    trt = pytest.importorskip("tensorrt_rtx", reason='needs TensorRT-RTX: pip install "smalti[rtx]"')
    options = [word for target in targets for word in ("--target", target)]
    parts = ["--component", "denoiser", "--component", "decoder"]
    assert engine("--runtime", "rtx", *options, *parts, "-o", tmp_path / "out", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    bundle = open_bundle()
    assert content["bundle_digest"] == bundle.digest
    assert [record["component"] for record in content["engines"]] == ["denoiser", "decoder"]
    for record in content["engines"]:
        plan = (tmp_path / "out" / record["engine"]["file"]).read_bytes()
        assert plan[:4] == b"vtrt"
        weights = bundle.path / f"{record['component']}.safetensors"
        assert weights.stat().st_size / 2 < len(plan) == record["engine"]["bytes"] < 4 * weights.stat().st_size
        assert record["engine"]["sha256"] == hashlib.sha256(plan).hexdigest()
        assert record["targets"] == targets
        assert record["version"] == trt.__version__


def test_tensorrt_rtx_builds_every_size_and_the_encoder_for_turing(sized_bundle, tmp_path, capsys):
    pytest.importorskip("tensorrt_rtx", reason='needs TensorRT-RTX: pip install "smalti[rtx]"')
    parts = [word for name in ("encoder", "decoder_256") for word in ("--component", name)]
    assert engine(sized_bundle, "--target", "sm_75", *parts, "-o", tmp_path / "out", "--json") == 0
    records = {one["component"]: one for one in json.loads(capsys.readouterr().out)["engines"]}
    manifest = open_bundle(sized_bundle).manifest
    canvas = tile_of(64) + 2 * manifest.resolution(256).halo
    assert records["decoder_256"]["profiles"][1]["tokens"]["most"] == [1, canvas, canvas]
    seen = 16 * (tile_of(16) + 2 * manifest.latent.encoder_halo)
    assert records["encoder"]["profiles"][1]["images"]["most"] == [1, seen, seen, 3]


def test_tensorrt_rtx_is_not_asked_for_fp32_on_turing(tmp_path, capsys):
    pytest.importorskip("tensorrt_rtx", reason='needs TensorRT-RTX: pip install "smalti[rtx]"')
    assert engine("--target", "sm_75", "--precision", "fp32", "-o", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "TensorRT-RTX has no fp32 matrix product for Turing" in error
    assert "--precision fp16" in error
    assert not (tmp_path / "out").exists()
