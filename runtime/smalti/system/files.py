"""Files and folders that appear whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import errno
import glob
import itertools
import os
import re
import shutil
import stat
import time
from collections.abc import Generator
from pathlib import Path

from smalti.errors import OutputError
from smalti.system.platform import exchanged, is_portable, patiently, reachable, refused, with_mode_of

_NUMBERS = itertools.count()
_partial: set[Path] = set()
"""Files and folders that are being written."""
_SHORT = 48
"""Characters that every file system takes as a name."""
STALE = 3600
"""Seconds after which nobody writes a partial file any more."""
_TAKES_BYTES = {stat.S_IFIFO: "a named pipe", stat.S_IFCHR: "a device"}
"""What is no file and is written into as it stands: nothing of it is replaced."""
FOLDER = "a folder"
_TAKES_NONE = {stat.S_IFDIR: FOLDER, stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a disk"}


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old bytes or the new ones, never a part. Raises OSError.

    A link stays, and the file that it leads to is written. A file that is replaced keeps who may read and write it. A
    named pipe and a device take the bytes as they stand; what takes none, such as a socket, is refused.
    """
    path = destination(path)
    if _checked_kind(path) in _TAKES_BYTES:
        with path.open("wb") as handle:
            handle.write(content)
        return
    partial = beside(path)
    _partial.add(partial)
    try:
        partial.touch(0o600 if path.exists() else 0o666)  # nobody else reads it before it has its mode
        partial.write_bytes(content)
        flush(partial)
        move_file(partial, path)
    finally:
        # An interrupt must not leave it behind either.
        with contextlib.suppress(OSError):
            patiently(lambda: partial.unlink(missing_ok=True))
        _partial.discard(partial)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file as :func:`replace_file` does; OutputError names it and the reason."""
    try:
        replace_file(path, content)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def whole_folder(output: Path) -> Generator[Path, None, None]:
    """Give an empty folder beside ``output`` to write into; it goes away if it was not moved into place.

    Move it with :func:`move_folder` or :func:`replace_folder`. An OSError inside becomes an OutputError that names
    ``output``.
    """
    partial = None
    try:
        place = destination(output)
        partial = beside(place)
        _partial.add(partial)
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir(0o700 if place.is_dir() else 0o777)  # it gets that folder's mode when it takes its place
        yield partial
    except OSError as error:
        raise OutputError(f"cannot write {output}: {error.strerror or error}") from error
    finally:
        if partial is not None:
            remove_folder(partial)
            _partial.discard(partial)


def destination(path: Path) -> Path:
    """Return where a link leads to, and any other path as the system takes it. Raises OSError for links in a circle."""
    path = reachable(path)
    if not path.is_symlink() or kind_of(path) in _TAKES_BYTES:  # a link to an open pipe leads to no path
        return path
    found = Path(os.path.realpath(path))
    if found.is_symlink():
        raise OSError(errno.ELOOP, "it is a link that leads to itself")
    return reachable(found)


def kind_of(path: Path) -> int:
    """Return what lies at a path, links followed, as ``stat`` names it: ``S_IFREG`` for a file; 0 where nothing does.

    Raises OSError for a name that no file can have.
    """
    try:
        return stat.S_IFMT(reachable(path).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        if error.errno == errno.ELOOP:
            return 0
        raise


def told_kind(path: Path) -> str:
    """Say what lies at a path where that is no file, such as "a named pipe"; empty for files and where nothing does."""
    try:
        return {**_TAKES_BYTES, **_TAKES_NONE}.get(kind_of(path), "")
    except OSError:  # which is told where it is read or written
        return ""


def _checked_kind(path: Path) -> int:
    """Return what lies at a path, as :func:`kind_of` does. Raises OSError for what no bytes can be written to."""
    kind = kind_of(path)
    if kind in _TAKES_NONE:
        raise OSError(errno.EISDIR if kind == stat.S_IFDIR else errno.EINVAL, f"it is {_TAKES_NONE[kind]}, not a file")
    return kind


@contextlib.contextmanager
def unfinished(path: Path) -> Generator[None, None, None]:
    """Inside, a file or folder is among what :func:`remove_partial` removes."""
    _partial.add(path)
    try:
        yield
    finally:
        _partial.discard(path)


def remove_partial() -> None:
    """Remove all that is being written now, before the process ends in the middle of it."""
    for path in tuple(_partial):
        if path.is_dir():
            remove_folder(path)
        else:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def remove_stale(folder: Path, begin: str) -> None:
    """Remove what was left half-written in a folder by processes that were killed, of files whose names ``begin`` so.

    What is younger than an hour may still be written by another process, and stays.
    """
    with contextlib.suppress(OSError):
        for path in reachable(folder).glob(f".{glob.escape(begin)}*.partial"):
            if re.search(r"\.\d+-\d+\.partial$", path.name) and path.lstat().st_mtime < time.time() - STALE:
                path.unlink(missing_ok=True)


def move_file(new: Path, target: Path) -> None:
    """Rename a written file to ``target`` in place of what stands there, whose mode and links stay. Raises OSError."""
    target = destination(target)
    if (kind := _checked_kind(target)) in _TAKES_BYTES:
        raise OSError(errno.EINVAL, f"it is {_TAKES_BYTES[kind]}, not a file")
    with_mode_of(target, new)
    patiently(lambda: new.replace(target))


def move_folder(new: Path, target: Path) -> None:
    """Rename a folder to a name that is free. Raises OSError."""
    target = destination(target)
    patiently(lambda: new.rename(target))


def remove_folder(folder: Path) -> None:
    """Remove a folder that may exist, with all that is in it but for what cannot be removed."""
    with contextlib.suppress(OSError):
        patiently(lambda: shutil.rmtree(folder))
    shutil.rmtree(folder, ignore_errors=True)


def flush(file: Path) -> None:
    """Force a written file to the disk; call it before a rename puts the file into place."""
    with file.open("rb+") as handle:
        os.fsync(handle.fileno())


def check_writable(path: Path) -> None:
    """Check before the work that ``path`` can be written. Raises OutputError with the reason when it cannot."""
    try:
        full = destination(path)
        _check_name(full)
        if _checked_kind(full) in _TAKES_BYTES:
            return
        if reason := refused(full):
            raise PermissionError(errno.EACCES, reason)
        _try(beside(full))
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def check_folder(path: Path) -> None:
    """Check before the work that files can be written to the folder ``path``, which need not exist and is not created.

    Raises OutputError with the reason when they cannot.
    """
    try:
        full = reachable(path)
        _check_name(full)
        nearest = next((folder for folder in (full, *full.absolute().parents) if folder.exists()), None)
        if nearest is None:
            raise FileNotFoundError(errno.ENOENT, "there is no such drive")
        if not nearest.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{nearest} is no folder")
        if reason := refused(full):
            raise PermissionError(errno.EACCES, reason)
        _try(beside(nearest / "probe"))
    except OSError as error:
        raise OutputError(f"cannot write to folder {path}: {error.strerror or error}") from error


def _try(probe: Path) -> None:
    probe.touch()
    patiently(probe.unlink)


def portable_name(text: str) -> str:
    """Return a text as part of a file's name: what no folder or some system takes becomes ``_``."""
    name = re.sub(r"[^\w .-]", "_", text)[:60].strip(" .")
    return name if name and is_portable(name) else f"_{name}"


