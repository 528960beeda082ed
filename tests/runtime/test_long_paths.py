"""Paths too long for Windows, simulated: they are written and read with its prefix. None of it ran on Windows."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path, PureWindowsPath

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import smalti
from helpers.windows import PREFIX, limit_paths, on_windows
from smalti.bundle.manifest import FileRecord
from smalti.bundle.reader import embedded_bundles, open_bundle, read_checked
from smalti.codec.opening import open_image
from smalti.errors import OutputError
from smalti.system.files import (
    check_folder,
    check_writable,
    move_folder,
    remove_folder,
    replace_file,
    replace_folder,
    whole_folder,
)
from smalti.system.platform import extended, reachable
from smalti.verification.polygraphy import check_new

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it plays Windows on other systems")


def of_length(folder: Path, length: int) -> Path:
    """A path below ``folder`` that has so many characters."""
    while (left := length - len(str(folder))) > 100:
        folder /= "d" * 60
    return folder / ("e" * (left - 1))


WORDS = st.text("abcXYZ0189 -_.äλ文", min_size=1, max_size=12).filter(lambda word: word.strip(" .") == word != "")
ROOTS = st.sampled_from(["C:\\", "z:\\", "\\\\server\\share\\", "\\\\wsl$\\Ubuntu\\"])


@given(ROOTS, st.lists(WORDS, max_size=6))
def test_the_prefix_leads_to_the_same_place(root: str, words: list[str]) -> None:
    full = root + "\\".join(words)
    long = extended(full)
    assert long.startswith(PREFIX)
    assert long.removeprefix(f"{PREFIX}UNC\\" if root.startswith("\\") else PREFIX) == full.lstrip("\\")
    assert PureWindowsPath(long).parts[1:] == PureWindowsPath(full).parts[1:]
    assert PureWindowsPath(long).is_absolute()
    assert extended(long) == long


def test_only_long_paths_of_windows_get_the_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / "a" / ("b" * 200)
    assert reachable(long) is long
    on_windows(monkeypatch)
    assert reachable(Path("out.png")) == Path("out.png")
    assert str(reachable(long)) == f"{PREFIX}{long}"
    short = Path("/" + "c" * 140)
    assert reachable(short) is short
    assert str(reachable(short, room=150)).startswith(PREFIX)
    # Windows counts in UTF-16, in which this one has two.
    assert str(reachable(Path("/" + "\N{GRINNING FACE}" * 80))).startswith(PREFIX)


def test_the_simulated_limit_refuses_what_has_no_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_paths(monkeypatch, tmp_path)
    long = tmp_path / ("a" * 130) / ("b" * 130)
    with pytest.raises(FileNotFoundError, match="cannot find the path"):
        long.mkdir(parents=True)
    reachable(long).mkdir(parents=True)
    assert reachable(long).is_dir()
    assert not long.is_dir()


def test_files_and_folders_with_long_paths_are_written_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_paths(monkeypatch, tmp_path)
    for length in (*range(140, 280, 3), 600):
        folder = of_length(tmp_path, length)
        check_folder(folder)
        with whole_folder(folder) as partial:
            (partial / ("n" * 90)).write_bytes(b"old")
            move_folder(partial, folder)
        with whole_folder(folder) as partial:
            (partial / ("n" * 90)).write_bytes(b"new")
            replace_folder(partial, folder)
        assert (reachable(folder) / ("n" * 90)).read_bytes() == b"new"
        file = folder / "picture.png"
        check_writable(file)
        replace_file(file, b"first")
        replace_file(file, b"second")
        assert reachable(file).read_bytes() == b"second"
        with pytest.raises(OutputError):
            check_folder(file / "below")
        remove_folder(reachable(folder))
        assert not reachable(folder).exists()


@pytest.mark.parametrize("length", [140, 150, 200, 230, 245, 255, 270, 400])
def test_a_bundle_with_a_long_path_is_opened(length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_bundle()
    long = of_length(tmp_path, length)
    long.parent.mkdir(parents=True, exist_ok=True)
    long.symlink_to(embedded_bundles()["avatars"])
    limit_paths(monkeypatch, tmp_path)
    opened = open_bundle(long)
    assert opened.digest == source.digest
    assert all(len(opened.read(record.file)) == record.bytes for record in opened.manifest.files())
    with pytest.raises(Exception, match="exists"):
        check_new(long)


def test_a_file_of_a_bundle_with_a_long_name_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = of_length(tmp_path, 140)
    folder.mkdir(parents=True)
    (folder / ("n" * 190)).write_bytes(b"content")
    limit_paths(monkeypatch, tmp_path)
    assert reachable(folder) is folder
    record = FileRecord(file="n" * 190, sha256=hashlib.sha256(b"content").hexdigest(), bytes=7)
    assert read_checked(folder, record) == b"content"


@pytest.mark.parametrize("length", [140, 230, 300])
def test_pictures_stay_in_the_folder_whatever_the_bundle_is_called(
    length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_paths(monkeypatch, tmp_path)
    bundle = open_bundle()
    for name, file in (("avatars", "avatars-7.png"), ("../../evil", "_.._evil-7.png"), ("nul", "_nul-7.png")):
        folder = of_length(tmp_path, length)
        named = dataclasses.replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, name=name))
        gen = smalti.load(named, backend=smalti.NullBackend())
        (path,) = gen.generate_into(folder, 1, seed=7, steps=1).paths
        assert path == folder / file
        assert open_image(path).size == (256, 256)
        assert gen.generate_into(folder, 1, seed=7, steps=1).skipped == 1
