"""Saving results: paths and open files, PNG, JPEG and WebP, one image or a sheet, and the recipe in all of them."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

import smalti
from smalti.saving.chunks import KEY, LARGEST_TEXT, PARAMETERS, exif_of
from smalti.saving.formats import FORMATS, JPEG_EXIF, LONGEST_SIDE, encoded
from smalti.saving.parameters import parameters
from smalti.saving.recipe import ALWAYS_BEFORE, encode_recipe
from smalti.saving.targets import check_source

RE_PARAM = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
"""How stable-diffusion-webui takes the last line apart."""
MAGIC = {"png": b"\x89PNG", "jpeg": b"\xff\xd8\xff", "webp": b"RIFF"}
LOSSLESS = ("png", "webp")


@pytest.fixture(scope="module")
def result(gen: smalti.Generator) -> smalti.Result:
    return gen.generate(3, 7, label=["lorelei", "planets", "lorelei"], steps=4, guidance=2.0)


def saved(result: smalti.Result, **named: Any) -> io.BytesIO:
    file = io.BytesIO()
    result.save(file, **named)
    return io.BytesIO(file.getvalue())


def pixels(image: Any) -> np.ndarray:
    return np.asarray(image if isinstance(image, Image.Image) else Image.open(image))


def told(file: io.BytesIO) -> str:
    """The parameters as other programs find them."""
    image = Image.open(file)
    if image.format == "PNG":
        image.load()
        return image.info[PARAMETERS]
    comment = image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert comment.startswith(b"UNICODE\0")
    return comment[8:].decode("utf-16-be")


def parsed(text: str) -> tuple[str, dict[str, str]]:
    """Prompt and values, as those programs read them."""
    *lines, last = text.strip().split("\n")
    values = {name: json.loads(value) if value[:1] == '"' else value for name, value in RE_PARAM.findall(last)}
    return "\n".join(lines), values


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("which", [None, 0, 2])
def test_cases_of_open_files_and_formats(format: Any, which: int | None, result: smalti.Result, tmp_path: Path) -> None:
    file = saved(result, format=format, which=which, columns=2)
    assert file.getvalue().startswith(MAGIC[format])
    size = (64 + 4 + 64, 64 + 4 + 64) if which is None else (64, 64)
    assert Image.open(file).size == size
    recipe = smalti.read_recipe(file)
    assert recipe == result.recipe(which, 2 if which is None else None)
    assert recipe.columns == (2 if which is None else 1)
    assert recipe.seeds == ((7, 8, 9) if which is None else (7 + which,))
    end = {"png": ".png", "jpeg": ".JPG", "webp": ".webp"}[format]
    result.save(tmp_path / f"a{end}", 2, which=which)
    assert (tmp_path / f"a{end}").read_bytes() == file.getvalue()
    result.save(str(tmp_path / "no end"), 2, which=which, format=format)
    assert (tmp_path / "no end").read_bytes() == file.getvalue()
    assert smalti.read_recipe(tmp_path / "no end") == smalti.read_recipe(str(tmp_path / f"a{end}")) == recipe


def test_a_png_and_a_webp_without_quality_keep_every_pixel_and_a_jpeg_nearly(result: smalti.Result) -> None:
    for format in LOSSLESS:
        assert np.array_equal(pixels(saved(result, format=format, which=1)), pixels(result.images[1]))
    off = pixels(saved(result, format="jpeg", which=1)).astype(int) - pixels(result.images[1])
    assert 0 < np.abs(off).mean() < 5


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_a_lower_quality_is_a_smaller_file(format: Any, result: smalti.Result) -> None:
    sizes = [len(saved(result, format=format, quality=quality).getvalue()) for quality in (1, 50, 100)]
    assert sizes == sorted(set(sizes))


def test_the_same_result_is_the_same_file(result: smalti.Result) -> None:
    for format in FORMATS:
        assert saved(result, format=format).getvalue() == saved(result, format=format).getvalue()


def test_cases_of_open_files_say_their_format_by_their_name(result: smalti.Result, tmp_path: Path) -> None:
    for end, format in ((".jpeg", "JPEG"), (".webp", "WEBP"), (".png", "PNG")):
        with (tmp_path / f"a{end}").open("wb", buffering=0) as file:
            result.save(file)
        with (tmp_path / f"a{end}").open("rb") as file:
            assert Image.open(file).format == format
            file.seek(0)
            assert smalti.read_recipe(file) == result.recipe()


class Pieces(io.RawIOBase):
    """A raw file that takes a few bytes at a time, as pipes do."""

    def __init__(self) -> None:
        self.taken = b""

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        part = bytes(content[:1000])
        self.taken += part
        return len(part)


class Plain:
    """An object that takes bytes and says nothing of it."""

    def __init__(self) -> None:
        self.taken = b""

    def write(self, content: bytes) -> None:
        self.taken += content


@pytest.mark.parametrize("kind", [Pieces, Plain])
def test_cases_of_open_files_that_take_bytes_otherwise(kind: Any, result: smalti.Result) -> None:
    target = kind()
    result.save(target, format="png")
    assert target.taken == saved(result, format="png").getvalue()


class Full(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        del content
        raise OSError(28, "No space left on device")


class Never(Full):
    def write(self, content: Any) -> Any:
        del content


@pytest.mark.parametrize(("target", "says"), [(Full(), "No space left"), (Never(), "no more bytes now")])
def test_cases_of_open_files_that_fail(target: Any, says: str, result: smalti.Result) -> None:
    with pytest.raises(smalti.OutputError, match=says):
        result.save(target, format="png")


@pytest.mark.parametrize(
    ("open_it", "says"),
    [
        (lambda path: path.open("w", encoding="utf-8"), "for text; .*mode 'wb'"),
        (lambda path: path.open("rb"), "not opened to write"),
        (lambda path: io.StringIO(), "for text"),
        (lambda path: io.BytesIO, "is a class"),
        (lambda path: sys.stdout, "for text"),
    ],
)
def test_cases_of_open_files_of_another_kind(open_it: Any, says: str, result: smalti.Result, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"kept")
    target = open_it(tmp_path / "a.png")
    with pytest.raises(smalti.UsageError, match=says):
        result.save(target, format="png")
    if target is not sys.stdout and not isinstance(target, type):
        target.close()
        with pytest.raises(smalti.UsageError, match="it is closed"):
            result.save(target, format="png")


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"target": "a.gif"}, r"target a\.gif: a path that ends in \.png, \.jpg, \.jpeg, \.webp"),
        ({"target": "a"}, "target a: a path that ends in"),
        ({"target": "a.png", "format": "jpeg"}, "format jpeg: target a.png ends as png does"),
        ({"target": "a.png", "format": "gif"}, "format 'gif': allowed are png, jpeg, webp"),
        ({"target": "a.png", "quality": 90}, "quality 90: a PNG keeps every pixel"),
        ({"target": "a.jpg", "quality": 101}, r"quality 101: allowed are 1 \.\. 100"),
        ({"target": "a.jpg", "columns": 0}, "columns 0: at least 1"),
        ({"target": "a.jpg", "which": 3}, r"which 3: allowed are 0 \.\. 2"),
        ({"target": "a.jpg", "which": -1}, r"which -1: allowed are 0 \.\. 2"),
        ({"target": io.BytesIO()}, "format None: an open file whose name says none needs it"),
        ({"target": bytearray(b"a.png")}, "target bytearray.*: .* a path is text"),
    ],
)
def test_what_cannot_be_saved_is_refused(
    named: dict[str, Any], says: str, result: smalti.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(smalti.UsageError, match=says):
        result.save(**named)
    assert not list(tmp_path.iterdir())


def test_cases_of_sheets_whose_recipe_a_jpeg_has_no_room_for(result: smalti.Result) -> None:
    many = 10_000
    long = replace(result.settings, seeds=tuple(range(2**63, 2**63 + many)), labels=("lorelei",) * many)
    large = replace(result, settings=long)
    with pytest.raises(smalti.UsageError, match=rf"format jpeg: it has room for {JPEG_EXIF} .* png or webp"):
        saved(large, format="jpeg")
    for format in LOSSLESS:
        assert smalti.read_recipe(saved(large, format=format)).seeds == long.seeds


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_a_picture_that_is_too_wide_for_a_format_is_refused(format: Any) -> None:
    wide = Image.new("L", (LONGEST_SIDE[format] + 1, 1))
    with pytest.raises(smalti.UsageError, match=f"format {format}: a side has at most"):
        encoded(wide, format)


@pytest.mark.parametrize("format", FORMATS)
def test_cases_of_recipes_that_web_uis_read(format: Any, result: smalti.Result) -> None:
    prompt, values = parsed(told(saved(result, format=format)))
    assert prompt == "lorelei, planets"
    digest = result.bundle.digest[:10]
    assert values == {
        "Steps": "4",
        "Sampler": "absorbing",
        "CFG scale": "2.0",
        "Seed": "7",
        "Size": "64x64",
        "Model hash": digest,
        "Model": "tiny",
        "Version": f"smalti {smalti.__version__}",
    }


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)
labels = st.lists(st.none() | st.text(st.characters(codec="utf-8"), max_size=20), min_size=1, max_size=4)


@settings(max_examples=200, deadline=None)
@given(bundle=words, version=words, strength=st.none() | st.floats(0.1, 1))
def test_cases_of_web_uis_that_read_odd_names(bundle: str, version: str, strength: float | None) -> None:
    recipe = smalti.Recipe(
        version=version,
        bundle=bundle.strip() or "x",
        bundle_digest="ab" * 32,
        seeds=(2**64 - 1,),
        labels=("a, b: c",),
        precision={},
        provider="cpu",
        columns=1,
        options={"guidance": 1.5, "size": (64, 32)},
        strength=strength,
    )
    prompt, values = parsed(parameters(recipe, "sundae", 12))
    assert prompt == "a, b: c"
    assert values["Model"] == recipe.bundle
    assert values["Version"].rstrip() == f"smalti {version}".rstrip()
    assert values["Seed"] == str(2**64 - 1)
    assert values.get("Denoising strength") == (None if strength is None else str(strength))


@settings(max_examples=100, deadline=None)
@given(labels)
def test_cases_of_recipes_with_any_labels_come_back_from_every_format(names: list[str | None]) -> None:
    recipe = smalti.Recipe(
        version="1",
        bundle="b",
        bundle_digest="ab" * 32,
        seeds=tuple(range(len(names))),
        labels=tuple(names),
        precision={"denoiser": "fp32"},
        provider="cpu",
        columns=1,
        options={"size": (64, 32), **ALWAYS_BEFORE},
    )
    texts = {KEY: encode_recipe(recipe), PARAMETERS: parameters(recipe, "absorbing", 1)}
    for format in FORMATS:
        file = io.BytesIO(encoded(Image.new("RGB", (8, 8)), format, texts=texts))
        assert smalti.read_recipe(file) == recipe
        assert told(file) == texts[PARAMETERS]


def test_cases_of_recipes_of_plain_draws_are_what_they_were(result: smalti.Result) -> None:
    content = msgspec.json.decode(encode_recipe(result.recipe()))
    assert not content.keys() & {"call", "image", "mask", "feather", "fit", "margins", "strength"}
    assert msgspec.convert(content, smalti.Recipe).call == "generate"


@pytest.mark.parametrize(
    ("history", "says"),
    [
        ("smalti: {", "its recipe cannot be read"),
        ("smalti: \u00ff", "its recipe cannot be read"),
        ("edited twice", "does not say how it was made"),
        ('{"version": "1"}', "does not say how it was made"),
        ("smalti: " + " " * LARGEST_TEXT, "at most .* are read"),
    ],
)
def test_cases_of_damaged_recipes_in_exif_are_refused(history: str, says: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ImageHistory] = history
    Image.new("RGB", (8, 8)).save(tmp_path / "a.webp", exif=exif)
    with pytest.raises(smalti.UsageError, match=says) as caught:
        smalti.read_recipe(tmp_path / "a.webp")
    assert "a.webp" in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(where=st.integers(0, 400), flip=st.integers(1, 255), cut=st.booleans(), format=st.sampled_from(["jpeg", "webp"]))
def test_a_damaged_file_is_refused_or_read_and_nothing_else(where: int, flip: int, cut: bool, format: Any) -> None:
    content = bytearray(encoded(Image.new("RGB", (8, 8)), format, texts={KEY: '{"version": "1"}', PARAMETERS: "a"}))
    where = min(where, len(content) - 1)
    content[where] ^= flip
    with pytest.raises(smalti.UsageError):
        smalti.read_recipe(io.BytesIO(bytes(content[:where] if cut else content)))


def test_the_block_of_exif_is_one_that_others_read_whole() -> None:
    exif = Image.Exif()
    exif.load(exif_of({KEY: '{"label": "été \U0001f600"}', PARAMETERS: "été \U0001f600"}))
    found = exif.get_ifd(ExifTags.IFD.Exif)
    assert found[ExifTags.Base.ExifVersion] == b"0232"
    assert found[ExifTags.Base.ImageHistory] == r'smalti: {"label": "\u00e9t\u00e9 \ud83d\ude00"}'
    assert found[ExifTags.Base.UserComment][8:].decode("utf-16-be") == "été \U0001f600"


class Text:
    def read(self, size: int) -> str:
        return "x" * size


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (io.StringIO("x"), "for text; .*mode 'rb'"),
        (Text(), "it gives no bytes"),
        (io.BytesIO(b""), "source open file: it is empty"),
        (io.BytesIO(b"\x89PNG\r\n\x1a\n"), "cannot be read as an image"),
        (Pieces(), "not opened to read"),
    ],
)
def test_cases_of_open_files_without_a_recipe(source: Any, says: str) -> None:
    with pytest.raises(smalti.UsageError, match=says):
        smalti.read_recipe(source)


def test_open_files_are_read_from_their_begin_and_pipes_from_where_they_stand(result: smalti.Result) -> None:
    file = saved(result, format="png")
    file.seek(0, io.SEEK_END)
    assert smalti.read_recipe(file) == result.recipe()
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as file_in, os.fdopen(reading, "rb") as file_out:
        result.save(file_in, which=1, format="jpeg")
        file_in.close()
        assert smalti.read_recipe(file_out) == result.recipe(1)
    assert isinstance(check_source("source", "a.png"), Path)
