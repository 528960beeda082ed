"""Places that are no plain files: links, pipes, sockets, files that only their owner reads, and files cut in half."""

from __future__ import annotations

import os
import socket
import stat
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import smalti
from smalti.system.files import check_writable, replace_folder, whole_folder, write_whole

pytestmark = [
    pytest.mark.cases,
    pytest.mark.skipif(sys.platform == "win32", reason="pipes, sockets and modes of POSIX"),
]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def read_in_thread(path: Path) -> tuple[threading.Thread, list[bytes]]:
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()), daemon=True)
    reader.start()
    return reader, got


@pytest.mark.parametrize("through", ["pipe.png", "link.png"])
def test_cases_of_named_pipes_take_the_bytes_and_stay(through: str, gen: smalti.Generator, tmp_path: Path) -> None:
    fifo = pipe(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(fifo)
    reader, got = read_in_thread(fifo)
    result = gen.generate(seed=3, steps=2)
    result.save(tmp_path / through)
    reader.join(20)
    result.save(tmp_path / "plain.png")
    assert got == [(tmp_path / "plain.png").read_bytes()]
    assert stat.S_ISFIFO(fifo.lstat().st_mode)
    assert (tmp_path / "link.png").is_symlink()


def test_cases_of_the_pipe_behind_a_descriptor_take_the_bytes(gen: smalti.Generator) -> None:
    if not os.path.isdir("/dev/fd"):
        pytest.skip("no /dev/fd here")
    near, far = os.pipe()
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(os.fdopen(near, "rb").read()), daemon=True)
    reader.start()
    gen.generate(seed=3, steps=2).save(f"/dev/fd/{far}", format="png")
    os.close(far)
    reader.join(20)
    assert got[0].startswith(b"\x89PNG")


