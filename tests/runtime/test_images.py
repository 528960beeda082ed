"""PNG files that remember how they were made, contact sheets, and files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import random
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from smalti import OutputError, UsageError
from smalti.codec.opening import open_image
from smalti.codec.pictures import to_pixels
from smalti.saving.chunks import KEY
from smalti.saving.formats import contact_sheet, save_png
from smalti.saving.recipe import Recipe, encode_recipe, read_recipe
from smalti.system.files import check_folder, check_writable, write_whole

RECIPE = Recipe(
    version="0.1.0",
    bundle="tiny",
    bundle_digest="ab" * 32,
    seeds=(7, 2**64 - 1),
    labels=("lorelei", None),
    options={
        "temperature": 0.1,
        "top_k": 0,
        "top_p": 1.0,
        "guidance": 1.5,
        "size": (64, 32),
        "steps": 8,
        "schedule": "exact",
        "order": "random",
        "remask": 0.0,
        "proportion": (0.5, 0.25),
    },
    precision={"denoiser": "int8"},
    provider="cpu",
    columns=2,
)
NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def with_text(path: Path, text: str) -> Path:
    info = PngImagePlugin.PngInfo()
    info.add_text(KEY, text)
    Image.fromarray(NOISE).save(path, pnginfo=info)
    return path


def save_recipe(image: Image.Image, path: Path, recipe: Recipe) -> None:
    save_png(image, path, {KEY: encode_recipe(recipe)})


@pytest.mark.parametrize("label", ["lorelei", "été", "ガラス", 'quote " and \\ backslash', ""])
def test_a_recipe_comes_back_as_it_was_written_and_the_pixels_too(label, tmp_path):
    recipe = msgspec.structs.replace(RECIPE, labels=(label, None))
    save_recipe(Image.fromarray(NOISE), tmp_path / "a.png", recipe)
    assert read_recipe(tmp_path / "a.png") == recipe
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), NOISE)
    assert names(tmp_path) == ["a.png"]


def test_a_recipe_with_fields_of_a_later_version_can_be_read(tmp_path):
    content = {**msgspec.json.decode(encode_recipe(RECIPE)), "invented_later": 1}
    assert read_recipe(with_text(tmp_path / "a.png", msgspec.json.encode(content).decode())) == RECIPE


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: save_png(Image.fromarray(NOISE), path), "does not say how it was made; only a picture that"),
        (lambda path: path.write_bytes(b"no image at all"), "cannot be read as an image"),
        (lambda path: path.write_bytes(b""), "cannot be read as an image"),
        (lambda path: path.mkdir(), "cannot be read as an image"),
        (lambda path: None, "does not exist; name a picture that smalti made"),
        (lambda path: with_text(path, "{"), "its recipe cannot be read"),
        (lambda path: with_text(path, '{"version": "0.1.0"}'), "its recipe cannot be read: .*missing required field"),
        (lambda path: with_text(path, encode_recipe(RECIPE).replace('"exact"', "[3]")), "its recipe cannot be read"),
        (lambda path: Image.fromarray(NOISE).save(path, "JPEG"), "does not say how it was made"),
    ],
)
def test_a_file_without_a_recipe_is_refused_by_name(make, says, tmp_path):
    make(tmp_path / "a.png")
    with pytest.raises(UsageError, match=says) as caught:
        read_recipe(tmp_path / "a.png")
    assert str(tmp_path / "a.png") in str(caught.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0, 700), flip=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_png_is_refused_or_read_and_nothing_else(where, flip, cut, tmp_path):
    path = tmp_path / "a.png"
    save_recipe(Image.fromarray(NOISE), path, RECIPE)
    content = bytearray(path.read_bytes())
    content[where] ^= flip
    path.write_bytes(content[:where] if cut else content)
    for read in (read_recipe, open_image):
        try:
            assert read(path) is not None
        except UsageError as error:
            message = str(error)
            assert "a.png" in message


def test_the_rarer_kinds_of_damage_are_refused_as_well(tmp_path):
    save_recipe(Image.fromarray(NOISE), tmp_path / "a.png", RECIPE)
    content = (tmp_path / "a.png").read_bytes()
    header_too_short = content[:11] + b"\1" + content[12:]
    pixels = content.index(b"IDAT")
    chunk_too_short = content[: pixels - 4] + struct.pack(">I", 1000) + content[pixels:]
    header = b"IHDR" + struct.pack(">2I", 60_000, 60_000) + content[24:29]
    a_bomb = content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
    for damaged in (header_too_short, chunk_too_short, a_bomb):
        (tmp_path / "a.png").write_bytes(damaged)
        with pytest.raises(UsageError, match=r"a\.png cannot be read as an image"):
            open_image(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"a\.png cannot be read as an image: .*decompression bomb"):
        read_recipe(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("missing.png", r"missing\.png does not exist; name an image file$"),
        ("folder", "folder cannot be read as an image: Is a directory$"),
        ("notes.txt", r"notes\.txt cannot be read as an image"),
    ],
)
def test_an_image_that_cannot_be_opened_is_named_once(name, told, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UsageError, match=told) as error:
        open_image(tmp_path / name)
    assert str(error.value).count(name) == 1


KINDS = ("AVIF", "BMP", "GIF", "ICNS", "ICO", "PCX", "PPM", "SPIDER", "TGA", "TIFF", "WEBP")


@pytest.mark.parametrize("kind", KINDS)
def test_cases_of_errors_of_pillow_are_told(kind, tmp_path):
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"Pillow cannot write {kind} here")
    file = io.BytesIO()
    Image.fromarray(NOISE).convert("F" if kind == "SPIDER" else "RGB").resize((32, 32)).save(file, kind)
    content, draws = file.getvalue(), random.Random(kind)
    path = tmp_path / "a.image"
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(draws.randint(0, 3)):
            damaged[draws.randrange(min(len(content), 400))] = draws.choice((0, 1, 127, 255, draws.randrange(256)))
        path.write_bytes(damaged[: draws.choice((len(content), draws.randrange(len(content))))])
        for read in (open_image, read_recipe, lambda path: to_pixels(open_image(path))):
            with contextlib.suppress(UsageError), warnings.catch_warnings(action="ignore"):
                read(path)


def test_a_sheet_lays_images_out_row_by_row():
    images = np.stack([np.full((2, 3, 3), 10 * i, np.uint8) for i in range(5)])
    sheet = np.asarray(contact_sheet(images, columns=3, gap=1))
    assert sheet.shape == (2 * 2 + 1, 3 * 3 + 2, 3)
    for i, image in enumerate(images):
        top, left = i // 3 * 3, i % 3 * 4
        assert np.array_equal(sheet[top : top + 2, left : left + 3], image)
    assert np.all(sheet[2] == 255)
    assert np.all(sheet[:, 3] == 255)
    assert np.all(sheet[3:, 8:] == 255)


def test_a_sheet_of_one_image_is_the_image():
    assert np.array_equal(np.asarray(contact_sheet(NOISE[None], columns=4)), NOISE)


def test_writing_replaces_the_whole_file(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"old and longer")
    os.link(tmp_path / "a.bin", tmp_path / "before.bin")
    write_whole(tmp_path / "a.bin", b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"new"
    # Another file took its name; a reader that had it open goes on reading the old one.
    assert (tmp_path / "before.bin").read_bytes() == b"old and longer"
    assert names(tmp_path) == ["a.bin", "before.bin"]


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("folder", "folder"),
        ("missing/a.bin", "No such file or directory"),
        ("file/a.bin", "Not a directory"),
        ("x" * 300, "File name too long"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="the reasons are those of POSIX")
def test_what_cannot_be_written_is_refused_and_nothing_is_left_behind(target, why, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").write_text("kept")
    (tmp_path / "file").write_text("kept")
    for write in (check_writable, lambda path: write_whole(path, b"new")):
        with pytest.raises(OutputError, match=f"cannot write .*{why}"):
            write(tmp_path / target)
        assert names(tmp_path) == ["file", "folder"]
        assert names(tmp_path / "folder") == ["kept"]
        assert (tmp_path / "file").read_text() == "kept"


def test_checking_leaves_what_is_there_as_it_is(tmp_path):
    (tmp_path / "a.png").write_text("old")
    os.utime(tmp_path / "a.png", (1, 1))
    check_writable(tmp_path / "a.png")
    check_writable(tmp_path / "new.png")
    check_folder(tmp_path)
    check_folder(tmp_path / "not" / "yet")
    assert names(tmp_path) == ["a.png"]
    assert (tmp_path / "a.png").read_text() == "old"
    assert (tmp_path / "a.png").stat().st_mtime == 1
    with pytest.raises(OutputError, match="cannot write to folder"):
        check_folder(tmp_path / "a.png" / "below")


def test_a_full_disk_leaves_the_old_file_and_no_partial_one(tmp_path):
    pytest.importorskip("resource")
    (tmp_path / "a.bin").write_bytes(b"old")
    code = """
import resource, sys
from pathlib import Path
from smalti import OutputError
from smalti.system.files import write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_whole(Path(sys.argv[1] + "/small.bin"), b"x" * 900)
try:
    write_whole(Path(sys.argv[1] + "/a.bin"), b"x" * 100_000)
except OutputError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "a.bin: File too large" in done.stdout, done.stderr
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin", "small.bin"]


def test_an_interrupt_while_writing_leaves_the_old_file_and_no_partial_one(tmp_path, monkeypatch):
    (tmp_path / "a.bin").write_bytes(b"old")
    began = []

    def interrupt(handle: int) -> None:
        began.extend(names(tmp_path))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a.bin", b"new")
    assert len(began) == 2
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_the_same_image_is_the_same_file(tmp_path):
    for name in ("a.png", "b.png"):
        save_recipe(Image.fromarray(NOISE), tmp_path / name, RECIPE)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    plain = io.BytesIO()
    Image.fromarray(NOISE).save(plain, "PNG")
    assert len((tmp_path / "a.png").read_bytes()) - len(plain.getvalue()) < 500
