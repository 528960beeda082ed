"""Whatever people hand in as a picture or a mask: it is read as it is meant, or refused with what is allowed."""

from __future__ import annotations

import io
import logging

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from helpers.pictures import (
    COLOURS,
    GREY,
    HALF,
    LEVELS,
    PICTURE,
    SHARES,
    SRGB,
    THREE,
    WIDE,
    deep,
    profile,
    save_oriented,
    with_profile,
)
from smalti import UsageError
from smalti.codec.masks import to_repaint
from smalti.codec.opening import open_image
from smalti.codec.pictures import MOST_PIXELS, read, to_pixels


def there_and_back(mode: str) -> np.ndarray:
    """The picture with the losses of a mode, few but for colours that it does not have."""
    return np.asarray(PICTURE.convert(mode).convert("RGB"))


SAME = {
    "RGB": (PICTURE, COLOURS, 0),
    "RGBX": (PICTURE.convert("RGBX"), COLOURS, 0),
    "CMYK": (PICTURE.convert("CMYK"), COLOURS, 0),
    **{mode: (PICTURE.convert(mode), there_and_back(mode), 0) for mode in ("YCbCr", "HSV", "LAB")},
    "RGBA": (PICTURE.convert("RGBA"), COLOURS, 0),
    "RGBa": (PICTURE.convert("RGBA").convert("RGBa"), COLOURS, 0),
    "L": (GREY, THREE, 0),
    "LA": (GREY.convert("LA"), THREE, 0),
    "La": (GREY.convert("LA").convert("La"), THREE, 0),
    "P": (GREY.convert("P"), THREE, 0),
    "PA": (GREY.convert("P").convert("PA"), THREE, 0),
    "I of 8 bits": (GREY.convert("I"), THREE, 0),
    "I of 16 bits": (Image.fromarray(WIDE.astype(np.int32)), THREE, 0),
    "F of 255": (GREY.convert("F"), THREE, 0),
    "F of 1": (Image.fromarray(SHARES.astype(np.float32)), THREE, 0),
    **{mode: (deep(mode), THREE, 0) for mode in ("I;16", "I;16L", "I;16B", "I;16N")},
    "uint8": (COLOURS, COLOURS, 0),
    "uint8 grey": (LEVELS, THREE, 0),
    "uint8 of one channel": (LEVELS[..., None], THREE, 0),
    "uint8 with alpha": (np.dstack([COLOURS, np.full_like(LEVELS, 255)]), COLOURS, 0),
    "uint8 grey with alpha": (np.dstack([LEVELS, np.full_like(LEVELS, 255)]), THREE, 0),
    "uint16": (COLOURS.astype(np.uint16) * 257, COLOURS, 0),
    "uint16 grey of big end": (WIDE.astype(">u2"), THREE, 0),
    "int64 of 8 bits": (COLOURS.astype(np.int64), COLOURS, 0),
    "int32 of 16 bits": (COLOURS.astype(np.int32) * 257, COLOURS, 0),
    "float64": (COLOURS / 255, COLOURS, 0),
    "float32 grey": (SHARES.astype(np.float32), THREE, 0),
    "float16": ((COLOURS / 255).astype(np.float16), COLOURS, 1),
    "float that overshoots": (np.where(COLOURS > 0, COLOURS / 255 + 1e-6, -1e-6), COLOURS, 0),
    "bool": (HALF, np.repeat(HALF[..., None] * np.uint8(255), 3, axis=2), 0),
    "read-only and turned": (np.ascontiguousarray(COLOURS[:, ::-1])[:, ::-1], COLOURS, 0),
}


@pytest.mark.parametrize("kind", SAME)
def test_cases_every_kind_is_the_picture_that_is_meant(kind):
    given, expected, most = SAME[kind]
    found = to_pixels(given)
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= most
    assert not read(given).notes


def test_cases_one_bit_is_black_and_white():
    assert np.array_equal(to_pixels(Image.fromarray(HALF)), to_pixels(HALF))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_cases_orientation_is_applied_to_open_and_to_read_files(form, orientation, tmp_path):
    save_oriented(PICTURE, orientation, tmp_path / "a", form)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a")).convert("RGB"))
    assert expected.shape == ((64, 48, 3) if orientation > 4 else (48, 64, 3))
    assert np.array_equal(to_pixels(open_image(tmp_path / "a")), expected)
    with Image.open(tmp_path / "a") as lazy:
        assert np.array_equal(to_pixels(lazy), expected)


