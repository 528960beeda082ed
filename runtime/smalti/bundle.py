"""Bundles: a directory, or the same in one uncompressed ``.zip``, whose every file is checked before it is used."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from smalti.errors import BundleError
from smalti.manifest import FileRecord, Manifest, Precision, Role, Variant, decode

MANIFEST = "manifest.json"
EMBEDDED = "avatars-256"
"""The bundle inside the package, used when none is named."""


@dataclass(frozen=True)
class Bundle:
    """An open bundle. Files are read, and their size and hash checked, when they are first asked for."""

    path: Path
    manifest: Manifest
    digest: str
    """sha256 of the manifest, which names the sha256 of every other file: the bundle's identity."""
    _checked: dict[str, bytes] = field(default_factory=dict[str, bytes], repr=False)

    def read(self, name: str) -> bytes:
        """Return the bytes of a declared file; BundleError names a file that is missing or damaged."""
        content = self._checked.get(name)
        if content is None:
            record = next((record for record in self.manifest.files() if record.file == name), None)
            if record is None:
                raise BundleError(f"{self.path}: {name!r} is not among the bundle's files")
            # Another thread may forget it at any time, so it is not read back from there.
            content = self._checked[name] = _checked_bytes(self.path, record)
        return content

    def forget(self) -> None:
        """Let go of the bytes read so far (a session has its own copy)."""
        self._checked.clear()

    def precisions(self, role: Role) -> tuple[Precision, ...]:
        """Precisions a component comes in; empty when the bundle has no such component."""
        component = self.manifest.components.get(role)
        return tuple(variant.precision for variant in component.variants) if component else ()

    def variant(self, role: Role, precision: Precision) -> Variant:
        """Return the component's variant; BundleError says which precisions there are."""
        component = self.manifest.components.get(role)
        if component is None:
            raise BundleError(f"{self.path}: the bundle has no {role}")
        for variant in component.variants:
            if variant.precision == precision:
                return variant
        there = ", ".join(self.precisions(role))
        raise BundleError(f"{self.path}: the {role} has no {precision} variant; it comes in {there}")


def open_bundle(source: str | Path | None = None) -> Bundle:
    """Open a bundle by path, or by name among the embedded ones; None opens the default one.

    Raises BundleError when there is none, or when its manifest is missing or does not fit.
    """
    path = _locate(source)
    try:
        raw = _read_member(path, MANIFEST)
    except (KeyError, FileNotFoundError):
        raise BundleError(f"{path} is not a bundle: it has no {MANIFEST}") from None
    except _UNREADABLE as error:
        raise BundleError(f"{path} cannot be read as a bundle: {_reason(error)}") from None
    return Bundle(path, decode(raw, str(path)), hashlib.sha256(raw).hexdigest())


def embedded_bundles() -> dict[str, Path]:
    """Bundles that ship inside the package, by name."""
    root = Path(__file__).parent / "bundles"
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
    path = Path(source)
    if not path.exists():
        raise BundleError(
            f"no bundle at {path}, and none of that name is embedded ({', '.join(embedded) or 'none is'})"
        )
    return path


_UNREADABLE = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What zipfile raises for archives that are damaged, cut short, encrypted or of a kind it does not know."""


def _reason(error: Exception) -> str:
    return str(error) or "it ends too early"  # EOFError says nothing.


def _read_member(path: Path, name: str) -> bytes:
    if path.is_dir():
        return (path / name).read_bytes()
    with zipfile.ZipFile(path) as archive:
        if archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise zipfile.BadZipFile(f"{name} is compressed in an unusual way; zip the folder without compression")
        return archive.read(name)


def _checked_bytes(path: Path, record: FileRecord) -> bytes:
    try:
        content = _read_member(path, record.file)
    except (KeyError, FileNotFoundError):
        raise BundleError(f"{path}: {record.file} is missing; get the bundle again") from None
    except _UNREADABLE as error:
        raise BundleError(f"{path}: {record.file} cannot be read: {_reason(error)}") from None
    if len(content) != record.bytes:
        raise BundleError(
            f"{path}: {record.file} is damaged: {len(content)} bytes instead of {record.bytes}; get the bundle again"
        )
    if hashlib.sha256(content).hexdigest() != record.sha256:
        raise BundleError(f"{path}: {record.file} is damaged: its sha256 is not the manifest's; get the bundle again")
    return content
