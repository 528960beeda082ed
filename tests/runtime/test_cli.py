"""The command line: what it writes, what it prints, and replays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import smalti
from smalti.cli.main import _run
from smalti.saving.recipe import read_recipe


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden and partial files as well."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*"))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_one_image_becomes_a_png_with_the_pixels_of_generate(run, out, gen):
    code, said, _ = run("generate", "-o", out / "a.png", "--seed", 5, "--label", "critters")
    assert code == 0
    assert names(out) == ["a.png"]
    assert np.array_equal(pixels(out / "a.png"), gen.generate(seed=5, label="critters").images[0])
    assert "a.png: 1 image(s)" in said
    assert "s per megapixel" in said


def test_several_images_become_a_sheet(run, out, gen):
    code, *_ = run("generate", "-o", out / "a.png", "--count", 5, "--columns", 3)
    assert code == 0
    sheet, images = pixels(out / "a.png"), gen.generate(5).images
    assert sheet.shape == (64 * 2 + 4, 64 * 3 + 8, 3)
    assert np.array_equal(sheet[68:, 68:132], images[4])


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_takes_one_file_per_seed(there, run, out, gen):
    target = f"{out}/" if there else f"{out}/new/deep/"
    code, said, _ = run("generate", "-o", target, "--count", 3, "--seed", 8, "--json")
    assert code == 0
    files = [Path(file) for file in json.loads(said)["files"]]
    assert [file.name for file in files] == [f"{gen.manifest.name}-{seed}.png" for seed in (8, 9, 10)]
    for file, image in zip(files, gen.generate(3, 8).images):
        assert np.array_equal(pixels(file), image)


def test_labels_take_turns(run, out):
    code, said, _ = run(
        "generate", "-o", out / "a.png", "--count", 3, "--label", "planets", "--label", "critters", "--json"
    )
    assert code == 0
    assert json.loads(said)["settings"]["labels"] == ["planets", "critters", "planets"]


def test_json_alone_is_on_stdout_and_says_what_was_done(command, tiny_bundle, out):
    done = command("generate", "-o", out / "a.png", "--bundle", tiny_bundle, "--steps", 3, "--json", "--threads", 1)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["files"] == [str(out / "a.png")]
    assert report["network_calls"] == report["settings"]["steps"] == 3
    assert set(report["seconds"]) == {"network", "draw", "decoder", "host", "total"}
    assert report["provider"]["actual"] == "cpu"
    assert report["provider"]["threads"] == 1


@pytest.mark.parametrize("precision", ["auto", "fp32", "fp16"])
def test_a_replay_is_the_same_picture(precision, run, out):
    options = ["--count", 3, "--seed", 2**64 - 3, "--steps", 5, "--temperature", 0.8, "--guidance", 2]
    code, *_ = run("generate", "-o", out / "a.png", *options, "--columns", 2, "--precision", precision)
    assert code == 0
    code, *_ = run("generate", "-o", out / "b.png", "--replay", out / "a.png")
    assert code == 0
    assert np.array_equal(pixels(out / "a.png"), pixels(out / "b.png"))
    assert read_recipe(out / "a.png") == read_recipe(out / "b.png")


@pytest.mark.parametrize(
    "options",
    [
        ["--size", "128x80", "--stride", 3, "--order", "halton", "--schedule", "cosine"],
        ["--order", "confidence", "--choice-temperature", 2.5, "--top-k", 30],
        ["--remask", 0.7, "--top-p", 0.8],
        ["--remask", "mlm", "--schedule", "binomial"],
    ],
)
@pytest.mark.parametrize("target", ["a.png", "a/"])
def test_a_replay_knows_every_way_to_draw(target, options, run, out):
    code, said, error = run("generate", "-o", f"{out}/{target}", "--count", 2, "--steps", 5, "--json", *options)
    assert code == 0, error
    first = Path(json.loads(said)["files"][-1])
    code, _, error = run("generate", "-o", out / "b.png", "--replay", first)
    assert code == 0, error
    assert np.array_equal(pixels(first), pixels(out / "b.png"))
    code, said, _ = run("generate", "-o", out / "c.png", "--count", 2, "--steps", 5, "--json")
    plain = pixels(out / "c.png")
    assert plain.shape != pixels(first).shape or not np.array_equal(plain, pixels(first))


def test_a_size_is_that_of_the_picture(run, out, gen):
    code, said, _ = run("generate", "-o", out / "a.png", "--size", "128X32", "--steps", 3, "--json")
    assert code == 0
    assert json.loads(said)["settings"]["size"] == [128, 32]
    assert np.array_equal(pixels(out / "a.png"), gen.generate(size=(128, 32), steps=3).images[0])


def test_a_recipe_of_an_older_version_is_still_understood(run, out, gen):
    code, *_ = run("generate", "-o", out / "a.png", "--seed", 4)
    assert code == 0
    with Image.open(out / "a.png") as image:
        recipe = json.loads(image.info["smalti"])
        for name in ("top_k", "top_p", "choice_temperature", "remask", "size", "stride"):
            del recipe[name]
        info = PngImagePlugin.PngInfo()
        info.add_text("smalti", json.dumps(recipe))
        image.save(out / "old.png", pnginfo=info)
    code, _, error = run("generate", "-o", out / "b.png", "--replay", out / "old.png")
    assert code == 0, error
    assert np.array_equal(pixels(out / "a.png"), pixels(out / "b.png"))


def test_a_replay_by_another_bundle_is_refused(run, out, copied, edit):
    assert run("generate", "-o", out / "a.png")[0] == 0
    edit(copied, lambda content: content["sampler"].update(steps=3))
    code, _, error = run("generate", "-o", out / "b.png", "--replay", out / "a.png", "--bundle", copied)
    assert code == 3
    assert "made with another version of bundle tiny" in error
    assert names(out) == ["a.png"]


def test_a_replay_whose_bundle_is_not_embedded_asks_for_it(run, out, capsys):
    assert run("generate", "-o", out / "a.png")[0] == 0
    assert _run(["generate", "-o", str(out / "b.png"), "--replay", str(out / "a.png")]) == 3
    assert "made with bundle tiny, which is not embedded; name it" in capsys.readouterr().err


def test_a_replay_takes_no_other_settings(run, out):
    assert run("generate", "-o", out / "a.png")[0] == 0
    given = {"--count": 2, "--seed": 0, "--label": "critters", "--steps": 2, "--temperature": 1, "--guidance": 1}
    given |= {"--schedule": "exact", "--columns": 4, "--precision": "auto", "--order": "halton", "--size": "64x64"}
    given |= {"--stride": 2, "--remask": 0, "--top-k": 0, "--top-p": 1, "--choice-temperature": 0}
    for name, value in given.items():
        code, _, error = run("generate", "-o", out / "b.png", "--replay", out / "a.png", name, value)
        assert code == 2
        assert f"--replay takes everything from the file; leave out {name}" in error
    assert names(out) == ["a.png"]


def test_a_replay_of_a_picture_that_smalti_did_not_make_is_refused(run, out):
    Image.new("RGB", (8, 8)).save(out / "a.png")
    code, _, error = run("generate", "-o", out / "b.png", "--replay", out / "a.png")
    assert code == 2
    assert "does not say how it was made" in error
    assert names(out) == ["a.png"]


def test_images_are_encoded_and_decoded(run, out, gen):
    images = gen.generate(2, 3).images
    for i, image in enumerate(images):
        image.save(out / f"{i}.png")
    code, said, _ = run("encode", out / "0.png", out / "1.png", "-o", out / "t.npy")
    assert code == 0
    assert "tokens [2, 4, 4]" in said
    tokens = np.load(out / "t.npy")
    assert np.array_equal(tokens, gen.encode(images))
    code, said, _ = run("decode", out / "t.npy", "-o", out / "back.png", "--columns", 1)
    assert code == 0
    assert np.array_equal(pixels(out / "back.png")[68:], gen.decode(tokens)[1])


def test_images_are_embedded(run, out, gen):
    images = gen.generate(2, 3).images
    for i, image in enumerate(images):
        image.save(out / f"{i}.png")
    code, said, _ = run("embed", out / "0.png", out / "1.png", "-o", out / "e.npy")
    assert code == 0
    assert np.array_equal(np.load(out / "e.npy"), gen.embed(images))
    assert f"features [2, {gen.embed(images).shape[1]}]" in said


def test_bench_reports_each_stage_in_seconds_and_per_megapixel(run):
    code, said, _ = run("bench", "--json", "--repeats", 2, "--count", 2, "--steps", 3)
    assert code == 0
    report = json.loads(said)
    stages = {"network", "draw", "decoder", "host", "total"}
    assert set(report["seconds"]) == set(report["seconds_per_megapixel"]) == stages
    megapixels = 2 * 64 * 64 / 1e6
    for stage, seconds in report["seconds"].items():
        assert report["seconds_per_megapixel"][stage] == pytest.approx(seconds / megapixels)
        assert 0 < seconds <= report["seconds"]["total"]
    assert (report["count"], report["steps"], report["network_calls"], report["repeats"]) == (2, 3, 3, 2)
    code, said, _ = run("bench", "--repeats", 1)
    assert code == 0
    assert all(f"\n{stage} " in said for stage in stages)


def test_help_and_version_need_no_bundle(capsys):
    assert _run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"smalti {smalti.__version__}"
    assert _run(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f" {verb} " in said for verb in ("generate", "encode", "decode", "embed", "bench", "train", "export"))
