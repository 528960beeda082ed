"""The example search.py: a folder is indexed once, copies find their originals, and an index goes on where it was."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

import smalti


@pytest.fixture
def folder(gen: smalti.Generator, tmp_path: Path) -> Path:
    """Eight pictures in two folders, and files that are none."""
    folder = tmp_path / "pictures"
    (folder / "deeper").mkdir(parents=True)
    for seed, picture in enumerate(gen.generate(8, seed=3).images):
        picture.save(folder / ("deeper" if seed % 2 else ".") / f"{seed}.png")
    (folder / "damaged.png").write_bytes((folder / "0.png").read_bytes()[:300])
    (folder / "none.jpg").write_bytes(b"no picture")
    (folder / "short.tif").write_bytes(b"II*\0" + (folder / "0.png").read_bytes()[4:200])
    (folder / "notes.txt").write_text("no picture either", encoding="utf-8")
    return folder


@pytest.fixture
def search(example, tiny_bundle: Path):
    return lambda *arguments: example("search.py", *arguments, "--bundle", tiny_bundle)


def test_copies_find_their_originals_and_files_that_cannot_be_read_are_named(search, folder, gen, tmp_path):
    index = tmp_path / "index.npz"
    code, out, err = search("index", folder, index)
    assert (code, out) == (0, "8 pictures, 8 of them new\n"), err
    assert [name for name in ("damaged.png", "none.jpg", "short.tif", "notes.txt") if f"{name}:" in err] == [
        "damaged.png",
        "none.jpg",
        "short.tif",
    ]
    for seed, picture in enumerate(gen.generate(8, seed=3).images[:2]):
        picture.resize((32, 32)).save(tmp_path / "copy.webp", lossless=True)
        code, out, err = search("find", index, tmp_path / "copy.webp", "--most", 2)
        lines = [line.split("  ") for line in out.splitlines()]
        assert Path(lines[0][1]).name == f"{seed}.png", err
        assert 1.001 >= float(lines[0][0]) >= float(lines[1][0])


def test_only_what_is_new_or_changed_is_described_again(search, folder, tmp_path):
    index = tmp_path / "index.npz"
    search("index", folder, index)
    first = np.load(index)
    (folder / "2.png").unlink()
    shutil.copy(folder / "4.png", folder / "new.png")
    shutil.copy(folder / "4.png", folder / "deeper/1.png")
    os.utime(folder / "deeper/1.png", (1, 1))
    assert search("index", folder, index)[:2] == (0, "8 pictures, 2 of them new\n")
    second = np.load(index)
    assert {str(folder / name) for name in ("new.png", "4.png")} <= set(second["paths"].tolist())
    assert str(folder / "2.png") not in second["paths"].tolist()
    rows = dict(zip(second["paths"].tolist(), second["features"]))
    assert np.array_equal(rows[str(folder / "deeper/1.png")], rows[str(folder / "4.png")])
    assert first["features"].dtype == second["features"].dtype == np.float32
    assert not list(tmp_path.glob("*.partial"))


def test_an_index_of_another_bundle_or_none_is_refused(search, example, folder, tmp_path):
    code, _, err = search("find", tmp_path / "none.npz", folder / "0.png")
    assert code == 1
    assert "make it with: search.py index" in err
    search("index", folder, tmp_path / "index.npz")
    code, _, err = example("search.py", "find", tmp_path / "index.npz", folder / "0.png")
    assert code == 1
    assert "another bundle" in err


def test_an_index_that_was_interrupted_goes_on(search, start, folder, tiny_bundle, tmp_path):
    for number in range(400):
        shutil.copy(folder / "4.png", folder / f"copy-{number}.png")
    process = start("search.py", "index", folder, tmp_path / "index.npz", "--bundle", tiny_bundle)
    told = ""
    while "\n20 of 411" not in told.replace("\r", "\n"):
        told += process.stderr.read(1)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    there = len(np.load(tmp_path / "index.npz")["paths"])
    assert 18 <= there < 408
    assert search("index", folder, tmp_path / "index.npz")[1] == f"408 pictures, {408 - there} of them new\n"
