"""Repainting: what is kept stays to the last pixel, what is painted depends on it, and odd input is refused kindly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

import smalti
from smalti.cli.main import main
from smalti.codec.fill import filled
from smalti.codec.masks import LARGEST, matched, paste, patches, seen_by_encoder
from smalti.errors import UsageError
from smalti.saving.recipe import read_recipe


@pytest.fixture(scope="module")
def gen(tiny_bundle):
    return smalti.load(tiny_bundle)


@pytest.fixture(scope="module")
def image(gen):
    return gen.generate(1, 5, label="planets").images[0]


def right_half(size: int = 64) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[:, size // 2 :] = True
    return mask


def test_kept_pixels_stay_and_the_others_are_drawn(gen, image):
    mask = right_half()
    result = gen.inpaint(image, mask, 6, 3, temperature=1.5)
    for drawn in result.images:
        assert np.array_equal(np.asarray(drawn)[~mask], np.asarray(image)[~mask])
    assert len({drawn.tobytes() for drawn in result.images}) > 1
    kept = gen.encode([seen_by_encoder(np.asarray(image), mask, 1)])[0][:, :2]
    assert np.array_equal(result.tokens[:, :, :2], np.broadcast_to(kept, (6, *kept.shape)))
    assert result.tokens.max() < 64


def test_a_mask_of_one_pixel_redraws_one_token_in_one_call(gen, image):
    mask = np.zeros((64, 64), bool)
    mask[17, 40] = True
    result = gen.inpaint(image, mask, seed=1)
    changed = result.tokens[0] != gen.encode([seen_by_encoder(np.asarray(image), mask, 1)])[0]
    assert result.timings.calls == 1
    assert changed.sum() <= 1
    assert not changed.any() or changed[1, 2]


@pytest.mark.cases
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40))
def test_the_fill_continues_what_is_known_and_does_not_see_what_is_not(seed, height, width):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    unknown = rng.random((height, width)) < rng.random()
    found = filled(pixels, unknown)
    assert np.array_equal(found[~unknown], pixels[~unknown])
    other = np.where(unknown[..., None], rng.integers(0, 256, pixels.shape), pixels).astype(np.uint8)
    assert np.array_equal(filled(other, unknown), found)
    if not unknown.all():
        known = pixels[~unknown]
        assert (found >= known.min(0)).all()
        assert (found <= known.max(0)).all()


def test_the_fill_of_a_hole_in_a_slope_is_the_slope():
    slope = np.broadcast_to(np.linspace(10, 240, 64)[None, :, None], (64, 64, 3)).astype(np.uint8)
    hole = np.zeros((64, 64), bool)
    hole[20:40, 24:44] = True
    assert np.abs(filled(slope, hole).astype(int) - slope).max() < 12


@pytest.mark.cases
@pytest.mark.parametrize("resolution", [64, 128, 256])
def test_what_lies_under_a_mask_changes_nothing(sized_bundle, resolution):
    gen = smalti.load(sized_bundle)
    image = np.asarray(gen.generate(1, 3, label="lorelei", resolution=resolution).images[0])
    mask = np.zeros((resolution, resolution), bool)
    mask[resolution // 3 : resolution // 2, resolution // 5 : resolution // 2] = True
    other = np.where(mask[..., None], np.random.default_rng(0).integers(0, 256, image.shape), image).astype(np.uint8)
    first, second = (gen.inpaint(one, mask, 2, 7, resolution=resolution) for one in (image, other))
    assert np.array_equal(first.tokens, second.tokens)
    assert first.images == second.images
    assert np.array_equal(np.asarray(first.images[0])[~mask], image[~mask])


@pytest.mark.cases
@settings(max_examples=20)
@given(st.integers(-LARGEST, LARGEST), st.integers(1, 31), st.integers(0, 255))
def test_a_shade_that_the_decoder_misses_leaves_no_seam(missed, left, level):
    pixels = np.full((24, 32, 3), level, np.uint8)
    drawn = Image.fromarray(np.clip(pixels.astype(int) + missed, 0, 255).astype(np.uint8))
    repaint = np.zeros((24, 32), bool)
    repaint[:, :left] = True
    result = np.asarray(paste(matched(drawn, pixels, repaint), pixels, repaint))
    assert np.abs(result.astype(int) - level).max() <= 1


def test_another_shape_stays_what_it_is_and_what_lies_under_the_mask_counts_for_nothing():
    rng = np.random.default_rng(0)
    drawn, pixels = (rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(2))
    repaint = np.zeros((32, 32), bool)
    repaint[8:20, 8:20] = True
    result = np.asarray(matched(Image.fromarray(drawn), pixels, repaint))[repaint]
    assert np.abs(result.astype(int) - drawn[repaint]).max() <= LARGEST
    other = np.where(repaint[..., None], 0, pixels).astype(np.uint8)
    assert np.array_equal(np.asarray(matched(Image.fromarray(drawn), other, repaint))[repaint], result)
    everything = np.ones_like(repaint)
    assert np.array_equal(np.asarray(matched(Image.fromarray(drawn), pixels, everything)), drawn)


@pytest.mark.cases
def test_a_feather_fades_within_its_reach_and_leaves_the_rest(gen, image):
    mask, original = right_half(), np.asarray(image)
    sharp, soft = (np.asarray(gen.inpaint(image, mask, seed=4, feather=feather).images[0]) for feather in (0, 8))
    assert np.array_equal(sharp[mask], soft[mask])
    assert np.array_equal(soft[:, :24], original[:, :24])
    assert not np.array_equal(soft[:, 24:32], original[:, 24:32])
    with pytest.raises(UsageError, match="feather -1: 0 or more"):
        gen.inpaint(image, mask, feather=-1)


@pytest.mark.cases
def test_outpainting_is_repainting_a_larger_image(gen, image):
    wide = gen.outpaint(image, 2, 5, left=16, right=32, bottom=16, label="planets")
    pixels = np.asarray(image)
    assert wide.images[0].size == (112, 80)
    canvas, beyond = np.zeros((80, 112, 3), np.uint8), np.ones((80, 112), bool)
    canvas[:64, 16:80], beyond[:64, 16:80] = pixels, False
    assert np.array_equal(np.asarray(wide.images[1])[~beyond], canvas[~beyond])
    assert np.array_equal(wide.tokens, gen.inpaint(canvas, beyond, 2, 5, label="planets").tokens)
    for margins, message in (
        ({}, "left 0, top 0, right 0, bottom 0: 0 or more"),
        ({"left": -16}, "left -16"),
        ({"top": 1.5}, "whole numbers"),
        ({"top": 8}, "the whole is 64x72, and its sides must be multiples of 16"),
    ):
        with pytest.raises(UsageError, match=message):
            gen.outpaint(image, **margins)


def test_repainting_everything_is_drawing_without_a_label(gen, image):
    everything = np.ones((64, 64), bool)
    painted = gen.inpaint(image, everything, 3, 9, label="sprouts")
    assert np.array_equal(painted.tokens, gen.generate(3, 9, label="sprouts").tokens)
    assert gen.inpaint(image, everything, 1, 9).settings.labels == (None,)


def test_a_saved_variant_says_what_it_was_made_from(gen, image, tmp_path):
    gen.inpaint(image, right_half(), feather=2).save(tmp_path / "painted.png")
    recipe = read_recipe(tmp_path / "painted.png")
    assert (recipe.call, recipe.feather, recipe.strength) == ("inpaint", 2, None)
    assert recipe.image
    assert recipe.mask


def test_a_variant_is_the_same_alone_and_in_a_batch_and_a_pil_mask_is_its_array(gen, image):
    mask = right_half()
    batch = gen.inpaint(image, mask, 4, 20, temperature=1.5)
    white = Image.fromarray(mask.astype(np.uint8) * 255)
    for i in range(4):
        alone = gen.inpaint(image, white.convert("RGB"), seed=20 + i, temperature=1.5)
        assert np.array_equal(alone.tokens[0], batch.tokens[i])


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 2, 8]), st.data())
def test_a_patch_is_repainted_when_any_of_its_pixels_is(height, width, factor, data):
    mask = data.draw(arrays(bool, (height * factor, width * factor)))
    found = patches(mask, factor)
    for y in range(height):
        for x in range(width):
            assert found[y, x] == mask[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor].any()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((64, 64), bool), "repaints nothing"),
        (np.ones((32, 64), bool), "mask size 64x32: it must be that of the image, 64x64"),
        (np.full((64, 64), 3), "compare them first"),
        ("mask.png", "a mask must be a PIL image or an array"),
    ],
)
def test_masks_that_do_not_fit_are_refused(gen, image, mask, message):
    with pytest.raises(UsageError, match=message):
        gen.inpaint(image, mask)


def test_an_image_of_a_size_that_cannot_be_is_refused_with_the_nearest(gen):
    with pytest.raises(UsageError, match="image size 70x60: sides must be multiples of 16; the nearest is 64x64"):
        gen.inpaint(Image.new("RGB", (70, 60)), right_half())
    with pytest.raises(UsageError, match="mask size 64x64: it must be that of the image, 80x64"):
        gen.inpaint(Image.new("RGB", (80, 64)), right_half())
    with pytest.raises(UsageError, match="an image is drawn on at its own size; leave it out"):
        gen.inpaint(Image.new("RGB", (64, 64)), right_half(), size=(80, 64))


def test_the_command(tiny_bundle, image, tmp_path, capsys):
    image.save(tmp_path / "image.png")
    Image.fromarray(right_half().astype(np.uint8) * 255).save(tmp_path / "mask.png")
    arguments = ["inpaint", tmp_path / "image.png", tmp_path / "mask.png", "-o", tmp_path / "out.png"]

    def run(*more: object) -> int:
        with pytest.raises(SystemExit) as stop:
            main([*map(str, arguments), "--bundle", str(tiny_bundle), *map(str, more)])
        return int(stop.value.code or 0)

    assert run("--count", 2) == 0
    with Image.open(tmp_path / "out.png") as sheet:
        assert np.array_equal(np.asarray(sheet)[:, :32], np.asarray(image)[:, :32])
        assert sheet.size == (64 * 2 + 4, 64)
    assert run("--order", "raster") == 2
    assert "allowed are random, halton and confidence" in capsys.readouterr().err
    wide, beyond = Image.new("RGB", (112, 64)), Image.new("L", (112, 64), 255)
    wide.paste(image, (32, 0))
    beyond.paste(0, (32, 0, 96, 64))
    wide.save(tmp_path / "image.png")
    beyond.save(tmp_path / "mask.png")
    assert run("--order", "confidence", "--stride", 3, "--top-p", 0.9) == 0
    with Image.open(tmp_path / "out.png") as drawn:
        assert np.array_equal(np.asarray(drawn)[:, 32:96], np.asarray(image))
        assert drawn.size == (112, 64)
    assert run("--stride", 9) == 2
    assert "stride 9: allowed are 1 .. 4" in capsys.readouterr().err
