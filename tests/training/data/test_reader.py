"""Training and runtime read pictures alike: what a model is trained on is what it is shown later."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import smalti
from helpers.pictures import SRGB, profile
from smalti.codec.opening import open_image
from smalti.codec.pictures import to_pixels
from smalti_train.data import open_dataset
from smalti_train.data.folder import read_square

SIDE = 64
MODES = {
    "1": ("PNG", "TIFF"),
    "L": ("PNG", "TIFF", "JPEG"),
    "LA": ("PNG", "TIFF"),
    "P": ("PNG", "TIFF"),
    "PA": ("TIFF",),
    "RGB": ("PNG", "TIFF", "JPEG", "WEBP"),
    "RGBA": ("PNG", "TIFF", "WEBP"),
    "CMYK": ("JPEG", "TIFF"),
    "LAB": ("TIFF",),
    "YCbCr": ("JPEG",),
    "I;16": ("PNG", "TIFF"),
    "I;16B": ("TIFF",),
    "I": ("TIFF",),
    "F": ("TIFF",),
}


def made(mode: str, seed: int) -> Image.Image:
    """A picture of a mode, not symmetric, with all its levels."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 4), np.uint8), "RGBA")
    picture = small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    levels = np.asarray(picture.convert("L"))
    if mode.startswith("I;16"):
        order = ">u2" if mode == "I;16B" else "<u2"
        return Image.frombytes(mode, (SIDE, SIDE), (levels.astype(np.uint16) * 257).astype(order).tobytes())
    if mode == "I":
        return Image.fromarray(levels.astype(np.int32) * int(rng.choice([1, 257])))
    if mode == "F":
        return Image.fromarray(levels.astype(np.float32) / float(rng.choice([1, 255])))
    if mode == "PA":
        return picture.convert("P").convert("PA")
    return picture.convert("RGB").convert(mode) if mode in ("LAB", "CMYK", "YCbCr") else picture.convert(mode)


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes]:
    """A picture file of any mode and depth that a form has, with an orientation and maybe a profile."""
    mode = draw(st.sampled_from(sorted(MODES)))
    form = draw(st.sampled_from(MODES[mode]))
    exif = Image.Exif()
    exif[0x0112] = draw(st.integers(1, 8))
    more: dict[str, object] = {"exif": exif}
    if mode in ("RGB", "RGBA", "L", "P"):
        more["icc_profile"] = draw(st.sampled_from([None, SRGB, profile(), b"rubbish"]))
    if form == "PNG" and mode in ("L", "RGB", "P", "I;16"):
        more |= draw(st.sampled_from([{}, {"transparency": (9, 9, 9) if mode == "RGB" else 7}]))
    buffer = io.BytesIO()
    made(mode, draw(st.integers(0, 2**20))).save(buffer, form, **more)
    return f"{mode} {form}", buffer.getvalue()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files())
def test_cases_training_and_runtime_see_the_same_pixels(tmp_path: Path, tiny_bundle: Path, file: tuple[str, bytes]):
    path = tmp_path / "picture"
    path.write_bytes(file[1])
    trained = read_square(path, SIDE)
    assert np.array_equal(trained, to_pixels(open_image(path)))
    with Image.open(path) as lazy:
        assert np.array_equal(trained, to_pixels(lazy))
    gen = loaded(tiny_bundle)
    assert np.array_equal(gen.encode([open_image(path)]), gen.encode([trained]))


LOADED: dict[Path, smalti.Generator] = {}


def loaded(bundle: Path) -> smalti.Generator:
    """A generator, loaded once for all examples."""
    if bundle not in LOADED:
        LOADED[bundle] = smalti.load(bundle, threads=1)
    return LOADED[bundle]


def test_cases_training_reads_what_it_clipped_before(tmp_path: Path) -> None:
    """Floats became black, and 32 bits of levels 0 .. 255 too; profiles were left out."""
    levels = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (SIDE, 1))
    for values in (levels.astype(np.float32) / 255, levels.astype(np.int32), levels.astype(np.int32) * 257):
        Image.fromarray(values).save(tmp_path / "a.tif")
        assert np.array_equal(read_square(tmp_path / "a.tif", SIDE)[..., 1], levels)
    picture = Image.fromarray(np.dstack([levels, levels.T, levels[::-1]]))
    picture.save(tmp_path / "a.png", icc_profile=profile())
    assert np.abs(read_square(tmp_path / "a.png", SIDE).astype(int) - np.asarray(picture)).max() > 10


def test_cases_training_tells_what_it_laid_over_white(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "root").mkdir()
    for i in range(6):
        Image.new("RGBA", (20, 20), (i, 0, 0, 90 if i % 2 else 255)).save(tmp_path / "root" / f"{i}.png")
    with caplog.at_level(logging.WARNING):
        for split in ("train", "validation", "test"):
            options = {"size": 16, "root": tmp_path / "root", "cache_dir": tmp_path / "cache", "progress": False}
            open_dataset("folder", split=split, **options)
    told = [message for message in caplog.messages if "transparent pixels were laid over white" in message]
    assert 1 <= len(told) <= 3
    assert sum(int(message.split(" of ")[0]) if " of " in message else 1 for message in told) == 3
