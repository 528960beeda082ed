"""A bundle with its engines in one zip, to be shipped. It appears whole or not at all."""

from __future__ import annotations

import glob
import hashlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from smalti.bundle import engines as engine_records
from smalti.bundle.engine_folder import OTHER_CACHE, KeptEngine, changing, engine_cache, engines_of
from smalti.bundle.engines import ENGINES, SCHEMA_VERSION, Engines
from smalti.bundle.manifest import Precision, Role
from smalti.bundle.reader import ENGINES_FOLDER, MANIFEST, REMEDY, Bundle, open_bundle
from smalti.errors import BundleError, EngineError, OutputError, UsageError
from smalti.system.files import check_folder, check_writable, flush, move_file, remove_folder, whole_folder
from smalti.system.platform import reachable
from smalti_export.engines.build import Heard, Progress, Say, by_component, planned, run_jobs, unheard
from smalti_export.engines.job import Job
from smalti_export.engines.toolkit import Toolkit

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

    The zip has the files that the manifest declares, and ``engines/`` with what the bundle carried already, what a zip
    of the same bundle that is replaced carried, and what was built. What is built goes into the user's cache first, so
    that an interrupt loses none that was finished; where the cache cannot be written, into a temporary folder. Nothing
    is compressed, so that the zip is read as fast as a folder. Order and dates are always the same.

    Raises the errors of ``build_engines``; UsageError when ``output`` is a file of something else, unless ``force`` is
    set; EngineError when any engine could not be built. A zip that was there is then untouched.
    """
    check_writable(output)
    if not force:
        check_replaceable(output, bundle)
    heard = Heard(say, progress, go_on)
    jobs, failed = planned(bundle, toolkit, precision, components)
    with changing(output, lambda: say(f"waiting for another process that writes {output}")):
        _sweep(output)
        own = _carried(bundle, say)
        if (there := _same_bundle(output, bundle)) is not None and there.path != bundle.path:
            ready = [job for job in jobs if job.find(own)[0] is not None]
            mine = [one.record for one in own]
            more = [one for one in _carried(there, say) if one.record not in mine]
            own += [one for one in more if not any(job.replaces(one.record) for job in ready)]
        missing = [job for job in jobs if force or job.find(own)[0] is None]
        with whole_folder(output) as partial:
            folder = _place(bundle, missing, partial, heard, force)
            listed, more = run_jobs(folder, bundle, missing, heard, force=force) if missing else (None, [])
            if failed := [*failed, *more]:
                kept = f" Those that were built are in {folder}." if folder == engine_cache(bundle) else ""
                raise EngineError(
                    f"could not build {'; '.join(failed)}. {output} was not written: name those that can be built with "
                    f"--component.{kept}"
                )
            built = [KeptEngine(record, folder, "") for record in listed.engines] if listed else []
            made = [one for one in (job.find(built)[0] for job in missing) if one is not None]
            stay = [one for one in own if not any(job.replaces(one.record) for job in missing)]
            chosen = by_component(bundle, [*made, *stay], lambda one: one.record)
            engines = Engines(
                schema_version=SCHEMA_VERSION,
                bundle=bundle.manifest.name,
                bundle_digest=bundle.digest,
                engines=tuple(one.record for one in chosen),
            )
            finished = partial / output.name
            _write(bundle, engines, chosen, finished)
            flush(finished)
            move_file(finished, output)
    return engines


def check_replaceable(output: Path, bundle: Bundle) -> None:
    """Raise UsageError when ``output`` is a file that is no bundle, or another one than ``bundle``."""
    if not reachable(output).exists():
        return
    try:
        name = open_bundle(reachable(output)).manifest.name
    except BundleError:
        what = "is no bundle of smalti"
    else:
        if name == bundle.manifest.name:
            return
        what = f"is bundle {name}, and not {bundle.manifest.name}"
    raise UsageError(f"{output} is there, and {what}. Name another file, or replace it with --force")


def _same_bundle(output: Path, bundle: Bundle) -> Bundle | None:
    """Return the bundle in a zip that is to be replaced, where it is the same one; else None."""
    try:
        there = open_bundle(reachable(output)) if reachable(output).is_file() else None
    except BundleError:
        return None
    return there if there is not None and there.digest == bundle.digest else None


def _place(bundle: Bundle, jobs: Sequence[Job], partial: Path, heard: Heard, force: bool) -> Path:
    """Return the folder to build into: the cache, or a temporary one where that cannot be written and must be."""
    cache = engine_cache(bundle)
    try:
        check_folder(cache)
    except OutputError as error:
        there = engines_of(bundle)[0]
        if force or any(job.find(there)[0] is None for job in jobs):
            heard.say(
                f"{error}: engines are built in a temporary folder, and an interrupt loses all of them. {OTHER_CACHE}"
            )
        return partial / ENGINES_FOLDER
    return cache


def _carried(bundle: Bundle, say: Say) -> list[KeptEngine]:
    """Return the engines that the bundle carries; a damaged one is left out."""
    kept: list[KeptEngine] = []
    for one in (one for one in engines_of(bundle)[0] if one.root == bundle.path):
        try:
            one.check("it is left out")
        except BundleError as error:
            say(str(error))
        else:
            kept.append(one)
    return kept


def _write(bundle: Bundle, engines: Engines, chosen: Sequence[KeptEngine], output: Path) -> None:
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
        for name, content in _contents(bundle):
            archive.writestr(_entry(name), content)
        archive.writestr(_entry(f"{ENGINES_FOLDER}/{ENGINES}"), engine_records.encode(engines))
        for one in sorted(chosen, key=lambda one: one.record.engine.file):
            archive.writestr(_entry(f"{ENGINES_FOLDER}/{one.record.engine.file}"), one.read())


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
