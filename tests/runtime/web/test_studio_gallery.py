"""The gallery as a folder, and the frames of the socket: names, damage, full disks, and what goes in comes out."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import smalti
from helpers.web_pictures import same
from smalti.errors import OutputError, SmaltiError, UsageError
from smalti.saving.recipe import digest
from smalti.web.calls import Call
from smalti.web.failures import Refused
from smalti.web.pictures import file_of
from smalti.web.serving import default_limits
from smalti.web.studio import gallery as module
from smalti.web.studio.frames import Draw, packed, unpacked
from smalti.web.studio.gallery import Gallery
from smalti.web.studio.thumbs import SIDE, Thumbs

HOSTILE = (
    "../a.png",
    "..",
    "",
    ".png",
    "a/b.png",
    "a\\b.png",
    "C:a.png",
    "con.png",
    "a.png\0",
    "a\n.png",
    "a.txt",
    "a.png ",
)


@pytest.fixture(scope="module")
def generator() -> smalti.Generator:
    return smalti.load(backend=smalti.NullBackend())


@pytest.fixture
def kept(tmp_path: Path) -> Gallery:
    return Gallery(tmp_path / "gallery")


def keep(gallery: Gallery, result: smalti.Result, which: int = 0) -> str:
    return gallery.keep(result, which, file_of(result, which))


def listed(gallery: Gallery) -> list[str]:
    return [one.name for one in gallery.page()[0]]


def test_pictures_are_listed_newest_first_with_what_they_say(kept: Gallery, generator: smalti.Generator) -> None:
    assert listed(kept) == []
    assert not kept.folder.exists()
    result = generator.generate(count=3, seed=2**64 - 3, label="planets", steps=2)
    names = [keep(kept, result, which) for which in range(3)]
    assert listed(kept) == names[::-1]
    newest = kept.page()[0][0].to_dict()
    assert newest["recipe"]["seeds"] == [str(2**64 - 1)]
    assert newest["recipe"]["labels"] == ["planets"]
    assert same((kept.folder / names[0]).read_bytes(), result.images[0])
    json.dumps(newest)


def test_pages_follow_each_other(kept: Gallery, generator: smalti.Generator) -> None:
    result = generator.generate(count=7, steps=1)
    names = [keep(kept, result, which) for which in range(7)][::-1]
    first, more = kept.page(most=3)
    second, still = kept.page(first[-1].name, most=4)
    assert [one.name for one in first + second] == names
    assert (more, still) == (True, False)


def test_the_same_file_is_kept_once_and_another_of_its_name_beside_it(
    kept: Gallery, generator: smalti.Generator
) -> None:
    result = generator.generate(seed=5, label="critters", steps=2)
    assert keep(kept, result) == keep(kept, result) == "avatars-critters-5.png"
    other = generator.generate(seed=5, label="critters", steps=3)
    assert keep(kept, other) == "avatars-critters-5-2.png" == keep(kept, other)


def test_what_cannot_be_read_is_left_out_and_left_alone(kept: Gallery, generator: smalti.Generator) -> None:
    result = generator.generate(count=2, steps=1)
    whole, cut = (keep(kept, result, which) for which in range(2))
    content = (kept.folder / cut).read_bytes()
    (kept.folder / cut).write_bytes(content[:60])
    (kept.folder / "empty.png").touch()
    (kept.folder / "text.png").write_text("no picture")
    (kept.folder / "folder.png").mkdir()
    result.images[0].save(kept.folder / "foreign.png")
    (kept.folder / "link.png").symlink_to(kept.folder / whole)
    before = sorted(path.name for path in kept.folder.iterdir())
    assert listed(kept) == [whole]
    assert sorted(path.name for path in kept.folder.iterdir()) == before


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leads_out_of_the_folder(kept: Gallery, name: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"outside")
    for act in (kept.path, kept.delete, kept.restore):
        with pytest.raises(Refused, match="gallery has no picture"):
            act(name)
    assert (tmp_path / "a.png").exists()


def test_a_link_is_no_picture_of_the_gallery(kept: Gallery, tmp_path: Path) -> None:
    kept.folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"outside")
    (kept.folder / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(Refused):
        kept.path("link.png")


@given(st.text(max_size=40))
def test_any_other_name_is_refused_or_stays_inside(name: str) -> None:
    gallery = Gallery(Path("nowhere-at-all"))
    with pytest.raises(Refused):
        gallery.path(name)
    assert gallery.inputs.find(name) is None


def test_what_is_deleted_comes_back_until_the_studio_starts_anew(kept: Gallery, generator: smalti.Generator) -> None:
    name = keep(kept, generator.generate(steps=1))
    kept.delete(name)
    assert listed(kept) == []
    kept.restore(name)
    assert listed(kept) == [name]
    kept.delete(name)
    anew = Gallery(kept.folder)
    assert listed(anew) == []
    with pytest.raises(Refused, match="started anew"):
        anew.restore(name)


def test_inputs_go_with_the_last_picture_that_was_painted_on_them(kept: Gallery, generator: smalti.Generator) -> None:
    first = generator.generate(steps=1)
    content, pixels = file_of(first, 0), np.asarray(first.images[0])
    varied = [generator.vary(pixels, seed=seed, steps=1) for seed in (1, 2)]
    names = [keep(kept, one) for one in varied]
    named = kept.inputs.keep(pixels, content)
    assert named == digest(pixels) == varied[0].origin.image
    for name, stays in zip(names, (True, False)):
        kept.delete(name)
        kept = Gallery(kept.folder)
        assert (kept.inputs.find(named) is not None) == stays


def test_a_full_disk_is_told_and_leaves_nothing(
    kept: Gallery, generator: smalti.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OutputError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(module, "write_whole", full)
    with pytest.raises(OutputError, match="No space left"):
        keep(kept, generator.generate(steps=1))
    assert list(kept.folder.iterdir()) == []


def test_a_folder_that_takes_nothing_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="no folder"):
        Gallery(tmp_path / "file")


def test_small_copies_are_small_and_of_the_picture_as_it_is_now(kept: Gallery, generator: smalti.Generator) -> None:
    name = keep(kept, generator.generate(size=(512, 256), steps=1))
    thumbs = Thumbs(default_limits())
    small = thumbs.of(kept.path(name))
    assert small == thumbs.of(kept.path(name))
    assert small[:2] == b"\xff\xd8"
    (kept.folder / name).write_bytes(b"damaged")
    with pytest.raises(UsageError):
        thumbs.of(kept.path(name))
    with pytest.raises(UsageError, match="at most"):
        Thumbs(replace(default_limits(), pixels=SIDE)).of(kept.path(keep(kept, generator.generate(steps=1))))


@given(
    st.dictionaries(st.sampled_from(["image", "mask"]), st.binary(max_size=60)),
    st.integers(0, 2**53),
    st.integers(0, 2**64 - 1),
)
def test_frames_come_out_as_they_went_in(files: dict[str, bytes], number: int, seed: int) -> None:
    asked, found = unpacked(packed({"do": "draw", "id": number, "seed": str(seed)}, list(files.items())))
    assert isinstance(asked, Draw)
    assert found == files
    assert (asked.id, asked.seed) == (number, str(seed))


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_be_refused(frame: bytes) -> None:
    with pytest.raises(UsageError, match="frame"):
        unpacked(frame)
    with pytest.raises(UsageError, match="frame"):
        unpacked(struct.pack("<I", len(frame)) + frame)


def call_of(about: dict[str, Any]) -> Call:
    asked, _ = unpacked(packed({"do": "draw", "id": 1, **about}))
    assert isinstance(asked, Draw)
    return asked.to_call({"image": None} if asked.call == "vary" else {})


@pytest.mark.parametrize(
    "about",
    [
        {"options": {"threads": 64}},
        {"options": {"steps": "many"}},
        {"options": {"label": "planets"}},
        {"seed": "-1"},
        {"seed": str(2**64)},
        {"seed": "٣"},
        {"call": "inpaint"},
        {"call": "vary", "left": 16},
        {"call": "__init__"},
        {"threads": 64},
        {"count": 0},
    ],
    ids=str,
)
def test_what_is_not_allowed_is_refused(about: dict[str, Any]) -> None:
    with pytest.raises(SmaltiError):
        call_of(about)


def test_options_are_taken_as_the_library_has_them() -> None:
    about = {"options": {"size": [512, 256], "remask": "mlm", "steps": 3}}
    assert call_of(about).options == {"size": (512, 256), "remask": "mlm", "steps": 3}
