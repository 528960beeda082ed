"""Files and folders that appear whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Generator
from pathlib import Path

from smalti.errors import OutputError
from smalti.platform import exchanged


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old bytes or the new ones, never a part. Raises OSError."""
    partial = beside(path)
    try:
        partial.write_bytes(content)
        flush(partial)
        partial.replace(path)
    finally:
        # An interrupt must not leave it behind either.
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file as :func:`replace_file` does; OutputError names it and the reason."""
    try:
        replace_file(path, content)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def whole_folder(output: Path) -> Generator[Path, None, None]:
    """Give an empty folder beside ``output`` to write into; it goes away if it was not moved into place.

    An OSError inside becomes an OutputError that names ``output``.
    """
    partial = beside(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
    except OSError as error:
        raise OutputError(f"cannot write {output}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def flush(file: Path) -> None:
    """Force a written file to the disk; call it before a rename puts the file into place."""
    with file.open("rb+") as handle:
        os.fsync(handle.fileno())


def check_writable(path: Path) -> None:
    """Check before the work that ``path`` can be written. Raises OutputError with the reason when it cannot."""
    partial = beside(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def check_folder(path: Path) -> None:
    """Check before the work that files can be written to the folder ``path``, which need not exist and is not created.

    Raises OutputError with the reason when they cannot.
    """
    try:
        nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        probe = beside(nearest / "probe")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"cannot write to folder {path}: {error.strerror or error}") from error


def beside(path: Path) -> Path:
    """Return the name under which this process writes what is to become ``path``."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def replace_folder(new: Path, target: Path) -> None:
    """Rename the folder ``new`` to ``target`` and remove the folder that stood there.

    On Linux and macOS the two folders are swapped in one step, so ``target`` exists at every moment. Where that is not
    possible, the old folder is renamed first, and renamed back if the new one cannot take its place.

    Raises OSError when renaming fails.
    """
    if not target.exists():
        new.rename(target)
    elif exchanged(new, target):
        shutil.rmtree(new, ignore_errors=True)
    else:
        old = new.with_name(f"{new.name}.old")
        target.rename(old)
        try:
            new.rename(target)
        except BaseException:  # including an interrupt
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
