"""Where pictures and arrays of commands go and come from, labels by index, reports as JSON, and lists."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

import smalti
from smalti.cli import targets
from smalti.cli.main import _run
from smalti.cli.options import turns

KEYS = {"files", "bundle", "settings", "seconds", "provider"}
"""What every report has that is about pictures or arrays."""


@pytest.fixture
def picture(out: Path, gen: smalti.Generator) -> Path:
    """A picture of the tiny bundle."""
    gen.generate(seed=3).save(out / "p.png")
    return out / "p.png"


@pytest.fixture
def white(out: Path) -> Path:
    """A mask for it, whose right half is repainted."""
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 255
    Image.fromarray(mask).save(out / "m.png")
    return out / "m.png"


@pytest.fixture
def piped(tiny_bundle: Path) -> Any:
    """Run a command in a process of its own, with bytes on stdin; stdout stays bytes."""

    def piped(*arguments: object, send: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        line = [sys.executable, "-m", "smalti.cli", *map(str, arguments), "--bundle", str(tiny_bundle)]
        return subprocess.run(line, input=send, capture_output=True, timeout=120, check=False)

    return piped


def files(said: str) -> list[Path]:
    """The files that a report names."""
    return [Path(name) for name in json.loads(said)["files"]]


@pytest.mark.parametrize(
    ("verb", "more"),
    [
        ("inpaint", {"feather", "fit"}),
        ("outpaint", {"feather", "margins"}),
        ("vary", {"strength"}),
        ("generate", set()),
    ],
)
def test_cases_of_json_and_folders_on_all_that_draws(verb, more, run, out, picture, white) -> None:
    inputs = {"inpaint": [picture, white], "outpaint": [picture, "--right", 16], "vary": [picture]}.get(verb, [])
    code, said, error = run(verb, *inputs, "-o", f"{out}/new/", "--count", 2, "--seed", 7, "--steps", 2, "--json")
    assert (code, error) == (0, "")
    report = json.loads(said)
    assert set(report) >= KEYS | {"network_calls"}
    assert set(report["seconds"]) == {"network", "draw", "decoder", "host", "total"}
    assert report["settings"]["seeds"] == [7, 8]
    assert more <= set(report["settings"])
    assert report["provider"]["actual"] == "cpu"
    name = "tiny" if verb == "generate" else "p"
    assert files(said) == [out / "new" / f"{name}-7.png", out / "new" / f"{name}-8.png"]
    code, said, error = run(verb, *inputs, "-o", out / "sheet.webp", "--count", 2, "--seed", 7, "--steps", 2)
    assert (code, error) == (0, "")
    sheet = np.asarray(Image.open(out / "sheet.webp").convert("RGB"))
    for place, file in enumerate(sorted((out / "new").iterdir())):
        image = np.asarray(Image.open(file))
        left = place * (image.shape[1] + 4)
        assert np.array_equal(sheet[:, left : left + image.shape[1]], image)


def test_each_file_of_a_folder_is_replayed(run, out, picture, white) -> None:
    assert run("inpaint", picture, white, "-o", f"{out}/i/", "--count", 2, "--steps", 2)[0] == 0
    given = ["--image", picture, "--mask", white]
    code, _, error = run("generate", "-o", out / "again.png", "--replay", out / "i/p-1.png", *given)
    assert code == 0, error
    assert (out / "again.png").read_bytes() == (out / "i/p-1.png").read_bytes()
    code, _, error = run("generate", "-o", out / "b.png", "--replay", out / "i/p-1.png")
    assert code == 2
    assert "give the image that it began from" in error
    code, _, error = run("generate", "-o", out / "b.png", "--image", picture)
    assert code == 2
    assert "belong to --replay" in error


def test_cases_of_a_folder_that_is_continued(run, out, gen) -> None:
    line = ["generate", "-o", f"{out}/many/", "--steps", 2, "--json"]
    assert run(*line, "--count", 2)[0] == 0
    before = {file.name: file.stat().st_mtime_ns for file in (out / "many").iterdir()}
    code, said, _ = run(*line, "--count", 4)
    assert code == 0
    assert [json.loads(said)[name] for name in ("drawn", "skipped")] == [2, 2]
    assert {name: (out / "many" / name).stat().st_mtime_ns for name in before} == before
    for file, image in zip(files(said), gen.generate(4, steps=2).images, strict=True):
        assert np.array_equal(np.asarray(Image.open(file)), np.asarray(image))
    code, said, _ = run(*line, "--count", 4, "--overwrite")
    assert [json.loads(said)[name] for name in ("drawn", "skipped")] == [4, 0]


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_cases_of_a_picture_on_stdout(format, piped, gen) -> None:
    done = piped("generate", "-o", "-", "--format", format, "--seed", 5, "--steps", 2)
    assert done.returncode == 0, done.stderr
    image = Image.open(io.BytesIO(done.stdout))
    assert image.format == format.upper()
    if format != "jpeg":
        assert np.array_equal(np.asarray(image.convert("RGB")), np.asarray(gen.generate(seed=5, steps=2).images[0]))
    assert b"-: 1 image(s)" in done.stderr
    done = piped("generate", "-o", "-", "--format", format, "--seed", 5, "--steps", 2, "--json")
    assert Image.open(io.BytesIO(done.stdout)).format == format.upper()
    assert json.loads(done.stderr)["files"] == ["-"]


def test_cases_of_stdin(piped, picture, white, gen) -> None:
    done = piped("encode", "-", "-o", "-", send=picture.read_bytes())
    assert done.returncode == 0, done.stderr
    tokens = np.load(io.BytesIO(done.stdout))
    assert np.array_equal(tokens, gen.encode([Image.open(picture)]))
    done = piped("decode", "-", "-o", "-", send=done.stdout)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(done.stdout))), np.asarray(gen.decode(tokens)[0]))
    done = piped("inpaint", picture, "-", "-o", "-", "--steps", 2, send=white.read_bytes())
    assert Image.open(io.BytesIO(done.stdout)).size == (64, 64)
    for line, send, says in (
        (["inpaint", "-", "-", "-o", "-"], b"", b"stdin holds one file"),
        (["encode", "-", "-o", "-"], b"no picture", b"stdin cannot be read as an image"),
        (["decode", "-", "-o", "-"], b"no array", b"stdin is not a .npy of integers"),
        (["decode", "-", "-o", "-"], b"", b"-: stdin is empty"),
        (["encode", "-", "-o", "-"], b"", b"-: stdin is empty"),
    ):
        done = piped(*line, send=send)
        assert (done.returncode, done.stdout) == (2, b"")
        assert says in done.stderr


def test_cases_of_a_replay_from_stdin(piped, picture, run, tmp_path) -> None:
    done = piped("generate", "--replay", "-", "-o", "-", send=picture.read_bytes())
    assert done.returncode == 0, done.stderr
    again = np.asarray(Image.open(io.BytesIO(done.stdout)))
    assert np.array_equal(again, np.asarray(Image.open(picture)))
    for line, send, says in (
        (["--replay", "-"], b"", b"-: stdin is empty"),
        (["--replay", "-"], b"no picture", b"source stdin cannot be read as an image"),
        (["--replay", "-", "--image", "-"], b"", b"stdin holds one file"),
        (["--overwrite"], b"", b"--overwrite belongs to a FOLDER/"),
        (["--replay", picture, "--overwrite"], b"", b"--overwrite belongs to a FOLDER/"),
    ):
        done = piped("generate", *line, "-o", tmp_path / "a.png", send=send)
        assert (done.returncode, done.stdout) == (2, b"")
        assert says in done.stderr
    run("vary", picture, "-o", tmp_path / "v.png", "--steps", 2)
    assert "--image FILE" in run("generate", "--replay", tmp_path / "v.png", "-o", tmp_path / "w.png")[2]


def test_bytes_are_not_sent_to_a_terminal(run, picture, monkeypatch) -> None:
    monkeypatch.setattr(targets.sys.stdout, "isatty", lambda: True, raising=False)
    for line in (["generate"], ["vary", picture], ["encode", picture], ["embed", picture]):
        code, said, error = run(*line, "-o", "-")
        assert (code, said) == (2, "")
        assert "no text for a terminal" in error


def test_cases_of_json_on_encode_decode_and_embed(run, out, picture, gen) -> None:
    code, said, _ = run("encode", picture, "-o", out / "t.npy", "--json")
    assert code == 0
    report = json.loads(said)
    assert set(report) == KEYS | {"tokens"}
    assert report["tokens"] == {"shape": [1, 4, 4], "dtype": "int32"}
    assert report["seconds"]["total"] > 0
    code, said, _ = run("decode", out / "t.npy", "-o", f"{out}/d/", "--json", "--format", "jpeg", "--quality", 80)
    assert code == 0
    assert set(json.loads(said)) == KEYS | {"images"}
    assert files(said) == [out / "d/t-0.jpg"]
    assert Image.open(out / "d/t-0.jpg").size == (64, 64)
    code, said, _ = run("embed", picture, "-o", out / "e.npy", "--json")
    assert code == 0
    assert json.loads(said)["features"]["shape"] == [1, gen.embed([Image.open(picture)]).shape[1]]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-o", "a.bmp"], "name a file that ends in .png, .jpg, .jpeg or .webp"),
        (["-o", "a.png", "--format", "jpeg"], "ends as png does"),
        (["-o", "a.png", "--format", "gif"], "allowed are png, jpeg, webp"),
        (["-o", "a.png", "--quality", "80"], "a PNG keeps every pixel"),
        (["-o", "a.jpg", "--quality", "0"], "quality 0: allowed are 1 .. 100"),
        (["-o", "new/", "--format", "gif"], "allowed are png, jpeg, webp"),
        (["-o", "-", "--format", "gif"], "allowed are png, jpeg, webp"),
        (["-o", "a.png", "--columns", "0"], "columns 0: at least 1"),
        (["-o", "new/", "--columns", "2"], "columns 2: a sheet has them"),
        (["-o", "a.png", "--label", "99"], "label 99: this bundle knows lorelei"),
        (["-o", "a.png", "--label", "0", "--label", "1"], "2 labels for 1 image, and each image has one"),
        (["-o", "a.png", "--count", "2", *["--label", "0"] * 3], "3 labels for 2 images"),
    ],
)
@pytest.mark.parametrize("verb", ["generate", "inpaint", "vary", "outpaint"])
def test_cases_of_outputs_and_labels_that_are_refused(
    verb, options, says, run, out, picture, white, monkeypatch
) -> None:
    monkeypatch.chdir(out)
    before = sorted(out.rglob("*"))
    inputs = {"inpaint": [picture, white], "outpaint": [picture, "--top", 16], "vary": [picture]}.get(verb, [])
    code, said, error = run(verb, *inputs, *options)
    assert (code, said) == (2, "")
    assert says in error
    assert sorted(out.rglob("*")) == before


@pytest.mark.parametrize("verb", ["generate", "inpaint", "vary"])
def test_cases_of_labels_by_index_that_take_turns(verb, run, out, picture, white) -> None:
    inputs = {"inpaint": [picture, white], "vary": [picture]}.get(verb, [])
    labels = ["--label", "6", "--label", "critters"]
    code, said, error = run(verb, *inputs, "-o", out / "a.png", "--count", 3, "--steps", 2, *labels, "--json")
    assert code == 0, error
    assert json.loads(said)["settings"]["labels"] == ["planets", "critters", "planets"]


def test_a_label_that_is_called_by_a_number_is_that_one(tiny_bundle) -> None:
    manifest = smalti.open_bundle(tiny_bundle).manifest
    manifest = msgspec.structs.replace(manifest, classes=("6", *manifest.classes[1:]))
    assert turns(["6", "7", "critters"], 5, manifest) == ["6", 7, "critters", "6", 7]
    assert turns(["-1", "٣", "1.0"], 3, manifest) == ["-1", "٣", "1.0"]  # no indices: refused as unknown names
    assert turns([], 2, manifest) is None


def test_cases_of_labels_listed_without_loading(python, tiny_bundle) -> None:
    code = "from smalti.cli.main import _run\nraise SystemExit(_run(sys.argv[1:]))"
    done = python(code, "labels", tiny_bundle, blocked=("onnxruntime",))
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    names = smalti.open_bundle(tiny_bundle).manifest.classes
    assert lines == [[str(index), name] for index, name in enumerate(names)]
    done = python(code, "labels", tiny_bundle, "--json", blocked=("onnxruntime",))
    assert json.loads(done.stdout)["labels"] == list(names)
    again = python(code, "labels", "--bundle", tiny_bundle, "--json", blocked=("onnxruntime",))
    assert again.stdout == done.stdout
    assert python(code, "labels", tiny_bundle, "--bundle", "avatars").returncode == 2


def test_cases_of_bundles_listed(tiny_bundle, tmp_path, capsys) -> None:
    assert _run(["bundles"]) == 0
    assert capsys.readouterr().out.startswith("avatars ")
    folder = tmp_path / "some"
    (folder / "broken").mkdir(parents=True)
    (folder / "broken/manifest.json").write_text("{", encoding="utf-8")
    (folder / "other").mkdir()
    assert _run(["bundles", str(folder), str(tiny_bundle), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["bundles"]
    assert [one.get("name") for one in found] == ["avatars", None, "tiny"]
    assert [one["embedded"] for one in found] == [True, False, False]
    assert "problem" in found[1]
    assert found[2]["bytes"] == sum(file.bytes for file in smalti.open_bundle(tiny_bundle).manifest.files())
    assert _run(["bundles", str(folder)]) == 0
    assert "! " in capsys.readouterr().out
    assert _run(["bundles", str(tmp_path / "none")]) == 2
    capsys.readouterr()
    assert _run(["bundles", str(folder / "other")]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("avatars ")
    assert told.err == f"folder {folder / 'other'}: there are no bundles in it\n"


def test_cases_of_a_bar_on_a_terminal_alone(run, out, monkeypatch) -> None:
    line = ["generate", "-o", f"{out}/bar/", "--count", 2, "--steps", 1]
    assert run(*line)[2] == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    code, said, error = run(*line, "--overwrite")
    assert code == 0
    assert "images" in error
    assert "image(s)" in said


def test_cases_of_verify_say_what_they_measure(tmp_path, monkeypatch, capsys) -> None:
    from smalti.backends.onnxruntime_cpu import OnnxRuntimeCpu
    from smalti.bundle.reader import embedded_bundles, open_bundle
    from smalti.cli import bundle as verb
    from smalti.verification.remeasure import remeasure

    said: list[str] = []

    class Stop(Exception):
        pass

    def say(line: str) -> None:
        said.append(line)
        if len(said) > 3:
            raise Stop

    with pytest.raises(Stop):
        remeasure(open_bundle(embedded_bundles()["avatars"]), OnnxRuntimeCpu(1), say)
    component, precision = said[0].split()
    assert said[1].startswith(f"{component} {precision}: golden case 1 of ")
    assert len(said) > 3
    times = iter([0.0, 1.0, 5.0, 5.0, 6.0])
    monkeypatch.setattr(verb.time, "monotonic", lambda: next(times))
    say_rarely = verb._measuring()
    for line in ("a", "b", "c"):
        say_rarely(line)
    assert capsys.readouterr().err == "b\n"
