"""Folders of pictures: written one by one, not drawn again, and whole whatever happens."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

import smalti
from smalti.drawing.folder import AT_ONCE
from smalti.saving.chunks import KEY
from smalti.saving.formats import FORMATS, save_png
from smalti.saving.recipe import encode_recipe
from smalti.system.files import STALE

ENDS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def drawn_by(gen: smalti.Generator, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The seeds of every draw from now on, batch by batch."""
    batches: list[tuple[int, ...]] = []
    draw = gen._draw

    def noted(plan: Any, watch: Any, started: float) -> smalti.Result:
        batches.append(plan.settings.seeds)
        return draw(plan, watch, started)

    monkeypatch.setattr(gen, "_draw", noted)
    return batches


@pytest.mark.parametrize("format", FORMATS)
def test_cases_of_folders_hold_each_picture_with_its_recipe(format: Any, gen: smalti.Generator, tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    folder = tmp_path / "new" / "folder"
    written = gen.generate_into(
        folder,
        6,
        seed=7,
        format=format,
        steps=3,
        on_picture=lambda done, total, path: told.append((done, total, path.name)),
    )
    assert (written.drawn, written.skipped) == (6, 0)
    assert written.timings.total > 0
    assert written.timings.calls == 3 * 2
    expected = [f"tiny-{seed}{ENDS[format]}" for seed in range(7, 13)]
    assert [path.name for path in written.paths] == expected
    assert sorted(expected) == names(folder)
    assert told == [(index + 1, 6, name) for index, name in enumerate(expected)]
    result = gen.generate(6, 7, steps=3)
    for index, path in enumerate(written.paths):
        assert smalti.read_recipe(path) == result.recipe(index)
        if format != "jpeg":
            assert np.array_equal(np.asarray(Image.open(path)), np.asarray(result.images[index]))


def test_cases_of_folders_that_are_complete_are_not_drawn_again(gen, tmp_path, monkeypatch) -> None:
    gen.generate_into(tmp_path, 5, label=["lorelei", None, 2, "planets", None])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    batches = drawn_by(gen, monkeypatch)
    told: list[int] = []
    again = gen.generate_into(
        str(tmp_path), 5, label=["lorelei", None, 2, "planets", None], on_picture=lambda *all: told.append(all[0])
    )
    assert (again.drawn, again.skipped, batches, again.timings.total) == (0, 5, [], 0)
    assert told == [1, 2, 3, 4, 5]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    more = gen.generate_into(tmp_path, seeds=[4, 10, 1], label=[None, "lorelei", None])
    assert (more.drawn, more.skipped, batches) == (1, 2, [(10,)])
    assert [path.name for path in more.paths] == ["tiny-4.png", "tiny-10.png", "tiny-1.png"]


def test_pictures_in_files_of_another_sheet_version_or_provider_are_the_same(gen, tmp_path) -> None:
    (path,) = gen.generate_into(tmp_path, 1).paths
    recipe = smalti.read_recipe(path)
    other = msgspec.structs.replace(recipe, version="0.0.1", provider="webgpu", columns=3)
    save_png(Image.open(path), path, {KEY: encode_recipe(other)})
    assert gen.generate_into(tmp_path, 1).skipped == 1


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.5},
        {"label": "lorelei"},
        {"steps": 2},
        {"size": (128, 64)},
    ],
)
def test_cases_of_folders_with_other_pictures_are_refused_before_drawing(change, gen, tmp_path, monkeypatch) -> None:
    gen.generate_into(tmp_path, 1, seed=2, label="planets")
    before = (tmp_path / "tiny-2.png").read_bytes()
    batches = drawn_by(gen, monkeypatch)
    asked = {"label": "planets", **change}
    with pytest.raises(smalti.UsageError, match=r"1 files .*tiny-2\.png: it was drawn otherwise.*say overwrite"):
        gen.generate_into(tmp_path, 4, **asked)
    assert batches == []
    assert names(tmp_path) == ["tiny-2.png"]
    assert (tmp_path / "tiny-2.png").read_bytes() == before
    assert gen.generate_into(tmp_path, 4, overwrite=True, **asked).drawn == 4
    assert (tmp_path / "tiny-2.png").read_bytes() != before
    assert gen.generate_into(tmp_path, 4, **asked).skipped == 4


def test_files_of_others_are_not_written_over(gen, tmp_path) -> None:
    for seed in range(5):
        (tmp_path / f"tiny-{seed}.png").write_bytes(b"mine")
    with pytest.raises(smalti.UsageError, match=r"5 files .*tiny-0.*cannot be read as an image.*; \.\.\.\)"):
        gen.generate_into(tmp_path, 6)
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"mine"}
    Image.new("RGB", (64, 64)).save(tmp_path / "tiny-9.png")
    with pytest.raises(smalti.UsageError, match="does not say how it was made"):
        gen.generate_into(tmp_path, 1, seed=9)
    assert gen.generate_into(tmp_path, 6, overwrite=True).drawn == 6
    gen.generate_into(tmp_path, 6)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_cases_of_folders_keep_what_is_ready_at_an_interrupt(stop, gen, tmp_path, monkeypatch) -> None:
    def interrupt(done: int, total: int, path: Path) -> None:
        del total, path
        if done == 3:
            raise stop("now")

    with pytest.raises(stop):
        gen.generate_into(tmp_path, 10, on_picture=interrupt)
    assert names(tmp_path) == ["tiny-0.png", "tiny-1.png", "tiny-2.png"]
    batches = drawn_by(gen, monkeypatch)
    assert gen.generate_into(tmp_path, 10).skipped == 3
    assert batches == [(3, 4, 5, 6), (7, 8, 9)]
    assert [len(batch) for batch in batches] <= [AT_ONCE] * 2


