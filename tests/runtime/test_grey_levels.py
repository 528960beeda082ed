"""Bundles whose tokens are grey levels: nothing stands between tokens and pixels, and everything works as elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import smalti
from helpers.table_denoiser import TableDenoiser
from smalti import BundleError, UsageError
from smalti.bundle.reader import open_bundle
from smalti.codec.grey import to_pixels, to_tokens

GRID, CODES = (5, 4), 8
SIZE = (4, 5)
"""Width and height in pixels, which are tokens."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return TableDenoiser(GRID, CODES, 2).bundle(tmp_path_factory.mktemp("grey") / "tiny", grey=True)


@pytest.fixture(scope="module")
def gen(bundle) -> smalti.Generator:
    return smalti.load(bundle)


@given(st.integers(2, 256))
def test_levels_are_even_from_black_to_white_and_come_back(codes):
    tokens = np.arange(codes, dtype=np.int32).reshape(1, 1, -1)
    pixels = to_pixels(tokens, codes)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (1, 1, codes, 3)
    assert np.all(pixels == pixels[..., :1])
    exact = np.arange(codes) * 255 / (codes - 1)
    assert np.abs(pixels[0, 0, :, 0] - exact).max() <= 0.5
    assert (pixels[0, 0, 0, 0], pixels[0, 0, -1, 0]) == (0, 255)
    assert np.array_equal(to_tokens(pixels, codes), tokens)


def test_a_codebook_of_256_levels_is_the_grey_value_itself():
    values = np.arange(256, dtype=np.int32).reshape(1, 16, 16)
    assert np.array_equal(to_pixels(values, 256)[..., 0], values)


@given(st.integers(2, 256), st.tuples(*[st.integers(0, 255)] * 3))
def test_a_colour_becomes_the_level_nearest_to_its_luminance(codes, colour):
    token = int(to_tokens(np.array(colour, np.uint8).reshape(1, 1, 1, 3), codes)[0, 0, 0])
    grey = Image.new("RGB", (1, 1), colour).convert("L").getpixel((0, 0))
    levels = to_pixels(np.arange(codes, dtype=np.int32).reshape(1, 1, -1), codes)[0, 0, :, 0].astype(int)
    assert abs(levels[token] - grey) == np.abs(levels - grey).min()


def test_images_are_the_grey_levels_of_the_tokens(gen):
    result = gen.generate(3, 4)
    assert result.tokens.shape == (3, *GRID)
    for image, tokens in zip(result.images, result.tokens):
        assert (image.mode, image.size) == ("RGB", SIZE)
        assert np.array_equal(np.asarray(image)[..., 1], np.rint(tokens * 255 / (CODES - 1)))
    assert np.array_equal(gen.encode(result.images), result.tokens)
    assert [image.tobytes() for image in gen.decode(result.tokens)] == [image.tobytes() for image in result.images]
    assert gen.report.precision == {"denoiser": "fp32"}
    assert result.timings.decoder > 0


def test_a_stream_previews_every_step(gen):
    steps = list(gen.stream(2, 4))
    assert np.array_equal(gen.encode(steps[0].preview()), steps[0].tokens)
    assert np.array_equal(steps[-1].tokens, gen.generate(2, 4).tokens)


def test_a_canvas_of_any_size_is_drawn_and_decoded(gen):
    for size in ((4, 5), (9, 7), (2, 3), (70, 5), (3, 8)):
        result = gen.generate(2, 1, size=size, steps=3)
        assert result.tokens.shape == (2, size[1], size[0])
        assert result.images[0].size == size
        assert np.array_equal(gen.encode(result.images), result.tokens)


def test_single_pixels_are_repainted(gen):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 4, 3)).astype(np.uint8))
    mask = np.zeros((5, 4), bool)
    mask[1, 2] = mask[4, 0] = True
    result = gen.inpaint(image, mask, 4, 3, label="a")
    kept = gen.encode([image])[0]
    for drawn, tokens in zip(result.images, result.tokens):
        assert np.array_equal(np.asarray(drawn)[~mask], np.asarray(image)[~mask])  # colours and all
        assert np.array_equal(tokens[~mask], kept[~mask])


def test_any_size_is_a_multiple_of_one_pixel_but_images_must_agree(gen):
    assert gen.encode([np.zeros((3, 11, 3), np.uint8)]).shape == (1, 3, 11)
    with pytest.raises(UsageError, match="all of one size"):
        gen.encode([np.zeros((3, 4, 3), np.uint8), np.zeros((4, 3, 3), np.uint8)])
    with pytest.raises(UsageError, match=rf"tokens must be 0 \.\. {CODES - 1}; got 0 \.\. {CODES}"):
        gen.decode(np.array([[0, CODES]]))


def another(component):
    """The same component, in files of other names."""
    graphs = [{**variant["graph"], "file": f"other-{variant['graph']['file']}"} for variant in component["variants"]]
    pairs = zip(component["variants"], graphs)
    return {**component, "variants": [{**variant, "graph": graph} for variant, graph in pairs]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["latent"].update(pixels="rgb"), r"\$\.latent\.pixels"),
        (lambda c: c["latent"].update(factor=2), r"latent\.factor is 1 and latent\.halo is 0; here they are 2 and 0"),
        (lambda c: c["latent"].update(halo=None), r"here they are 1 and None"),
        (lambda c: c["latent"].update(codes=257), r"latent\.codes is 257; .*2 \.\. 256 levels"),
        (lambda c: c["latent"].update(codes=1), r"latent\.codes is 1"),
        (
            lambda c: c["components"].update(decoder=another(c["components"]["denoiser"])),
            r"components has decoder; with latent\.pixels grey tokens are pixels already",
        ),
        (lambda c: c["components"].update(encoder=another(c["components"]["denoiser"])), "components has encoder"),
        (lambda c: c["latent"].pop("pixels"), "the bundle has no decoder; .* has a denoiser and a decoder"),
        (lambda c: c["components"].pop("denoiser"), "the bundle has no denoiser; .*family sundae has a denoiser$"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused_by_the_fields_name(change, says, bundle, tmp_path):
    content = json.loads((bundle / "manifest.json").read_text())
    change(content)
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match=says):
        open_bundle(tmp_path)
