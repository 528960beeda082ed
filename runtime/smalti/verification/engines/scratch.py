"""Folders for work that is not finished: in the cache, each under a lock, so that those of killed processes go."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from smalti.errors import MissingExtra
from smalti.system.files import remove_folder, unfinished
from smalti.system.platform import cache_folder, install_hint

PREFIX: Final = "smalti-engine-"
"""Begin of the names of folders where the cache cannot be written."""


def scratches() -> Path:
    """Return the folder of these folders; it may not exist."""
    return cache_folder() / "scratch"


@contextlib.contextmanager
def scratch_folder() -> Generator[Path, None, None]:
    """Give an empty folder to work in; it goes at the end.

    It lies in the cache, where :func:`left_behind` finds it if this process is killed; where the cache cannot be
    written, in the system's folder for temporary files. Raises MissingExtra without filelock.
    """
    filelock = _filelock()
    with contextlib.ExitStack() as stack:
        name = uuid4().hex
        try:
            folder, file = scratches() / name, _lock_of(name)
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(file)
            # The lock is there before the folder is, so a folder without one belongs to nobody.
            lock.acquire(timeout=0)
            stack.callback(_unlink, file)
            stack.callback(lock.release)
            stack.callback(remove_folder, folder)
            folder.mkdir(parents=True)
        except OSError:  # no folder of caches, or one that cannot be written
            kept = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(kept))
        stack.enter_context(unfinished(folder))
        stack.enter_context(unfinished(_lock_of(name)))
        yield folder


def left_behind(act: Callable[[Path], object]) -> None:
    """Call ``act`` with each folder whose process is gone. Nobody else takes the folder meanwhile."""
    filelock = _filelock()
    try:
        found = sorted(path for path in scratches().iterdir() if path.is_dir())
    except OSError:  # none, or no cache
        return
    for folder in found:
        file = _lock_of(folder.name)
        lock = filelock.FileLock(file)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except (OSError, filelock.Timeout):  # at work, or in a cache that cannot be written
            continue
        try:
            act(folder)
        finally:
            lock.release()
            if not folder.exists():
                _unlink(file)


def sweep() -> None:
    """Remove the folders whose processes are gone, as far as they can be."""
    left_behind(remove_folder)


def _lock_of(name: str) -> Path:
    return cache_folder() / "locks" / f"scratch-{name}.lock"


def _unlink(file: Path) -> None:
    with contextlib.suppress(OSError):  # names are never used twice, so that one which stays does no harm
        file.unlink(missing_ok=True)


def _filelock() -> Any:
    try:
        import filelock
    except ImportError as error:
        raise MissingExtra(f"engines need filelock; {install_hint('cli')}") from error
    return filelock
