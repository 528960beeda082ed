"""Read bundles: a directory or an uncompressed ``.zip`` of it; every file is checked before use."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import zipfile
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from smalti.bundle import engines as engine_records
from smalti.bundle.manifest import AGAIN, FileRecord, Manifest, Precision, Role, Variant
from smalti.bundle.manifest_file import decode, is_inside
from smalti.errors import BundleError, UsageError
from smalti.system.platform import reachable

MANIFEST = "manifest.json"
EMBEDDED = "avatars"
"""The bundle inside the package, the default."""
ENGINES_FOLDER = "engines"
REMEDY = "get the bundle again"
LARGEST_MANIFEST = 2**24
"""Most bytes of a manifest; usually it has about ten thousand."""
CHUNK = 2**24
"""Bytes read at a time when a file is only checked."""
LARGEST_RATIO = 100
"""Greatest allowed compression ratio of a file in a zip; for weights and graphs it is at most a few."""


@dataclass(frozen=True)
class Bundle:
    """An open bundle. Files are read, and their size and hash checked, on first use."""

    path: Path
    manifest: Manifest
    digest: str
    """sha256 of the manifest, which contains the sha256 of every other file: the bundle's identity."""
    _checked: dict[str, bytes] = field(default_factory=dict[str, bytes], repr=False)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels that this bundle knows; its graphs are not opened for that."""
        return self.manifest.classes

    def read(self, name: str) -> bytes:
        """Return the bytes of a declared file. Raises BundleError when it is missing or damaged."""
        content = self._checked.get(name)
        if content is None:
            record = next((record for record in self.manifest.files() if record.file == name), None)
            if record is None:
                raise BundleError(f"{self.path}: {name!r} is not among the bundle's files")
            # Do not read it back from there: another thread may call `forget` at any time.
            content = self._checked[name] = read_checked(self.path, record)
        return content

    def forget(self) -> None:
        """Free the bytes read so far; a session has its own copy."""
        self._checked.clear()

    def precisions(self, role: Role) -> tuple[Precision, ...]:
        """Precisions of a component; empty when the bundle does not have the component."""
        component = self.manifest.components.get(role)
        return tuple(variant.precision for variant in component.variants) if component else ()

    def variant(self, role: Role, precision: Precision) -> Variant:
        """Return a component's variant. Raises BundleError when there is none; the message lists the others."""
        component = self.manifest.components.get(role)
        if component is None:
            raise BundleError(f"{self.path}: the bundle has no {role}")
        for variant in component.variants:
            if variant.precision == precision:
                return variant
        there = ", ".join(self.precisions(role))
        raise BundleError(f"{self.path}: the {role} has no {precision} variant; it comes in {there}")


def open_bundle(source: str | Path | None = None) -> Bundle:
    """Open a bundle by path, or by the name of an embedded one; None opens the default.

    Raises BundleError when there is no bundle, when its manifest is missing or invalid, or when a zip contains a file
    name that leads outside; UsageError for what is no path.
    """
    path = _locate(source)
    try:
        raw = _read_list(path, MANIFEST)
    except (KeyError, FileNotFoundError):
        names = listing(path) if path.is_file() else []
        below = next((name for name in names if name.endswith(f"/{MANIFEST}")), None)
        hint = "" if below is None else f", but {below}; zip the bundle's files themselves, not a folder of them"
        raise BundleError(f"{path} is not a bundle: it has no {MANIFEST}{hint}") from None
    except _UNREADABLE as error:
        raise BundleError(f"{path} cannot be read as a bundle: {_reason(error)}. {AGAIN}") from None
    # smalti never unpacks archives, but other tools may.
    if path.is_file() and (odd := next((name for name in listing(path) if not is_inside(name)), None)) is not None:
        raise BundleError(f"{path}: {odd!r} is not the name of a file inside the bundle; {REMEDY}")
    return Bundle(path, decode(raw, str(path)), hashlib.sha256(raw).hexdigest())


def embedded_bundles() -> dict[str, Path]:
    """Return the paths of the bundles inside the package, by name."""
    root = Path(__file__).parents[1] / "embedded"
    return {path.name: path for path in sorted(root.glob("*")) if (path / MANIFEST).is_file()}


def _locate(source: str | Path | None) -> Path:
    embedded = embedded_bundles()
    if source is None:
        source = EMBEDDED
        if EMBEDDED not in embedded:
            raise BundleError(
                "the embedded bundle is missing from this installation; install smalti again, or name a bundle"
            )
    if isinstance(source, str) and source in embedded:
        return embedded[source]
    if not isinstance(source, str | Path):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may not type-check
        raise UsageError(f"bundle of type {type(source).__name__}: a path is needed, or the name of an embedded bundle")
    if not str(source):
        raise UsageError(f"bundle is empty: a path or a name is needed; embedded are {', '.join(embedded)}")
    if "\0" in str(source):
        raise UsageError(f"bundle {str(source)!r}: no path has a NUL character in it")
    path = reachable(Path(source))
    try:
        there = path.exists()
    except OSError as error:  # for example, the name is too long
        raise BundleError(f"no bundle at {path}: {error.strerror or error}") from None
    if not there:
        raise BundleError(
            f"no bundle at {path}, and none of that name is embedded ({', '.join(embedded) or 'none is'})"
        )
    return path


_UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, MemoryError, zipfile.BadZipFile, zlib.error)
"""Errors of zipfile for archives that are damaged, truncated, encrypted or of an unknown kind."""


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "there is not enough memory for it"
    return str(error) or "it ends too early"  # EOFError has no message.


@contextlib.contextmanager
def _member(path: Path, name: str) -> Generator[tuple[IO[bytes], int], None, None]:
    """Open a file of the bundle; yield its handle and its size, before anything is read."""
    path = reachable(path, len(name) + 1)
    if path.is_dir():
        file = path / name
        # Links may lead anywhere, as in content-addressed stores: what a file holds is checked, not where it lies.
        _check_plain(file, name)
        with file.open("rb") as handle:
            yield handle, os.fstat(handle.fileno()).st_size
        return
    _check_plain(path, path.name)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(name)
        if sum(other.compress_size for other in archive.infolist()) > path.stat().st_size:  # needed for the ratio below
            raise zipfile.BadZipFile("its files are said to take more than the archive has")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise zipfile.BadZipFile(f"{name} is compressed in an unusual way; zip the folder without compression")
        if info.file_size > LARGEST_RATIO * max(info.compress_size, 2**14):
            raise zipfile.BadZipFile(
                f"{name} would unpack from {info.compress_size} bytes to {info.file_size}, which no file of a bundle "
                "does; zip the folder without compression"
            )
        with archive.open(info) as handle:
            yield handle, info.file_size


def _check_plain(file: Path, name: str) -> None:
    """Raise OSError unless ``file`` is a plain file or a link to one. A pipe is not opened: it could block forever."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise OSError(f"{name} is not a plain file")


def _read_list(path: Path, name: str) -> bytes:
    """Return the bytes of a JSON file that lists other files."""
    with _member(path, name) as (handle, size):
        if size > LARGEST_MANIFEST:
            raise OSError(f"{name} has {size} bytes, and at most {LARGEST_MANIFEST} are read")
        return handle.read(size + 1)


def listing(path: Path) -> list[str]:
    """Return the sorted names of all files in a folder or zip, with forward slashes.

    Raises BundleError when it cannot be read.
    """
    try:
        if path.is_dir():
            return sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir())
        with zipfile.ZipFile(path) as archive:
            return sorted(info.filename for info in archive.infolist() if not info.is_dir())
    except _UNREADABLE as error:
        raise BundleError(f"{path} cannot be read as a bundle: {_reason(error)}. {AGAIN}") from None


def read_engines(path: Path) -> engine_records.Engines | None:
    """Read the list of engines in a bundle's folder ``engines``; None if there are none.

    Raises BundleError when their list is damaged.
    """
    try:
        raw = _read_list(path, f"{ENGINES_FOLDER}/{engine_records.ENGINES}")
    except (KeyError, FileNotFoundError, NotADirectoryError):
        return None
    except _UNREADABLE as error:
        raise BundleError(f"{path}: {engine_records.ENGINES} cannot be read: {_reason(error)}") from None
    return engine_records.decode(raw, str(path))


def read_checked(path: Path, record: FileRecord, listed: str = MANIFEST, remedy: str = REMEDY) -> bytes:
    """Return the bytes of a file in a folder or zip.

    ``listed`` is the file that contains ``record``; ``remedy`` ends the error message. Raises BundleError when the file
    is missing or different from ``record``.
    """
    return b"".join(_checked_parts(path, record, listed, remedy, whole=True))


def check_file(path: Path, record: FileRecord, listed: str = MANIFEST, remedy: str = REMEDY) -> None:
    """Check a file like :func:`read_checked`, but in chunks, so that a large file does not fill the memory."""
    for _ in _checked_parts(path, record, listed, remedy, whole=False):
        pass


def _checked_parts(
    path: Path, record: FileRecord, listed: str = MANIFEST, remedy: str = REMEDY, *, whole: bool
) -> Iterator[bytes]:
    """Yield a file's bytes, whole or in chunks. Raises BundleError at the end when they do not match ``record``."""
    digest, total = hashlib.sha256(), 0
    try:
        with _member(path, record.file) as (handle, size):
            # A file of the wrong size is not read; a file that grows meanwhile is detected.
            while size == record.bytes >= total and (part := handle.read(size + 1 if whole else CHUNK)):
                digest.update(part)
                total += len(part)
                yield part
    except (KeyError, FileNotFoundError):
        raise BundleError(f"{path}: {record.file} is missing; {remedy}") from None
    except _UNREADABLE as error:
        raise BundleError(f"{path}: {record.file} cannot be read: {_reason(error)}; {remedy}") from None
    if (size := max(size, total)) != record.bytes:
        raise BundleError(f"{path}: {record.file} is damaged: {size} bytes instead of {record.bytes}; {remedy}")
    if digest.hexdigest() != record.sha256:
        raise BundleError(f"{path}: {record.file} is damaged: its sha256 is not that in {listed}; {remedy}")