def test_cases_of_sockets_and_folders_are_refused_and_stay(gen: smalti.Generator, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(tmp_path)  # a socket's path is short
        try:
            listening.bind("s.png")
        finally:
            os.chdir(here)
        (tmp_path / "f.png").mkdir()
        result = gen.generate(seed=3, steps=2)
        for name, told in (("s.png", "it is a socket"), ("f.png", "it is a folder")):
            for work in (result.save, check_writable):
                with pytest.raises(smalti.OutputError, match=rf"cannot write .*{name}: {told}"):
                    work(tmp_path / name)
        assert stat.S_ISSOCK((tmp_path / "s.png").lstat().st_mode)
    assert names(tmp_path) == {"s.png", "f.png"}


@pytest.mark.parametrize("there", [True, False])
def test_cases_of_links_are_followed(there: bool, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    target, link = tmp_path / "other" / "file", tmp_path / "link"
    if there:
        target.write_bytes(b"old")
    link.symlink_to(Path("other") / "file")
    check_writable(link)
    write_whole(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert names(tmp_path / "other") == {"file"}


def test_cases_of_links_in_a_circle_and_into_nowhere_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing" / "file")
    for name, told in (("one", "leads to itself"), ("nowhere", "No such file")):
        for work in (check_writable, lambda path: write_whole(path, b"new")):
            with pytest.raises(smalti.OutputError, match=rf"{name}: .*{told}"):
                work(tmp_path / name)
    assert names(tmp_path) == {"one", "two", "nowhere"}


def test_cases_of_folders_behind_links_are_replaced_there(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(0o700)
    (tmp_path / "link").symlink_to("real")
    with whole_folder(tmp_path / "link") as partial:
        (partial / "a").write_text("new")
        assert mode(partial) == 0o700
        replace_folder(partial, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "real") == {"a"}
    assert mode(tmp_path / "real") == 0o700
    (tmp_path / "file").write_text("kept")
    with pytest.raises(smalti.OutputError, match="it is no folder"), whole_folder(tmp_path / "file") as partial:
        replace_folder(partial, tmp_path / "file")
    assert names(tmp_path) == {"real", "link", "file"}


@pytest.mark.parametrize("kept", [0o600, 0o640, 0o400, 0o666])
def test_cases_of_replaced_files_keep_their_mode(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    before = os.umask(0o022)
    try:
        write_whole(path, b"first")
        assert mode(path) == 0o644
        path.chmod(kept)
        write_whole(path, b"second")
    finally:
        os.umask(before)
    assert mode(path) == kept
    assert path.read_bytes() == b"second"


@pytest.mark.parametrize("overwrite", [True, False])
def test_cases_of_pipes_in_a_folder_neither_hang_nor_vanish(
    overwrite: bool, gen: smalti.Generator, tmp_path: Path
) -> None:
    fifo = pipe(tmp_path / "tiny-1.png")
    with pytest.raises(smalti.OutputError, match=r"tiny-1\.png: it is a named pipe, not a file"):
        gen.generate_into(tmp_path, 3, overwrite=overwrite, steps=2)
    assert stat.S_ISFIFO(fifo.lstat().st_mode)
    assert names(tmp_path) == {"tiny-1.png"}


def zeroed(content: bytes) -> bytes:
    return content[: len(content) * 3 // 4] + bytes(len(content) - len(content) * 3 // 4)


def cut(content: bytes) -> bytes:
    return content[: len(content) * 3 // 4]


DAMAGES: dict[str, Any] = {"cut": cut, "zeroed": zeroed, "without its end": lambda content: content[:-12]}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_cases_of_half_files_are_drawn_again(format: Any, damage: str, gen: smalti.Generator, tmp_path: Path) -> None:
    written = gen.generate_into(tmp_path, 3, format=format, steps=2)
    before = [path.read_bytes() for path in written.paths]
    written.paths[1].write_bytes(DAMAGES[damage](before[1]))
    again = gen.generate_into(tmp_path, 3, format=format, steps=2)
    assert (again.drawn, again.skipped) == (1, 2)
    assert [path.read_bytes() for path in written.paths] == before


def test_cases_of_half_files_that_say_nothing_are_not_ours(gen: smalti.Generator, tmp_path: Path) -> None:
    (path,) = gen.generate_into(tmp_path, 1, format="webp", steps=2).paths
    for content in (b"", path.read_bytes()[:100], b"notes"):
        path.write_bytes(content)
        with pytest.raises(smalti.UsageError, match="are not what would be drawn"):
            gen.generate_into(tmp_path, 1, format="webp", steps=2)
        assert path.read_bytes() == content


def test_cases_of_pictures_behind_dangling_links_are_drawn(gen: smalti.Generator, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "tiny-0.png").symlink_to(tmp_path / "there.png")
    written = gen.generate_into(tmp_path / "in", 1, steps=2)
    assert written.drawn == 1
    assert (tmp_path / "in" / "tiny-0.png").is_symlink()
    assert np.asarray(Image.open(tmp_path / "there.png")).shape == (64, 64, 3)
    assert gen.generate_into(tmp_path / "in", 1, steps=2).skipped == 1


def test_cases_of_calls_cancelled_before_make_no_folder(gen: smalti.Generator, tmp_path: Path) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(smalti.Cancelled):
        gen.generate_into(tmp_path / "new", 3, cancel=cancel)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("given", ["JPG", "jpg", ".jpeg", "Jpeg"])
def test_cases_of_formats_and_paths_as_people_write_them(given: Any, gen: smalti.Generator, tmp_path: Path) -> None:
    result = gen.generate(seed=1, steps=2)
    result.save(os.fsencode(tmp_path / "a.jpg"), format=given)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "JPEG"
    assert smalti.read_recipe(os.fsencode(tmp_path / "a.jpg")) == result.recipe()
    assert gen.generate_into(os.fsencode(tmp_path / "folder"), 1, format=given, steps=2).paths[0].suffix == ".jpg"
