"""A zip of a bundle and its engines, made by one command; in a fresh environment, and with Polygraphy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from functools import partial
from pathlib import Path

import pytest

from helpers.fake_tensorrt import FakeTensorRT
from helpers.fixed_profiles import FixedProfiles
from helpers.golden_bundle import plain_bundle
from helpers.house import HOUSE
from smalti import BundleError, EngineError, OutputError, UsageError, open_bundle
from smalti.bundle.engine_folder import KeptEngine, engine_cache, engines_of, read_folder
from smalti.bundle.reader import Bundle
from smalti.cli.main import _run
from smalti.verification.verify import verify
from smalti_export.engines import job
from smalti_export.engines.build import Progress, build_engines
from smalti_export.engines.shipping import build_zip
from smalti_export.engines.toolkit import PORTABLE, PortableToolkit, open_toolkit
from smalti_kernels import KernelError
from smalti_kernels.impl.cuda.driver import driver


@pytest.fixture
def bundle(tmp_path, monkeypatch) -> Bundle:
    monkeypatch.setattr(job, "make_profiles", FixedProfiles())
    monkeypatch.setenv("SMALTI_CACHE_DIR", str(tmp_path / "cache"))
    return open_bundle(plain_bundle(tmp_path / "bundle"))


@pytest.fixture
def out(tmp_path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def tools(**options) -> PortableToolkit:
    return PortableToolkit(["sm_86"], FakeTensorRT(portable=True, **options))


def own(bundle: Bundle) -> list[KeptEngine]:
    """The engines that a bundle carries."""
    return [one for one in engines_of(bundle)[0] if one.root == bundle.path]


def ship(bundle: Bundle, output: Path, toolkit: PortableToolkit | None = None, **options):
    return build_zip(bundle, toolkit or tools(), output, precision="fp32", **options)


def test_the_zip_is_the_bundle_with_its_engines_stored_and_in_order(bundle, out):
    (bundle.path / "notes.txt").write_text("not of the bundle")
    engines = ship(bundle, out / "shipped.zip")
    assert os.listdir(out) == ["shipped.zip"]
    shipped = open_bundle(out / "shipped.zip")
    found = verify(shipped)
    assert (found.engines, found.problems, found.undeclared) == (3, (), ())
    assert shipped.digest == bundle.digest
    kept = own(shipped)
    assert [one.record for one in kept] == list(engines.engines)
    assert all(one.read().startswith(b"vtrt") for one in kept)
    with zipfile.ZipFile(out / "shipped.zip") as archive:
        infos = archive.infolist()
    declared = sorted(record.file for record in bundle.manifest.files())
    files = sorted(f"engines/{record.engine.file}" for record in engines.engines)
    assert [info.filename for info in infos] == ["manifest.json", *declared, "engines/engines.json", *files]
    assert {info.compress_type for info in infos} == {zipfile.ZIP_STORED}
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}


def test_equal_engines_give_equal_zips(bundle, out):
    build_engines(bundle, tools(), precision="fp32")  # into the cache, from where both take them
    said = list[str]()
    ship(bundle, out / "a.zip", say=said.append)
    ship(bundle, out / "b.zip")
    assert (out / "a.zip").read_bytes() == (out / "b.zip").read_bytes()
    assert len(said) == 3
    assert all(": is there already: " in line for line in said)


def test_a_bundle_that_carries_engines_keeps_them(bundle, out):
    ship(bundle, out / "a.zip", components=["decoder"])
    again = ship(open_bundle(out / "a.zip"), out / "a.zip", components=["denoiser"])
    assert [one.component for one in again.engines] == ["decoder", "denoiser"]
    assert len(own(open_bundle(out / "a.zip"))) == 2
    folder = bundle.path / "engines"
    record = build_engines(bundle, tools(), folder, precision="fp32", components=["encoder"]).engines[0]
    (folder / record.engine.file).write_bytes(b"damaged")
    said = list[str]()
    ship(bundle, out / "b.zip", components=["decoder"], say=said.append)
    assert any("is damaged" in line and "left out" in line for line in said)
    assert [one.record.component for one in own(open_bundle(out / "b.zip"))] == ["decoder"]


def test_what_fails_writes_no_zip_and_leaves_the_old_one(bundle, out):
    with pytest.raises(EngineError, match=r"could not build decoder fp32: .*a\.zip was not written: .*--component"):
        ship(bundle, out / "a.zip", tools(fail="build:decoder"))
    assert os.listdir(out) == []
    ship(bundle, out / "a.zip", components=["encoder"])
    before = (out / "a.zip").read_bytes()
    steps = list[object]()
    with pytest.raises(EngineError, match="cancelled"):
        ship(bundle, out / "a.zip", tools(pause=0.01), force=True, progress=steps.append, go_on=lambda: len(steps) < 5)
    (bundle.path / bundle.manifest.files()[-1].file).write_bytes(b"damaged")
    with pytest.raises(BundleError, match="is damaged"):
        ship(bundle, out / "a.zip", components=["denoiser"])
    assert [(path.name, path.read_bytes()) for path in out.iterdir()] == [("a.zip", before)]
    (out / "folder.zip").mkdir()
    with pytest.raises(OutputError, match="it is a folder"):
        ship(bundle, out / "folder.zip")


def test_a_file_that_is_no_bundle_is_replaced_by_force_alone(bundle, out, monkeypatch, capsys):
    for content in (b"", b"notes", (bundle.path / "manifest.json").read_bytes()):
        (out / "notes.zip").write_bytes(content)
        with pytest.raises(UsageError, match=r"notes\.zip is there, and is no bundle of smalti.*--force"):
            ship(bundle, out / "notes.zip")
        assert (out / "notes.zip").read_bytes() == content
        assert not engine_cache(bundle).exists()  # it is told before the work
    ship(bundle, out / "notes.zip", force=True)
    ship(bundle, out / "notes.zip")  # a bundle may be replaced by the next one
    assert len(own(open_bundle(out / "notes.zip"))) == 3


def test_a_zip_of_another_bundle_is_replaced_by_force_alone(bundle, out, tmp_path):
    path = plain_bundle(tmp_path / "other")
    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    (path / "manifest.json").write_text(json.dumps(manifest | {"name": "other"}), "utf-8")
    other = open_bundle(path)
    ship(other, out / "a.zip")
    before = (out / "a.zip").read_bytes()
    says = rf"a\.zip is there, and is bundle {other.manifest.name}, and not {bundle.manifest.name}"
    with pytest.raises(UsageError, match=says):
        ship(bundle, out / "a.zip")
    assert (out / "a.zip").read_bytes() == before
    ship(bundle, out / "a.zip", force=True)
    assert open_bundle(out / "a.zip").digest == bundle.digest


def test_a_zip_that_is_replaced_leaves_its_engines_to_the_next_one_of_the_same_bundle(bundle, out, tmp_path):
    ship(bundle, out / "a.zip", components=["denoiser"])
    ship(
        bundle,
        out / "a.zip",
        PortableToolkit(["sm_120"], FakeTensorRT(portable=True)),
        components=["decoder", "encoder"],
    )
    there = {one.record.component: one.record for one in own(open_bundle(out / "a.zip"))}
    assert there.keys() == {"encoder", "denoiser", "decoder"}
    assert (there["denoiser"].targets, there["decoder"].targets) == (("sm_86",), ("sm_120",))
    assert verify(open_bundle(out / "a.zip")).problems == ()
    # An older engine does not come along beside the one that the bundle carries itself.
    build_engines(bundle, tools(), bundle.path / "engines", precision="fp32", components=["denoiser"])
    older = PortableToolkit(["sm_86"], FakeTensorRT("9.0", portable=True))
    (out / "b.zip").unlink(missing_ok=True)
    ship(open_bundle(out / "a.zip"), out / "b.zip", older, components=["denoiser"])
    ship(open_bundle(bundle.path), out / "b.zip", components=["denoiser"])
    versions = {one.record.version for one in own(open_bundle(out / "b.zip")) if one.record.component == "denoiser"}
    assert versions == {"10.13.0"}
    # The same bundle after another export: its engines fit no more.
    manifest = bundle.path / "manifest.json"
    manifest.write_text(manifest.read_text("utf-8").replace('"licence"', ' "licence"', 1), "utf-8")
    again = open_bundle(bundle.path)
    assert again.digest != bundle.digest
    ship(again, out / "a.zip", components=["decoder"])
    assert [one.record.component for one in own(open_bundle(out / "a.zip"))] == ["decoder"]


def test_an_interrupted_zip_keeps_the_engines_that_were_finished(bundle, out):
    def progress(step: Progress) -> None:
        if step.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ship(bundle, out / "a.zip", progress=progress)
    assert os.listdir(out) == []
    listed = read_folder(engine_cache(bundle))
    assert listed is not None
    assert len(listed.engines) == 1
    said = list[str]()
    ship(bundle, out / "a.zip", say=said.append)
    assert sum("is there already" in line for line in said) == 1
    assert sum("building for" in line for line in said) == 2


@pytest.fixture
def no_cache(tmp_path, monkeypatch) -> Path:
    """A cache in which nothing can be written, whoever asks: a file stands there."""
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SMALTI_CACHE_DIR", str(tmp_path / "file"))
    return tmp_path / "file"


def test_without_a_cache_a_zip_is_built_all_the_same_and_that_is_said(bundle, out, no_cache):
    said = list[str]()
    ship(bundle, out / "a.zip", say=said.append)
    assert any("an interrupt loses all of them. Set SMALTI_CACHE_DIR" in line for line in said)
    assert len(own(open_bundle(out / "a.zip"))) == 3
    assert {path.name for path in out.iterdir() if path.suffix != ".lock"} == {"a.zip"}
    said.clear()
    ship(open_bundle(out / "a.zip"), out / "b.zip", say=said.append)  # nothing is to be built
    assert said == []
    with pytest.raises(OutputError, match=r"Set SMALTI_CACHE_DIR to a folder that can be written"):
        build_engines(bundle, tools(), precision="fp32")


def test_recipients_are_told_the_version_that_they_need(out, monkeypatch, capsys):
    pytest.importorskip("tensorrt_rtx", reason='needs TensorRT-RTX: pip install "smalti[engines]"')
    monkeypatch.setenv("SMALTI_CACHE_DIR", str(out / "cache"))
    assert _run(["engine", "build", "avatars", "-o", str(out / "a.zip"), "--component", "preview"]) == 0
    version = open_toolkit("rtx", []).version
    line = f'pip install "smalti[cli,rtx]" tensorrt-rtx=={version}'
    assert f"who gets it needs: {line}" in capsys.readouterr().out
    for command in (["bundle", "inspect"], ["engine", "list"]):
        assert _run([*command, str(out / "a.zip")]) == 0
        assert line in capsys.readouterr().out


def test_the_command_says_how_large_the_zip_is(out, monkeypatch, capsys):
    pytest.importorskip("tensorrt_rtx", reason='needs TensorRT-RTX: pip install "smalti[engines]"')
    monkeypatch.setenv("SMALTI_CACHE_DIR", str(out / "cache"))
    line = ["engine", "build", "avatars", "-o", str(out / "avatars.zip"), "--component", "preview"]
    assert _run(line) == 0
    said = capsys.readouterr().out.splitlines()
    size = (out / "avatars.zip").stat().st_size
    assert said[-2].startswith(f"{out / 'avatars.zip'}: {size / 1e6:.1f} MB: bundle avatars (")
    assert "and 1 engine (" in said[-2]
    assert said[0].startswith(f"{out / 'avatars.zip' / 'engines'}")
    assert _run([*line, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["path"], content["bytes"]) == (str(out / "avatars.zip"), (out / "avatars.zip").stat().st_size)


def ran(*line: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    words = [str(word) for word in line]
    return subprocess.run(
        words, cwd=cwd, env=kept | environment, capture_output=True, text=True, timeout=900, check=False
    )


def done(*line: object, cwd: Path, **environment: str) -> str:
    """What a command says; it must succeed."""
    run = ran(*line, cwd=cwd, **environment)
    assert run.returncode == 0, f"{line}: {run.stdout}{run.stderr}"
    return run.stdout


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> Path:
    """A folder with ``avatars.zip``, the embedded bundle with its engines, made by one command."""
    pytest.importorskip("tensorrt_rtx", reason='needs TensorRT-RTX: pip install "smalti[engines]"')
    folder = tmp_path_factory.mktemp("shipped")
    line = [sys.executable, "-m", "smalti.cli", "engine", "build", "avatars", "-o", "avatars.zip"]
    print(done(*line, cwd=folder, SMALTI_CACHE_DIR=str(folder / "cache")))
    return folder


@pytest.mark.slow
def test_a_shipped_zip_works_in_a_fresh_environment_without_torch_and_onnx(shipped, tmp_path):
    venv.create(tmp_path / "fresh", with_pip=True)
    programs = tmp_path / "fresh" / ("Scripts" if sys.platform == "win32" else "bin")
    done(programs / "python", "-m", "pip", "install", "-q", f"{HOUSE}[cpu,cli]", cwd=tmp_path)
    for name in ("torch", "onnx", "tensorrt_rtx"):
        run = ran(programs / "python", "-c", f"import {name}", cwd=tmp_path)
        assert f"No module named '{name}'" in run.stderr
    smalti = partial(done, programs / "smalti", cwd=shipped, SMALTI_CACHE_DIR=str(tmp_path / "cache"))
    components = list(open_bundle("avatars").manifest.components)
    assert f"{len(components)} engines belong to it" in smalti("bundle", "verify", "avatars.zip")
    listed = json.loads(smalti("engine", "list", "avatars.zip", "--json"))["engines"]
    assert [one["component"] for one in listed] == components
    assert {(one["state"], *one["targets"]) for one in listed} == {("not installed", *PORTABLE)}
    explain = ["engine", "explain", "avatars.zip", "--for", "sm_86"]
    outcomes = json.loads(smalti(*explain, "--json"))["outcomes"]
    runs = [one for one in outcomes if (one["runtime"], one["precision"]) == ("rtx", "fp16")]
    assert [one["component"] for one in runs] == components
    assert all(one["engine"].startswith(str(Path("avatars.zip", "engines"))) for one in runs)
    print(smalti(*explain))
    print(smalti("generate", "--bundle", "avatars.zip", "--seed", 7, "-o", tmp_path / "a.png"))
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.slow
def test_polygraphy_compares_inspects_and_runs_what_is_in_a_shipped_zip(shipped, tmp_path):
    line = [sys.executable, "-m", "smalti.cli", "bundle", "verify", shipped / "avatars.zip"]
    report = json.loads(done(*line, "--polygraphy", "compare", "--json", cwd=tmp_path))
    (command,) = [words for words in map(str.split, report["polygraphy"]) if words[2] == "denoiser.fp16.onnx"]
    assert command[:2] == ["polygraphy", "run"]
    polygraphy = partial(done, Path(sys.executable).with_name("polygraphy"), cwd=tmp_path / "compare")
    said = polygraphy(*command[1:])
    assert "PASSED | Output: 'logits'" in said
    assert "Passed: 2/2 iterations" in said
    assert "tokens [dtype=int32, shape=('n', 256)]" in polygraphy("inspect", "model", "denoiser.fp16.onnx")
    rtx = {"POLYGRAPHY_USE_TENSORRT_RTX": "1"}
    said = polygraphy("inspect", "capability", "denoiser.fp16.onnx", **rtx)
    assert "Graph is fully supported by TensorRT" in said
    with zipfile.ZipFile(shipped / "avatars.zip") as archive:
        (engine,) = [name for name in archive.namelist() if name.startswith("engines/denoiser.fp16.")]
        archive.extract(engine, tmp_path)
    inspect = ["inspect", "model", tmp_path / engine, "--model-type", "engine"]
    run = ran(Path(sys.executable).with_name("polygraphy"), *inspect, cwd=tmp_path, **rtx)
    print(run.stdout, run.stderr)
    try:
        driver()
    except KernelError:  # TensorRT-RTX reads no engine without a driver, and then Polygraphy cannot either
        assert run.returncode == 1
        assert "CUDA driver version is insufficient" in run.stdout + run.stderr
    else:
        assert "tokens [dtype=int32" in run.stdout
