"""A bundle with its engines in one zip, to be shipped. It appears whole or not at all."""

from __future__ import annotations

import glob
import hashlib
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from smalti.bundle.engine_folder import KeptEngine, changing, engines_of, write_folder
from smalti.bundle.engines import ENGINES, SCHEMA_VERSION, Engines
from smalti.bundle.manifest import Precision, Role
from smalti.bundle.reader import ENGINES_FOLDER, MANIFEST, REMEDY, Bundle
from smalti.errors import BundleError, EngineError
from smalti.files import check_writable, flush, remove_folder, whole_folder
from smalti.platform import patiently, reachable
from smalti_export.engines.build import Heard, Progress, Say, build_into, unheard
from smalti_export.engines.toolkit import Toolkit

SUFFIX = ".zip"
# The earliest date that a zip can hold, so that equal files give equal bytes.
_DATE = (1980, 1, 1, 0, 0, 0)


def build_zip(
    bundle: Bundle,
    toolkit: Toolkit,
    output: Path,
    *,
    precision: Precision = "fp16",
    components: Sequence[Role] | None = None,
    force: bool = False,
    say: Say = lambda line: None,
    progress: Callable[[Progress], object] = unheard,
    go_on: Callable[[], bool] = lambda: True,
) -> Engines:
    """Build engines as :func:`smalti_export.engines.build.build_engines` does, and zip the bundle with them.

    The zip has the files that the manifest declares, and ``engines/`` with what the bundle carried already and what was
    built; engines that are in the cache are taken from there. Nothing is compressed, so that the zip is read as fast as
    a folder. Order and dates are always the same.

    Raises the errors of ``build_engines``; EngineError when any engine could not be built. A zip that was there is then
    untouched.
    """
    check_writable(output)
    with changing(output, lambda: say(f"waiting for another process that writes {output}")):
        _sweep(output)
        with whole_folder(output) as partial:
            folder = partial / ENGINES_FOLDER
            _carry(bundle, folder, say)
            heard = Heard(say, progress, go_on)
            engines, failed = build_into(folder, bundle, toolkit, precision, components, heard, force=force)
            if failed:
                raise EngineError(
                    f"could not build {'; '.join(failed)}. {output} was not written: name those that can be built with "
                    "--component"
                )
            finished = partial / output.name
            _write(bundle, folder, engines, finished)
            flush(finished)
            patiently(lambda: finished.replace(reachable(output)))
    return engines


def _carry(bundle: Bundle, folder: Path, say: Say) -> None:
    """Copy the engines that the bundle carries; a damaged one is left out."""
    own = [one for one in engines_of(bundle)[0] if one.root == bundle.path]
    kept: list[KeptEngine] = []
    folder.mkdir()
    for one in own:
        try:
            (folder / one.record.engine.file).write_bytes(one.read())
        except BundleError as error:
            say(f"{error}: it is left out")
        else:
            kept.append(one)
    if kept:
        listed = Engines(
            schema_version=SCHEMA_VERSION,
            bundle=bundle.manifest.name,
            bundle_digest=bundle.digest,
            engines=tuple(one.record for one in kept),
        )
        write_folder(folder, listed, {})


def _write(bundle: Bundle, folder: Path, engines: Engines, output: Path) -> None:
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
        for name, content in _contents(bundle):
            archive.writestr(_entry(name), content)
        for name in (ENGINES, *sorted(record.engine.file for record in engines.engines)):
            entry = _entry(f"{ENGINES_FOLDER}/{name}")
            entry.file_size = (folder / name).stat().st_size
            with (folder / name).open("rb") as source, archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target, 2**24)


def _contents(bundle: Bundle) -> Iterator[tuple[str, bytes]]:
    """Yield the manifest, and all files that it declares, by name; each is checked."""
    if bundle.path.is_dir():
        raw = (bundle.path / MANIFEST).read_bytes()
    else:
        with zipfile.ZipFile(bundle.path) as archive:
            raw = archive.read(MANIFEST)
    if hashlib.sha256(raw).hexdigest() != bundle.digest:
        raise BundleError(f"{bundle.path}: {MANIFEST} changed while the zip was made; {REMEDY}")
    yield MANIFEST, raw
    for name in sorted(record.file for record in bundle.manifest.files()):
        yield name, bundle.read(name)
        bundle.forget()


def _entry(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _DATE)
    info.create_system = 3  # as on Linux, whatever the system
    info.external_attr = 0o644 << 16
    return info


def _sweep(output: Path) -> None:
    """Remove what killed processes left of the same zip; the lock says that no other process writes it now."""
    for stale in output.parent.glob(f".{glob.escape(output.name)}.*.partial"):
        remove_folder(stale)