def test_cases_of_folders_keep_what_is_ready_when_cancelled(gen, tmp_path) -> None:
    cancel = threading.Event()
    with pytest.raises(smalti.Cancelled):
        gen.generate_into(tmp_path, 20, cancel=cancel, on_picture=lambda done, *_: cancel.set() if done == 6 else None)
    assert len(names(tmp_path)) == 2 * AT_ONCE
    assert gen.generate_into(tmp_path, 9).skipped == 8


def test_only_a_part_is_drawn_at_once_so_that_memory_is_bounded(gen, tmp_path, monkeypatch) -> None:
    from smalti.families.limits import draw_bytes
    from smalti.families.settings import resolve

    two = draw_bytes(gen.manifest, resolve(gen.manifest, 2, 0, {}))
    monkeypatch.setattr(gen, "limits", replace(gen.limits, memory=two))
    with pytest.raises(smalti.OutOfMemory):
        gen.generate(5)
    batches = drawn_by(gen, monkeypatch)
    assert gen.generate_into(tmp_path, 5).drawn == 5
    assert batches == [(0, 1), (2, 3), (4,)]
    monkeypatch.setattr(gen, "limits", replace(gen.limits, memory=1))
    with pytest.raises(smalti.OutOfMemory):
        gen.generate_into(tmp_path / "other", 1)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"folder": ""}, "folder is empty"),
        ({"folder": None}, "folder None"),
        ({"folder": "a\0b"}, "NUL"),
        ({"format": "gif"}, "format 'gif'"),
        ({"format": None}, "format None"),
        ({"quality": 5}, "quality 5: a PNG"),
        ({"overwrite": 1}, "overwrite 1"),
        ({"on_picture": 5}, "on_picture 5"),
        ({"seeds": [1, 2, 1]}, "seeds: 1 is there twice"),
        ({"count": 0}, "count 0"),
        ({"budget_ms": 5}, "budget_ms: no such option"),
    ],
)
def test_what_cannot_be_drawn_into_a_folder_is_refused(named, says, gen, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(smalti.UsageError, match=says):
        gen.generate_into(**{"folder": "new", **named})
    assert not names(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(gen, tmp_path) -> None:
    (tmp_path / "file").write_text("kept")
    for place in ("file", "file/below"):
        with pytest.raises(smalti.OutputError, match="cannot write to folder"):
            gen.generate_into(tmp_path / place, 1)
    (tmp_path / "tiny-0.png").mkdir()
    with pytest.raises(smalti.OutputError, match=r"cannot write .*tiny-0\.png"):
        gen.generate_into(tmp_path, 1, overwrite=True)
    assert names(tmp_path) == ["file", "tiny-0.png"]


def test_a_folder_is_awaited(gen, tmp_path) -> None:
    written = asyncio.run(smalti.aio.Generator(gen).generate_into(tmp_path, 2))
    assert names(tmp_path) == [path.name for path in written.paths] == ["tiny-0.png", "tiny-1.png"]


KILLS = 100
WRITER = """
import os, random, signal, sys, time
from dataclasses import replace
from pathlib import Path
import numpy as np
import smalti
from PIL import Image

folder, draws = Path(sys.argv[1]), random.Random(0)
folder.mkdir()
result = smalti.load(backend=smalti.NullBackend()).generate(12, steps=1)
noise = np.random.default_rng(0).integers(0, 256, (12, 80, 80, 3), np.uint8)
result = replace(result, images=[Image.fromarray(pixels) for pixels in noise])
started = time.perf_counter()
for end in (".png", ".jpg", ".webp"):
    result.save(folder / f"avatars-0{end}", which=0)
longest = max(0.1, 3 * (time.perf_counter() - started))  # so that a busy machine writes some files too
for kill in range(int(sys.argv[2])):
    child = os.fork()
    if not child:
        while True:
            for end in (".png", ".jpg", ".webp"):
                result.save(folder / f"avatars-{kill % 12}{end}", which=kill % 12)
            kill += 1
    time.sleep(draws.uniform(0, longest))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it has no fork")
def test_cases_of_folders_hold_only_whole_pictures_after_a_hundred_kills(python, tmp_path) -> None:
    folder = tmp_path / "folder"
    done = python(WRITER, folder, KILLS)
    assert done.returncode == 0, done.stderr
    whole = [path for path in folder.iterdir() if not path.name.startswith(".")]
    partial = [path for path in folder.iterdir() if path.name.startswith(".")]
    assert len(whole) > 20
    assert {path.suffix for path in whole} == {".png", ".jpg", ".webp"}
    assert partial  # so that some were killed in the middle of a file
    assert all(path.name.endswith(".partial") for path in partial)
    gen = smalti.load(backend=smalti.NullBackend())
    for path in whole:
        with Image.open(path) as image:
            image.load()
        assert smalti.read_recipe(path).seeds == (int(path.stem.split("-")[1]),)
    young = gen.generate_into(folder, 14, steps=1)
    assert young.skipped == len([path for path in whole if path.suffix == ".png"])
    assert all(path.exists() for path in partial)  # they may be another process's, which writes them now
    for path in partial:
        os.utime(path, (time.time() - STALE - 1,) * 2)
    gen.generate_into(folder, 14, steps=1)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