def beside(path: Path) -> Path:
    """Return a name that nobody else writes to, for what is to become ``path``.

    It is short, or no longer than that of ``path``: where the file fits, so does its partial.
    """
    end = f".{os.getpid()}-{next(_NUMBERS)}.partial"
    kept = max(0, max(_SHORT, len(path.name)) - len(end) - 1)
    # A character may take several bytes. Those of the end take one each, and replace as many.
    return path.with_name(f".{path.name[:kept]}{end}")


def _check_name(path: Path) -> None:
    """Raise OSError for a name that the file system takes for no file, such as one too long."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.lstat()


def replace_folder(new: Path, target: Path) -> None:
    """Rename the folder ``new`` to ``target`` and remove the folder that stood there.

    On Linux and macOS the two folders are swapped in one step, so ``target`` exists at every moment. Where that is not
    possible, the old folder is renamed first, and renamed back if the new one cannot take its place. The new folder
    gets the old one's mode. Where ``target`` is a link, the folder that it leads to is replaced.

    Raises OSError when renaming fails, or when what stands there is no folder.
    """
    target = destination(target)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it is no folder")
    with_mode_of(target, new)
    if not target.exists():
        move_folder(new, target)
    elif exchanged(new, target):
        remove_folder(new)
    else:
        old = new.with_suffix(".old")  # instead of ".partial": the name must not become longer
        remove_folder(old)  # of a process before this one, which was killed
        move_folder(target, old)
        try:
            move_folder(new, target)
        except BaseException:  # including an interrupt
            move_folder(old, target)
            raise
        remove_folder(old)