@pytest.mark.parametrize("mode", ["I;16", "L", "P", "RGBA", "1"])
def test_cases_orientation_is_applied_in_every_mode(mode, tmp_path):
    image = deep("I;16") if mode == "I;16" else PICTURE.convert(mode)
    for orientation in (1, 6):
        save_oriented(image, orientation, tmp_path / f"{orientation}")
    plain, turned = (to_pixels(open_image(tmp_path / name)) for name in ("1", "6"))
    assert np.array_equal(turned, np.rot90(plain, -1))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_cases_an_orientation_that_is_damaged_or_unknown_is_none(tmp_path):
    for exif in (b"Exif\0\0rubbish", b"II*\0\xff\xff\xff\xff", b""):
        image = PICTURE.copy()
        image.info["exif"] = exif
        assert np.array_equal(to_pixels(image), COLOURS)
    save_oriented(PICTURE, 9, tmp_path / "a")
    assert np.array_equal(to_pixels(open_image(tmp_path / "a")), COLOURS)


@pytest.mark.parametrize("green", [(0.21, 0.71), (0.265, 0.69), (0.1596, 0.8404)])
@pytest.mark.parametrize("alpha", [False, True])
def test_cases_a_profile_is_converted_to_srgb(green, alpha):
    found = profile(green)
    image = with_profile(PICTURE, found)
    if alpha:
        image.putalpha(255)
    expected = ImageCms.profileToProfile(
        PICTURE, io.BytesIO(found), ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC
    )
    assert np.abs(to_pixels(image).astype(int) - np.asarray(expected)).max() <= 1
    assert np.abs(to_pixels(image).astype(int) - COLOURS).max() > 10
    assert np.array_equal(to_pixels(with_profile(GREY, found)).std(axis=2) < 1, np.full(LEVELS.shape, True))


@pytest.mark.parametrize("kind", ["RGB", "L", "LA", "P", "I;16"])
def test_cases_a_profile_of_srgb_changes_nothing(kind):
    given = SAME[kind][0]
    assert np.array_equal(to_pixels(with_profile(given, SRGB)), to_pixels(given))


@pytest.mark.parametrize("damage", [b"rubbish", SRGB[:200], b"\0" * 4000, SRGB[:16] + b"CMYK" + SRGB[20:]])
def test_cases_a_damaged_profile_is_ignored_and_told(damage, caplog):
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(to_pixels(with_profile(PICTURE, damage)), COLOURS)
    assert "colour profile is damaged or not for its colours" in caplog.text


def clear(mode: str) -> Image.Image:
    """The picture, whose left half is transparent, by the means of a mode."""
    alpha = Image.fromarray(np.where(np.arange(64) < 32, 0, 255).astype(np.uint8)[None].repeat(48, 0))
    if mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        image = (PICTURE if mode[0] == "R" else GREY).convert({"RGBa": "RGBA", "La": "LA"}.get(mode, mode))
        image.putalpha(alpha)
        return image.convert(mode)
    black = Image.composite(GREY.point(lambda level: max(level, 1)), Image.new("L", GREY.size), alpha)
    if mode == "I;16":
        image = deep("I;16", np.asarray(black).astype(np.uint16) * 257)
    else:
        image = black.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=(0, 0, 0) if mode == "RGB" else 0)
    return Image.open(buffer)


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La", "PA", "P", "RGB", "L", "I;16"])
def test_cases_transparency_is_laid_over_white_and_told(mode, caplog):
    with caplog.at_level(logging.WARNING):
        found = to_pixels(clear(mode))
    assert (found[:, :32] == 255).all()
    expected = COLOURS if mode in ("RGBA", "RGBa") else np.maximum(THREE, 1)
    assert np.abs(found[:, 32:].astype(int) - expected[:, 32:]).max() <= 1
    assert caplog.messages == ["the image: its transparent pixels were laid over white"]


def test_cases_what_is_told_is_told_once_per_call(gen, caplog):
    images = [clear("RGBA").resize((32, 32))] * 3 + [PICTURE.resize((32, 32))] * 2
    with caplog.at_level(logging.WARNING):
        gen.encode(images)
    assert caplog.messages == ["3 of 5 images: its transparent pixels were laid over white"]


