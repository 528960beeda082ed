from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from smalti.system import files as replace
from smalti.system import platform
from smalti.system.files import replace_folder

FOREVER = """
import sys
from pathlib import Path
from smalti.system.files import replace_folder
target = Path(sys.argv[1])
number = 0
while True:
    new = target.with_name(f".new-{number}")
    new.mkdir()
    for name in "ab":
        (new / name).write_text(str(number))
    replace_folder(new, target)
    if not number:
        print("begun", flush=True)
    number += 1
"""
"""Replaces a folder again and again; each version has two files with equal content."""


def folder(path: Path, content: str) -> Path:
    path.mkdir()
    (path / "file").write_text(content)
    return path


@pytest.mark.parametrize("at_once", [True, False])
def test_the_new_folder_stands_in_the_old_ones_place(
    at_once: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not at_once:
        monkeypatch.setattr(replace, "exchanged", lambda first, second: False)
    target = tmp_path / "target"
    for content in ("first", "second", "third"):
        replace_folder(folder(tmp_path / "new", content), target)
        assert (target / "file").read_text() == content
        assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_where_no_c_library_can_be_asked_two_renames_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def windows(name: str | None) -> None:
        raise TypeError("argument of type 'NoneType' is not iterable")

    monkeypatch.setattr(platform.sys, "platform", "win32")
    monkeypatch.setattr(platform.ctypes, "CDLL", windows)
    target = folder(tmp_path / "target", "old")
    replace_folder(folder(tmp_path / "new", "new"), target)
    assert (target / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replace, "exchanged", lambda first, second: False)
    target = folder(tmp_path / "target", "old")
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "nothing", target)
    assert (target / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="elsewhere two renames are needed")
def test_killed_at_any_moment_one_of_the_two_is_there_and_whole(tmp_path: Path) -> None:
    target = tmp_path / "target"
    seen: set[str] = set()
    for attempt in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", FOREVER, target], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            until = time.monotonic() + 0.02 * (attempt + 1)
            while time.monotonic() < until:
                assert target.is_dir()
            process.kill()
        found = [(target / name).read_text() for name in "ab"]
        assert found[0] == found[1]
        seen.add(found[0])
        for left in tmp_path.glob(".new-*"):
            for file in left.iterdir():
                file.unlink()
            left.rmdir()
    assert len(seen) > 1


def test_the_old_folder_comes_back_when_the_second_rename_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replace, "exchanged", lambda first, second: False)
    target, rename = folder(tmp_path / "target", "old"), Path.rename

    def interrupted(self: Path, to: Path) -> Path:
        if self.name == "new":
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace_folder(folder(tmp_path / "new", "new"), target)
    assert (target / "file").read_text() == "old"
