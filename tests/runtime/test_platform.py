"""Windows, simulated: files that another program holds open, names, signals. None of it ran on Windows."""

from __future__ import annotations

import enum
import os
import shutil
import signal
import sys
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.windows import Clock, busy, held, on_windows
from smalti.bundle.manifest_file import is_plain
from smalti.cli import main as cli
from smalti.errors import OutputError
from smalti.system import files, platform
from smalti.system.files import (
    check_folder,
    check_writable,
    portable_name,
    remove_folder,
    replace_file,
    replace_folder,
    whole_folder,
)
from smalti.system.platform import is_portable, patiently, quoted

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it plays Windows on other systems")

BREAK = getattr(signal, "SIGUSR1", signal.SIGTERM)


def names(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize("number", platform.HELD)
@pytest.mark.parametrize("times", [0, 1, 7])
def test_what_is_held_open_for_a_moment_is_tried_again(times: int, number: int, clock: Clock) -> None:
    assert patiently(busy(lambda: "done", times, number)) == "done"
    assert clock.now == pytest.approx(times * platform.PAUSE)


def test_what_stays_open_is_told_after_a_second(clock: Clock) -> None:
    with pytest.raises(PermissionError, match="being used"):
        patiently(busy(lambda: None, 10**9))
    assert 1.0 <= clock.now < 1.1


@pytest.mark.parametrize("error", [PermissionError(13, "no"), FileNotFoundError(2, "no"), held(3), held(112)])
def test_other_errors_are_told_at_once(error: OSError, clock: Clock) -> None:
    def action() -> None:
        raise error

    with pytest.raises(type(error), match=error.strerror) as caught:
        patiently(action)
    assert caught.value is error
    assert clock.now == 0


@pytest.mark.parametrize("times", [1, 10**9])
def test_a_file_that_a_reader_holds_is_replaced_or_stays(
    times: int, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", busy(os.replace, times))
    monkeypatch.setattr(os, "unlink", busy(os.unlink, 3))  # a scanner has the partial file open as well
    if times == 1:
        replace_file(path, b"new")
    else:
        with pytest.raises(OutputError, match=r"cannot write .*being used"):
            files.write_whole(path, b"new")
    assert path.read_bytes() == (b"new" if times == 1 else b"old")
    assert names(tmp_path) == ["file"]


def test_folders_are_moved_and_replaced_when_they_are_let_go(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "exchanged", lambda first, second: False)
    monkeypatch.setattr(files.shutil, "rmtree", busy(shutil.rmtree, 2, 145))
    for content in ("first", "second", "third"):
        with whole_folder(tmp_path / "target") as partial:
            (partial / "file").write_text(content)
            monkeypatch.setattr(os, "rename", busy(os.rename, 3, 5))
            replace_folder(partial, tmp_path / "target")
        assert (tmp_path / "target/file").read_text() == content
        assert names(tmp_path) == ["target", "target/file"]


def test_a_folder_that_cannot_be_replaced_is_still_there(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "exchanged", lambda first, second: False)
    target, new, rename = tmp_path / "target", tmp_path / "new", os.rename
    for folder in (target, new):
        folder.mkdir()
        (folder / "file").write_text(folder.name)

    def refuses(source: Path, to: Path) -> None:
        if Path(source).name == "new":
            raise held()
        rename(source, to)

    monkeypatch.setattr(os, "rename", refuses)
    with pytest.raises(PermissionError):
        replace_folder(new, target)
    assert (target / "file").read_text() == "target"


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "exchanged", lambda first, second: False)
    for name in ("target", "new", "new.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    replace_folder(tmp_path / "new", tmp_path / "target")
    assert names(tmp_path) == ["target", "target/file"]
    assert (tmp_path / "target/file").read_text() == "new"


def test_what_cannot_be_removed_stays_without_an_error(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(os, "rmdir", busy(os.rmdir, 10**9))
    remove_folder(tmp_path / "folder")
    remove_folder(tmp_path / "nothing")
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize(
    "name", ["nul", "NUL.png", "con.onnx", "aux.tar.gz", "com1", "LPT9.txt", "com¹.x", "conin$", "nul .png"]
)
def test_a_device_is_no_name(name: str) -> None:
    assert not is_portable(name)


@pytest.mark.parametrize("name", ["null", "console.png", "com", "com10", "a.nul", "auxiliary", ".con", "avatars-7.png"])
def test_what_looks_like_a_device_is_a_name(name: str) -> None:
    assert is_portable(name)


@given(st.text(max_size=12) | st.sampled_from(["con", "aux", "nul", "com3", "prn"]).map(lambda name: f"{name}.x"))
def test_what_windows_keeps_for_itself_is_not_portable(name: str) -> None:
    if PureWindowsPath(name).is_reserved() or name != name.rstrip(" .") or any(sign in name for sign in '<>:"|?*\\/\0'):
        assert not is_portable(name)


@given(st.text(max_size=300) | st.sampled_from(["../../evil", "C:\\x", "nul", "a:b", "", "..", "con.x", "ä λ 文"]))
def test_any_text_becomes_a_name_that_stays_in_its_folder(text: str) -> None:
    name = portable_name(text)
    assert is_portable(name)
    assert is_portable(f"{name}-7.png")
    assert 0 < len(name) <= 61
    assert not {"/", "\\", ":"} & set(name)
    assert name not in (".", "..")
    assert portable_name(name) == name
    if is_plain(text) and "/" not in text and len(text) <= 60:
        assert name == text


@pytest.mark.parametrize("file", ["nul.onnx", "a/con", "weights.", "a./b", "AUX", "lpt1.data"])
def test_a_bundle_declares_no_file_that_windows_cannot_have(file: str) -> None:
    assert not is_plain(file)


def test_odd_names_and_read_only_files_are_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept.png").touch()
    monkeypatch.setattr(platform.os, "access", lambda path, mode: Path(path).name != "kept.png")
    check_writable(tmp_path / "nul.png")  # a name like any other here
    check_writable(tmp_path / "kept.png")  # a new file takes the place of a read-only one
    on_windows(monkeypatch)
    for name in ("nul.png", "a:b.png", "what?.png", "dots..."):
        with pytest.raises(OutputError, match=r"cannot write .*: Windows takes no file of this name"):
            check_writable(tmp_path / name)
    with pytest.raises(OutputError, match="Windows takes no file of this name"):
        check_folder(tmp_path / "con")
    with pytest.raises(OutputError, match="it is read-only"):
        check_writable(tmp_path / "kept.png")
    check_writable(tmp_path / "new.png")
    check_folder(tmp_path)
    check_folder(tmp_path / "..")
    assert names(tmp_path) == ["kept.png"]


def test_a_drive_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda self: False)
    with pytest.raises(OutputError, match=r"cannot write to folder .*: there is no such drive"):
        check_folder(Path("z/out"))


def test_a_path_is_quoted_as_its_shell_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert quoted("it's here") == "'it'\"'\"'s here'"
    on_windows(monkeypatch)
    assert quoted("C:\\My files") == '"C:\\My files"'


def test_control_break_ends_a_command_as_termination_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signals = enum.Enum("Signals", {"SIGTERM": signal.SIGTERM, "SIGBREAK": BREAK})
    assert platform.ending_signals() == (signal.SIGTERM,)
    monkeypatch.setattr(platform, "signal", SimpleNamespace(Signals=signals))
    assert [one.name for one in platform.ending_signals()] == ["SIGTERM", "SIGBREAK"]
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, BREAK)}
    monkeypatch.setattr(platform, "ending_signals", lambda: (signal.SIGTERM, BREAK))
    monkeypatch.setattr(cli, "_run", lambda arguments: signal.raise_signal(BREAK))
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main([])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert ended.value.code == 143
    assert capsys.readouterr().err == "smalti: terminated\n"
