"""Files and folders that appear whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import shutil
from collections.abc import Generator
from pathlib import Path

from smalti.errors import OutputError
from smalti.platform import exchanged, is_portable, patiently, reachable, refused

_NUMBERS = itertools.count()


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old bytes or the new ones, never a part. Raises OSError."""
    path = reachable(path)
    partial = beside(path)
    try:
        partial.write_bytes(content)
        flush(partial)
        patiently(lambda: partial.replace(path))
    finally:
        # An interrupt must not leave it behind either.
        with contextlib.suppress(OSError):
            patiently(lambda: partial.unlink(missing_ok=True))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file as :func:`replace_file` does; OutputError names it and the reason."""
    try:
        replace_file(path, content)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def whole_folder(output: Path) -> Generator[Path, None, None]:
    """Give an empty folder beside ``output`` to write into; it goes away if it was not moved into place.

    Move it with :func:`move_folder`. An OSError inside becomes an OutputError that names ``output``.
    """
    partial = beside(reachable(output))
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
    except OSError as error:
        raise OutputError(f"cannot write {output}: {error.strerror or error}") from error
    finally:
        remove_folder(partial)


def move_folder(new: Path, target: Path) -> None:
    """Rename a folder to a name that is free. Raises OSError."""
    target = reachable(target)
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
        full = reachable(path)
        if full.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
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
        nearest = next((folder for folder in (full, *full.absolute().parents) if folder.exists()), None)
        if nearest is None:
            raise FileNotFoundError(errno.ENOENT, "there is no such drive")
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
    """Return a name that nobody else writes to, for what is to become ``path``."""
    return path.with_name(f".{path.name}.{os.getpid()}-{next(_NUMBERS)}.partial")


def replace_folder(new: Path, target: Path) -> None:
    """Rename the folder ``new`` to ``target`` and remove the folder that stood there.

    On Linux and macOS the two folders are swapped in one step, so ``target`` exists at every moment. Where that is not
    possible, the old folder is renamed first, and renamed back if the new one cannot take its place.

    Raises OSError when renaming fails.
    """
    target = reachable(target)
    if not target.exists():
        move_folder(new, target)
    elif exchanged(new, target):
        remove_folder(new)
    else:
        old = new.with_name(f"{new.name}.old")
        remove_folder(old)  # of a process before this one, which was killed
        move_folder(target, old)
        try:
            move_folder(new, target)
        except BaseException:  # including an interrupt
            move_folder(old, target)
            raise
        remove_folder(old)
