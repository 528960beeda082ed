"""Masks of every kind, and pictures of sizes and scales that are not the model's."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from helpers.pictures import (
    HALF,
    PICTURE,
    deep,
    profile,
    with_profile,
)
from smalti import UsageError
from smalti.cli.main import main
from smalti.codec.fit import fitted
from smalti.codec.masks import to_repaint
from smalti.codec.opening import open_image
from smalti.codec.pictures import to_pixels


def brush(colour: tuple[int, int, int]) -> Image.Image:
    layer = Image.new("RGBA", (64, 48), (*colour, 0))
    layer.paste((*colour, 255), (0, 0), Image.fromarray(HALF))
    return layer


def black_palette() -> Image.Image:
    layer = Image.new("P", (64, 48)).convert("PA")
    layer.putalpha(Image.fromarray(HALF).convert("L"))
    return layer


WHITE = Image.fromarray(HALF).convert("L")
MASKS = {
    "bool": HALF,
    "bool of one channel": HALF[..., None],
    "uint8 0 and 255": HALF * np.uint8(255),
    "uint8 0 and 1": HALF.astype(np.uint8),
    "uint8 shades": np.where(HALF, 128, 127).astype(np.uint8),
    "uint8 colours": np.repeat(HALF[..., None] * np.uint8(255), 3, axis=2),
    "uint16": HALF * np.uint16(65535),
    "uint16 shades": np.where(HALF, 33000, 600).astype(np.uint16),
    "uint16 0 and 255": HALF * np.uint16(255),
    "int64 0 and 1": HALF.astype(np.int64),
    "int32 0 and 255": HALF.astype(np.int32) * 255,
    "float 0 to 1": np.where(HALF, 0.51, 0.49),
    "float32 0 and 1": HALF.astype(np.float32),
    "array of a brush layer": np.asarray(brush((0, 0, 0))),
    "1": Image.fromarray(HALF),
    "L": WHITE,
    "L 0 and 1": Image.fromarray(HALF.astype(np.uint8)),
    "L shades": WHITE.point([100, *[200] * 255]),
    "RGB": WHITE.convert("RGB"),
    "CMYK": WHITE.convert("RGB").convert("CMYK"),
    "YCbCr": WHITE.convert("RGB").convert("YCbCr"),
    "LAB": WHITE.convert("RGB").convert("LAB"),
    "HSV": WHITE.convert("RGB").convert("HSV"),
    "P": WHITE.convert("P"),
    "LA that is opaque": WHITE.convert("LA"),
    "RGBA that is opaque": WHITE.convert("RGBA"),
    "RGBA that is half clear everywhere": Image.merge("RGBA", [*[WHITE] * 3, Image.new("L", (64, 48), 90)]),
    "black brush": brush((0, 0, 0)),
    "white brush": brush((255, 255, 255)),
    "white brush, RGBa": brush((255, 255, 255)).convert("RGBa"),
    "red brush on clear white": Image.composite(
        Image.new("RGBA", (64, 48), "red"), Image.new("RGBA", (64, 48), (255, 255, 255, 0)), WHITE
    ),
    "black brush, LA": brush((0, 0, 0)).convert("LA"),
    "black brush, PA": black_palette(),
    "I 0 and 1": Image.fromarray(HALF.astype(np.int32)),
    "I of 8 bits": WHITE.convert("I"),
    "I of 16 bits": Image.fromarray(np.where(HALF, 40000, 600).astype(np.int32)),
    "F 0 to 1": Image.fromarray(np.where(HALF, 0.9, 0.2).astype(np.float32)),
    "F of 255": WHITE.convert("F"),
    **{f"{mode} with 600": deep(mode, np.where(HALF, 65535, 600)) for mode in ("I;16", "I;16B", "I;16L", "I;16N")},
}


@pytest.mark.parametrize("kind", MASKS)
def test_cases_masks_of_every_kind_repaint_the_same(kind):
    assert np.array_equal(to_repaint(MASKS[kind]), HALF)


def test_cases_a_palette_with_clear_entries_is_a_brush_layer():
    layer = Image.fromarray(HALF.astype(np.uint8)).convert("P")
    layer.putpalette([255, 255, 255, 0, 0, 0])
    layer.info["transparency"] = bytes([0, 255])
    assert np.array_equal(to_repaint(layer), HALF)


@pytest.mark.parametrize(
    "mask",
    [
        np.where(HALF, 3, 1),
        np.where(HALF, 200, 0).astype(np.int32),
        np.where(HALF, 254, 0).astype(np.uint16),
        deep("I;16", np.where(HALF, 200, 3)),
    ],
    ids=["classes", "int32 shades", "uint16 shades of 8 bits", "I;16 shades of 8 bits"],
)
def test_cases_masks_that_may_mean_two_things_are_refused(mask):
    with pytest.raises(UsageError, match=r"a mask: .* compare them first"):
        to_repaint(mask)


def test_cases_a_layer_without_a_stroke_repaints_nothing(gen):
    for colour in (0, 255):
        layer = Image.new("RGBA", (64, 64), (colour, colour, colour, 0))
        with pytest.raises(UsageError, match="repaints nothing"):
            gen.inpaint(Image.new("RGB", (64, 64)), layer)


def test_cases_a_brush_layer_leaves_what_it_does_not_cover(gen):
    image = gen.generate(1, 3).images[0]
    layer = Image.new("RGBA", image.size, (255, 255, 255, 0))
    layer.paste((0, 0, 0, 255), (0, 0, 16, 16))
    drawn = np.array(gen.inpaint(image, layer).images[0])
    drawn[:16, :16] = np.asarray(image)[:16, :16]
    assert np.array_equal(drawn, np.asarray(image))


def test_cases_untouched_pixels_are_those_of_the_converted_picture(gen):
    image = with_profile(PICTURE.resize((64, 64)), profile())
    mask = np.zeros((64, 64), bool)
    mask[:, 32:] = True
    drawn = np.asarray(gen.inpaint(image, mask).images[0])
    assert np.array_equal(drawn[~mask], to_pixels(image)[~mask])


@pytest.mark.parametrize(
    ("size", "padded", "cropped", "stretched"),
    [
        ((300, 411), (304, 416), (288, 400), (304, 416)),
        ((17, 16), (32, 16), (16, 16), (16, 16)),
        ((64, 48), (64, 48), (64, 48), (64, 48)),
        ((39, 41), (48, 48), (32, 32), (32, 48)),
    ],
)
def test_cases_any_size_can_be_fitted(size, padded, cropped, stretched, gen):
    image, mask = PICTURE.resize(size), Image.fromarray(HALF).resize(size)
    for fit, expected in (("pad", padded), ("crop", cropped), ("stretch", stretched)):
        assert gen.encode([image], fit=fit).shape == (1, expected[1] // 16, expected[0] // 16)
        assert gen.inpaint(image, mask, fit=fit).images[0].size == expected


def test_cases_each_fit_does_what_it_says(gen):
    pixels = np.asarray(PICTURE.resize((37, 45)))
    padded = fitted(pixels, 16, "pad")
    assert np.array_equal(padded[:45, :37], pixels)
    assert (padded[:45, 37:] == pixels[:, -1:]).all()
    assert (padded[45:] == padded[44:45]).all()
    assert np.array_equal(fitted(pixels, 16, "crop"), pixels[6:38, 2:34])
    assert np.array_equal(fitted(pixels, 16, "stretch"), np.asarray(Image.fromarray(pixels).resize((32, 48), 1)))
    mask = np.zeros((45, 37), bool)
    mask[:, 20:] = True
    drawn = np.asarray(gen.inpaint(pixels, mask, fit="pad").images[0])
    assert np.array_equal(drawn[:45, :20], pixels[:, :20])
    different = gen.encode([PICTURE.resize((37, 45)), PICTURE.resize((39, 44))], fit="crop")
    assert different.shape == (2, 2, 2)


def test_cases_sizes_that_do_not_fit_are_refused_with_the_ways_out(gen):
    image, mask = Image.new("RGB", (300, 411)), np.ones((411, 300), bool)
    ways = 'fit="pad", "crop" or "stretch"'
    with pytest.raises(UsageError, match=f"resize to 304x416, or say {ways}"):
        gen.encode([image])
    with pytest.raises(UsageError, match=f"the nearest is 304x416.*{ways}"):
        gen.inpaint(image, mask)
    for fit in ("cover", "", True, 1):
        with pytest.raises(UsageError, match="allowed are pad, crop, stretch"):
            fitted(np.asarray(image), 16, fit)
        with pytest.raises(UsageError, match="fit"):
            gen.encode([image], fit=fit)
    with pytest.raises(UsageError, match="too small to crop to 16x16; pad or stretch"):
        gen.encode([Image.new("RGB", (15, 99))], fit="crop")
    with pytest.raises(UsageError, match="mask size 304x416: it must be that of the image, 300x411"):
        gen.inpaint(image, np.ones((416, 304), bool), fit="pad")


def test_cases_embedding_hardly_depends_on_scale(gen):
    made = gen.generate(16, 1).images
    whole = gen.embed(made)
    for share, least in ((0.5, 0.98), (0.75, 0.99), (2, 0.999)):
        other = gen.embed([one.resize((round(share * one.width),) * 2, Image.Resampling.LANCZOS) for one in made])
        assert (whole * other).sum(1).mean() >= least
    mixed = gen.embed([made[0].resize((32, 32)), made[1], made[2].resize((90, 90))])
    assert ((mixed @ whole.T).argmax(1) == [0, 1, 2]).all()


def test_cases_the_commands_fit(tiny_bundle, tmp_path, capsys):
    PICTURE.resize((70, 60)).save(tmp_path / "a.png")
    brush((0, 0, 0)).resize((70, 60)).save(tmp_path / "mask.png")

    def run(*arguments: object) -> int:
        with pytest.raises(SystemExit) as stop:
            main([*map(str, arguments), "--bundle", str(tiny_bundle)])
        return int(stop.value.code or 0)

    encode = ("encode", tmp_path / "a.png", "-o", tmp_path / "a.npy")
    inpaint = ("inpaint", tmp_path / "a.png", tmp_path / "mask.png", "-o", tmp_path / "out.png")
    assert run(*encode) == 2
    assert "stretch" in capsys.readouterr().err
    assert run(*encode, "--fit", "pad") == 0
    assert np.load(tmp_path / "a.npy").shape == (1, 4, 5)
    assert run(*inpaint, "--fit", "crop") == 0
    assert open_image(tmp_path / "out.png").size == (64, 48)
    assert run(*inpaint, "--fit", "cover") == 2
    assert "allowed are pad, crop, stretch" in capsys.readouterr().err
