"""Folders of engines: a list ``engines.json`` and the files that it names.

A bundle may carry one, ``engines/``. Engines that were built on this machine lie in the user's cache, one folder for
each bundle. A folder changes under a lock, and at every moment its list names files that are there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from smalti.bundle import engines as engine_records
from smalti.bundle.engines import ENGINES, EngineRecord, Engines
from smalti.bundle.reader import ENGINES_FOLDER, Bundle, check_file, read_checked, read_engines
from smalti.errors import BundleError, MissingExtra, OutputError
from smalti.system.files import FOLDER, portable_name, told_kind, write_whole
from smalti.system.platform import cache_folder, install_hint, reachable

REBUILD = "build it again with smalti engine build"
OTHER_CACHE = "Set SMALTI_CACHE_DIR to a folder that can be written"


@dataclass(frozen=True)
class KeptEngine:
    """An engine, and where it lies."""

    record: EngineRecord
    root: Path
    """The bundle (a folder or zip) that carries it, or the folder of the cache."""
    folder: str
    """Folder inside ``root``; empty for none."""

    @property
    def path(self) -> str:
        """Where it lies, in words."""
        return str(self.root / self.folder / self.record.engine.file)

    def read(self) -> bytes:
        """Return its bytes. Raises BundleError when the file is missing or damaged."""
        return read_checked(self.root, self._file(), ENGINES, REBUILD)

    def check(self, remedy: str = REBUILD) -> None:
        """Check its size and hash in little memory. Raises BundleError when the file is missing or damaged.

        The message ends with ``remedy``.
        """
        check_file(self.root, self._file(), ENGINES, remedy)

    def _file(self) -> engine_records.FileRecord:
        file = self.record.engine.file
        return msgspec.structs.replace(self.record.engine, file=f"{self.folder}/{file}" if self.folder else file)


def engine_caches() -> Path:
    """Return the folder of the folders of engines that were built on this machine; it may not exist."""
    return cache_folder() / "engines"


def engine_cache(bundle: Bundle) -> Path:
    """Return the folder of the engines of a bundle that were built on this machine; it may not exist."""
    # A stranger's bundle may be called anything, a path among others.
    return engine_caches() / f"{portable_name(bundle.manifest.name)}-{bundle.digest[:16]}"


def cached_folders() -> list[Path]:
    """Return the folders of engines that were built on this machine, one for each bundle, sorted."""
    caches = engine_caches()
    try:
        return sorted(path for path in caches.iterdir() if path.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise OutputError(f"cannot read {caches}: {error.strerror or error}. Set SMALTI_CACHE_DIR") from error


def engines_of(bundle: Bundle) -> tuple[list[KeptEngine], list[str]]:
    """Return all engines of a bundle, those that it carries first; and what is wrong with lists that cannot be used."""
    kept: list[KeptEngine] = []
    wrong: list[str] = []
    for look in (_own, _cached):
        try:
            root, folder, listed = look(bundle)
        except (BundleError, OutputError) as error:  # the latter where there is no cache
            wrong.append(str(error))
            continue
        if listed is None:
            continue
        if listed.bundle_digest != bundle.digest:
            wrong.append(
                f"{root}: {ENGINES} lists engines of another bundle, or of this one before it was exported again"
            )
            continue
        kept += [KeptEngine(record, root, folder) for record in listed.engines]
    return kept, wrong


def _own(bundle: Bundle) -> tuple[Path, str, Engines | None]:
    return bundle.path, ENGINES_FOLDER, read_engines(bundle.path)


def _cached(bundle: Bundle) -> tuple[Path, str, Engines | None]:
    cache = engine_cache(bundle)
    return cache, "", read_folder(cache)


def read_folder(folder: Path) -> Engines | None:
    """Read a folder's list; None if there is none. Raises BundleError when it is damaged."""
    raw = _list_of(folder)
    return None if raw is None else engine_records.decode(raw, str(folder))


def read_or_forget(folder: Path) -> tuple[Engines | None, str]:
    """Read a folder's list, to write a new one; None, and what is wrong, where it is damaged.

    Raises BundleError when a later smalti wrote it, which the new list would undo.
    """
    raw = None
    try:
        raw = _list_of(folder)
        return (None if raw is None else engine_records.decode(raw, str(folder))), ""
    except BundleError as error:
        if raw is not None and engine_records.is_newer(raw):
            raise
        return None, str(error)


def _list_of(folder: Path) -> bytes | None:
    if kind := told_kind(folder / ENGINES):
        raise BundleError(f"{folder}: {ENGINES} cannot be read: it is {kind}, not a file. Remove it")
    try:
        return (reachable(folder) / ENGINES).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BundleError(f"{folder}: {ENGINES} cannot be read: {error.strerror or error}") from error


def write_folder(folder: Path, engines: Engines, plans: Mapping[str, bytes]) -> None:
    """Write new engines, then the list that names them, and then remove engines that it no longer names.

    Call it under the folder's lock (:func:`changing`). Raises BundleError when a later smalti wrote the old list, and
    OutputError when writing fails; the old list and its engines are then untouched.
    """
    listed, _ = read_or_forget(folder)
    try:
        reachable(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error
    before = {record.engine.file for record in listed.engines} if listed else set[str]()
    for file, content in {**plans, ENGINES: engine_records.encode(engines)}.items():
        _write(folder / file, content)
    for file in before - {record.engine.file for record in engines.engines}:
        with contextlib.suppress(OSError):
            (folder / file).unlink()


def _write(file: Path, content: bytes) -> None:
    """Write a file in place of whatever lies there: a named pipe would take the bytes, and wait for a reader."""
    if told_kind(file) and told_kind(file) != FOLDER:
        try:
            file.unlink()
        except OSError as error:
            raise OutputError(f"cannot write {file}: {error.strerror or error}") from error
    write_whole(file, content)


def strays(folder: Path, listed: Engines | None) -> list[Path]:
    """Return the files of a folder that its list does not name, such as those that a killed process left."""
    named = {ENGINES, *(record.engine.file for record in listed.engines)} if listed else {ENGINES}
    return [path for path in sorted(folder.iterdir()) if path.is_file() and path.name not in named]


@contextlib.contextmanager
def changing(folder: Path, waiting: Callable[..., object] = lambda: None) -> Generator[None, None, None]:
    """Hold the lock of a folder, or of a file, so that one process at a time changes it.

    ``waiting`` is called where another one holds it. The lock lies in the cache, or beside the folder where the cache
    cannot be written, and ends with its process. Raises MissingExtra without filelock, OutputError when there can be no
    lock.
    """
    where = os.path.normcase(folder.resolve())
    name = hashlib.sha256(where.encode(errors="surrogateescape")).hexdigest()[:16]
    try:
        lock = _locked(cache_folder() / "locks" / f"engines-{name}.lock", waiting)
    except OSError as error:
        try:
            lock = _locked(reachable(folder).with_name(f".smalti-{name}.lock"), waiting)
        except OSError:
            raise OutputError(f"cannot lock {folder}: {error.strerror or error}. {OTHER_CACHE}") from error
    try:
        yield
    finally:
        lock.release()


def _locked(file: Path, waiting: Callable[..., object]) -> Any:
    """Return a lock that is held. Raises OSError when the file cannot be made."""
    try:
        import filelock
    except ImportError as error:
        raise MissingExtra(f"engines need filelock; {install_hint('cli')}") from error
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(file)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        waiting()
        lock.acquire()
    return lock
