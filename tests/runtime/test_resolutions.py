"""One grid of tokens at several sizes: the same tokens, larger pictures, and every verb at each of them."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

import smalti
from smalti.bundle.manifest_file import decode
from smalti.cli.main import main
from smalti.errors import BundleError, UsageError
from smalti.families.settings import unsuited
from smalti.saving.recipe import read_recipe
from smalti.verification.golden import read_golden

SIZES = (64, 128, 256)


@pytest.fixture(scope="module")
def gen(sized_bundle):
    return smalti.load(sized_bundle)


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([*map(str, arguments)])
    return int(stop.value.code or 0)


def test_tokens_are_the_same_at_every_resolution_and_pictures_are_larger(gen):
    results = [gen.generate(2, 3, resolution=pixels) for pixels in SIZES]
    for pixels, result in zip(SIZES, results):
        assert np.array_equal(result.tokens, results[0].tokens)
        assert {image.size for image in result.images} == {(pixels, pixels)}
        assert gen.decode(result.tokens, pixels) == result.images
        assert result.settings.resolution == pixels
    assert gen.generate(2, 3).images == results[0].images
    for small, large in pairwise(results):
        reduced = large.images[0].resize(small.images[0].size, Image.Resampling.BOX)
        difference = np.asarray(reduced, int) - np.asarray(small.images[0], int)
        assert np.square(difference).mean() < 300  # 23 dB: the same picture


def test_a_canvas_is_in_pixels_of_its_resolution(gen):
    small, large = gen.generate(1, 4, size=(128, 64)), gen.generate(1, 4, size=(512, 256), resolution=256)
    assert np.array_equal(small.tokens, large.tokens)
    assert large.images[0].size == (512, 256)
    with pytest.raises(UsageError, match="size 96x64: sides must be multiples of 64"):
        gen.generate(size=(96, 64), resolution=256)


def test_a_large_picture_is_one_grid_at_its_resolution_and_a_canvas_at_the_first(gen):
    picture = gen.generate(1, 4, resolution=256).images[0]
    assert gen.encode([picture], 256).shape == (1, 4, 4)
    assert gen.encode([picture]).shape == (1, 16, 16)
    reduced = picture.resize((64, 64), Image.Resampling.BOX)
    assert np.array_equal(gen.encode([picture], 256), gen.encode([reduced]))


def test_the_last_step_of_a_stream_is_the_picture_at_its_resolution(gen):
    *_, last = gen.stream(1, 5, resolution=128)
    assert last.images() == gen.generate(1, 5, resolution=128).images
    assert last.preview() == gen.decode(last.tokens)  # this bundle has no preview decoder; its first one is cheaper


@pytest.mark.parametrize("pixels", [100, 0, True, "64", 64.5])
def test_other_resolutions_are_refused_with_those_there_are(gen, pixels):
    with pytest.raises(UsageError, match=r"resolution .*: the pictures of bundle sized have 64, 128, 256 pixels"):
        gen.generate(resolution=pixels)
    with pytest.raises(UsageError, match="64, 128, 256"):
        gen.decode(np.zeros((4, 4), int), pixels)


def test_a_bundle_of_one_size_says_so(tiny_bundle):
    gen = smalti.load(tiny_bundle)
    assert [one.pixels for one in gen.manifest.all_resolutions] == [64]
    with pytest.raises(UsageError, match="resolution 128: the pictures of bundle tiny have 64 pixels"):
        gen.generate(resolution=128)


def test_the_null_backend_draws_every_size(sized_bundle):
    gen = smalti.load(sized_bundle, backend=smalti.NullBackend())
    result = gen.generate(1, 0, resolution=256)
    assert result.images[0].size == (256, 256)
    assert np.array_equal(gen.encode(result.images, 256), result.tokens)


def test_a_large_canvas_decodes_tile_by_tile_to_the_same_pixels(gen, monkeypatch):
    tokens = np.random.default_rng(0).integers(0, 64, (1, 40, 44))
    whole = np.asarray(gen.decode(tokens, 128)[0], int)
    monkeypatch.setattr("smalti.codec.tiles.decode_tiled.__defaults__", (10,))
    tiled = np.asarray(gen.decode(tokens, 128)[0], int)
    assert np.abs(tiled - whole).max() <= 2


@pytest.mark.cases
def test_a_large_image_encodes_tile_by_tile_to_the_same_tokens(gen, monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (44 * 16, 40 * 16, 3)).astype(np.uint8)
    halo = gen.manifest.latent.encoder_halo
    assert halo is not None
    monkeypatch.setattr("smalti.codec.tiles.encode_tiled.__defaults__", (64,))
    whole = gen.encode([image])
    monkeypatch.setattr("smalti.codec.tiles.encode_tiled.__defaults__", (10,))
    assert (gen.encode([image]) != whole).mean() < 0.01


@pytest.mark.cases
def test_a_canvas_that_does_not_suit_a_label_is_told(gen, tmp_path, sized_bundle, capsys):
    def told(label, size, resolution=64):
        settings = smalti.load(sized_bundle, backend=smalti.NullBackend()).generate(
            1, 0, label=label, size=size, resolution=resolution
        )
        return unsuited(gen.manifest, settings.settings)

    assert told("lorelei", None) == told("landscape", (128, 64)) == told("landscape", (512, 256), 256) == []
    assert told("lorelei", (128, 64)) == ["note: lorelei was drawn on 128x64; what suits it is 64x64"]
    (line,) = told("landscape", (128, 128))
    assert "64x64 or a wider canvas of that height, such as 128x64" in line
    where = ["--bundle", sized_bundle]
    assert run("generate", "-o", tmp_path / "a.png", "--label", "lorelei", "--size", "128x64", *where) == 0
    assert "note: lorelei was drawn on 128x64" in capsys.readouterr().err


def test_golden_inputs_of_every_size_are_small(sized_bundle):
    bundle = smalti.open_bundle(sized_bundle)
    golden = read_golden(bundle)
    assert golden is not None
    assert {"decoder", "decoder_128", "decoder_256"} <= set(golden.cases)
    for role, cases in golden.cases.items():
        for case in cases:
            size = sum(array.nbytes for array in (*case.inputs.values(), *case.outputs.values()))
            assert size < 2**20, role
    assert bundle.variant("decoder_256", "fp32").weights == bundle.variant("decoder", "fp16").weights


def test_the_commands(sized_bundle, tmp_path, capsys):
    where = ["--bundle", sized_bundle]
    picture, tokens = tmp_path / "a.png", tmp_path / "a.npy"
    assert run("generate", "-o", picture, "--seed", 2, "--resolution", 256, *where) == 0
    assert Image.open(picture).size == (256, 256)
    assert read_recipe(picture).options["resolution"] == 256
    assert run("generate", "-o", tmp_path / "b.png", "--replay", picture, *where) == 0
    assert Image.open(tmp_path / "b.png").tobytes() == Image.open(picture).tobytes()
    assert run("encode", picture, "-o", tokens, "--resolution", 256, *where) == 0
    assert np.load(tokens).shape == (1, 4, 4)
    assert run("decode", tokens, "-o", tmp_path / "c.png", "--resolution", 128, *where) == 0
    assert Image.open(tmp_path / "c.png").size == (128, 128)
    capsys.readouterr()
    assert run("bench", "--resolution", 128, "--repeats", 1, "--json", *where) == 0
    assert json.loads(capsys.readouterr().out)["width"] == 128
    assert run("outpaint", picture, "-o", tmp_path / "d.png", "--right", 128, "--resolution", 256, *where) == 0
    assert Image.open(tmp_path / "d.png").size == (384, 256)
    assert run("bundle", "inspect", sized_bundle) == 0
    said = capsys.readouterr().out
    assert "64 and 128 and 256 pixels per side" in said
    assert "landscape: wider ones too" in said
    assert run("bundle", "verify", sized_bundle, "--run") == 0
    assert "decoder_256 int8" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["resolutions"].pop(), "disagree about decoder_256"),
        (lambda c: c["resolutions"].pop(0), "must begin with that of latent"),
        (lambda c: c["resolutions"].reverse(), "must begin with that of latent"),
        (lambda c: c["resolutions"][1].update(factor=33), "resolution of 128 pixels.*does not fit"),
        (lambda c: c["resolutions"][1].update(pixels=120), "resolution of 120 pixels.*does not fit"),
        (lambda c: c["resolutions"][1].update(decoder="decoder_256"), "by decoder_256 does not fit"),
        (lambda c: c["resolutions"][1].update(decoder="decoder_"), "resolutions"),
        (lambda c: c.update(resolutions=[]), "must begin with that of latent"),
        (lambda c: c.update(canvases={"nobody": "own"}), "canvases name 'nobody'"),
        (lambda c: c.update(schema_version=1), "version 1 has fields of version 2"),
        (lambda c: c["components"]["decoder_128"]["outputs"][0].update(shape=["n", "16*h", "16*w", 3]), "32 pixels"),
    ],
)
def test_a_manifest_whose_sizes_do_not_fit_is_refused(change, says, sized_bundle):
    content = json.loads((sized_bundle / "manifest.json").read_bytes())
    change(content)
    with pytest.raises(BundleError, match=says):
        decode(json.dumps(content).encode(), "here")


def test_a_bundle_of_the_first_schema_still_opens_and_draws(tiny_bundle, tmp_path):
    content = json.loads((tiny_bundle / "manifest.json").read_bytes())
    for name in ("resolutions", "canvases"):
        content.pop(name)
    content["latent"].pop("encoder_halo")
    content["schema_version"] = 1
    old = decode(json.dumps(content).encode(), "here")
    assert old.all_resolutions == smalti.open_bundle(tiny_bundle).manifest.resolutions
    opened = smalti.open_bundle(tiny_bundle)
    gen = smalti.load(smalti.Bundle(opened.path, old, opened.digest))
    assert gen.generate(1, 3).images == smalti.load(tiny_bundle).generate(1, 3).images