@pytest.mark.parametrize("form", ["GIF", "PNG", "TIFF", "WEBP"])
def test_cases_of_several_frames_the_first_is_read_and_that_is_told(form, tmp_path, caplog):
    more = {"lossless": True} if form == "WEBP" else {}
    GREY.convert("RGB").save(tmp_path / "a", form, save_all=True, append_images=[PICTURE.rotate(180)], **more)
    with caplog.at_level(logging.WARNING):
        found = to_pixels(open_image(tmp_path / "a"))
    assert np.abs(found.astype(int) - THREE).max() <= (8 if form == "GIF" else 0)
    assert caplog.messages == ["the image: it is one of 2 frames, and the others were not read"]


def test_sixteen_bits_of_which_eight_are_used_are_told():
    assert read(LEVELS.astype(np.uint16)).notes
    assert read(deep("I;16", LEVELS)).notes
    assert not read(np.zeros((4, 4), np.uint16)).notes


REFUSED = {
    "floats of 255": (COLOURS.astype(float), r"floats are 0 \.\. 1: divide by 255"),
    "floats of -1 to 1": (COLOURS / 127.5 - 1, r"floats are 0 \.\. 1: \(x \+ 1\) / 2"),
    "floats without bounds": (COLOURS * 1e4, r"floats are 0 \.\. 1: scale"),
    "F without bounds": (Image.fromarray(SHARES.astype(np.float32) * 1e6), r"floats are 0 \.\. 1"),
    "NaN": (np.where(COLOURS > 99, np.nan, 0), "NaN"),
    "infinite": (np.full((8, 8), np.inf), "no finite numbers"),
    "more than 16 bits": (COLOURS.astype(np.int64) * 65536, r"0 \.\. 255 or 0 \.\. 65535"),
    "I of more than 16 bits": (Image.fromarray(LEVELS.astype(np.int32) * 65536), r"0 \.\. 65535"),
    "negative": (COLOURS.astype(np.int16) - 128, r"0 \.\. 255 or 0 \.\. 65535"),
    "complex": (COLOURS.astype(complex), "uint8"),
    "texts": (np.full((4, 4), "a"), "uint8"),
    "objects": (np.full((4, 4), None), "uint8"),
    "channels first": (np.moveaxis(COLOURS, -1, 0), r"np\.moveaxis\(x, 0, -1\)"),
    "five channels": (np.zeros((8, 8, 5), np.uint8), "1 to 4 channels"),
    "a batch": (np.zeros((2, 8, 8, 3), np.uint8), "one picture at a time"),
    "one axis": (np.zeros(8, np.uint8), r"array \[H, W, 3\]"),
    "no pixels": (np.zeros((0, 8, 3), np.uint8), "no pixels"),
    "no pixels of PIL": (Image.new("RGB", (0, 8)), "no pixels"),
    "too many pixels": (np.broadcast_to(np.uint8(0), (2**15, 2**14)), f"at most {MOST_PIXELS}"),
    "a path": ("picture.png", "open files first"),
    "nothing": (None, "NoneType"),
    "a list": ([[0, 1]], "got list"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_cases_what_means_nothing_is_refused(kind, gen):
    given, says = REFUSED[kind]
    for call in (to_pixels, to_repaint):
        with pytest.raises(UsageError, match=says):
            call(given)
    for call in (gen.encode, gen.embed):
        with pytest.raises(UsageError):
            call([given])


def test_a_truncated_file_and_odd_remarks_are_refused_too():
    buffer = io.BytesIO()
    PICTURE.save(buffer, "PNG")
    with pytest.raises(UsageError, match="cannot be read"):
        to_pixels(Image.open(io.BytesIO(buffer.getvalue()[: buffer.tell() // 2])))
    odd = PICTURE.copy()
    odd.info["transparency"] = b"xx"
    with pytest.raises(UsageError, match="cannot be read"):
        to_pixels(odd)


@pytest.mark.parametrize("images", [PICTURE, COLOURS, LEVELS, np.moveaxis(COLOURS, -1, 0), None, 7])
def test_cases_one_picture_is_no_list_of_pictures(images, gen):
    for call in (gen.encode, gen.embed):
        with pytest.raises(UsageError, match=r"a list of images is needed|an image must be"):
            call(images)
