"""Build a bundle's engines into a folder: one at a time, each kept as soon as it is built."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from smalti.bundle import engines as engine_records
from smalti.bundle.engine_folder import (
    OTHER_CACHE,
    KeptEngine,
    changing,
    engine_cache,
    engine_caches,
    engines_of,
    read_or_forget,
    write_folder,
)
from smalti.bundle.engines import EngineRecord, Engines
from smalti.bundle.manifest import Precision, Role
from smalti.bundle.reader import ENGINES_FOLDER, MANIFEST, Bundle
from smalti.errors import BundleError, EngineError, OutputError, UsageError
from smalti.system.files import check_folder
from smalti.verification.engines.scratch import sweep
from smalti_export.engines.job import Job, prepare
from smalti_export.engines.toolkit import Toolkit
from smalti_export.engines.watching import Watch

Say = Callable[[str], object]
One = TypeVar("One")


@dataclass(frozen=True)
class Progress:
    """How far the building of several engines is."""

    component: Role
    precision: Precision
    number: int
    """The engine's number, from 1."""
    of: int
    """Number of engines."""
    phase: str
    """What the builder does, in its own words."""
    share: float
    """Share of this engine's work that is done, 0 .. 1, as far as the builder tells."""
    done: bool = False
    """Whether the engine is there now; the share is then 1."""


def unheard(progress: Progress) -> None:
    """Hear of progress, and do nothing."""


@dataclass(frozen=True)
class Heard:
    """Who hears of a build; see :func:`build_engines`."""

    say: Say = lambda line: None
    progress: Callable[[Progress], object] = unheard
    go_on: Callable[[], bool] = lambda: True


def build_engines(
    bundle: Bundle,
    toolkit: Toolkit,
    output: Path | None = None,
    *,
    precision: Precision = "fp16",
    components: Sequence[Role] | None = None,
    force: bool = False,
    say: Say = lambda line: None,
    progress: Callable[[Progress], object] = unheard,
    go_on: Callable[[], bool] = lambda: True,
) -> Engines:
    """Build engines of a bundle's components and write them, with ``engines.json``, to the folder ``output``.

    ``output`` defaults to the user's cache, where the runtime finds them; ``components`` to all that come in
    ``precision``. ``say`` is called with lines for people. ``progress`` and ``go_on`` are called often, from other
    threads too; once ``go_on`` returned False, the build ends.

    One process at a time changes a folder, and others wait. An engine that is there, whole, and of the same graph,
    sizes, version and GPUs is not built again unless ``force`` is set; one that the bundle or the cache has is copied.
    A new engine replaces those of the same component, precision, runtime and device that are for no other GPU.

    Each engine is written, and then listed, before the next one is built. So an interrupt at any moment loses at most
    the one that is being built, and every file that the list names is there.

    Raises UsageError when a target cannot run the precision, when the bundle lacks a component, or when the folder
    holds something else; BundleError when the bundle is damaged, or a later smalti wrote the list; EngineError when a
    builder refuses a graph (after all others were built, which are kept) or the build is cancelled; OutputError when
    writing fails; MissingExtra without filelock.
    """
    folder = engine_cache(bundle) if output is None else output
    heard = Heard(say, progress, go_on)
    engines, failed = build_into(folder, bundle, toolkit, precision, components, heard, force=force)
    if failed:
        kept = f"; the others are in {folder}" if engines.engines else ""
        raise EngineError(f"could not build {'; '.join(failed)}{kept}")
    return engines


def build_into(
    folder: Path,
    bundle: Bundle,
    toolkit: Toolkit,
    precision: Precision,
    components: Sequence[Role] | None,
    heard: Heard,
    *,
    force: bool = False,
) -> tuple[Engines, list[str]]:
    """Build as :func:`build_engines` does, but return the list and why components could not be built.

    Raises the other errors of ``build_engines``, and EngineError when the build is cancelled.
    """
    if (folder / MANIFEST).exists():
        raise UsageError(f"{folder} is a bundle; name a folder of engines, such as {folder / ENGINES_FOLDER}")
    jobs, failed = planned(bundle, toolkit, precision, components)
    engines, more = run_jobs(folder, bundle, jobs, heard, force=force)
    return engines, [*failed, *more]


def run_jobs(
    folder: Path, bundle: Bundle, jobs: Sequence[Job], heard: Heard, *, force: bool = False
) -> tuple[Engines, list[str]]:
    """Do jobs, and return the folder's list and why some of them failed; nothing is written where all is there.

    Raises the errors of ``build_engines``.
    """
    if not force and (there := _complete(folder, bundle, jobs, heard)) is not None:
        return there, []
    failed: list[str] = []
    sweep()
    try:
        check_folder(folder)
        with changing(folder, lambda: heard.say(f"waiting for another process that builds into {folder}")):
            engines = _listed(bundle, folder, heard.say)
            for number, job in enumerate(jobs, 1):
                begun = Progress(job.role, job.precision, number, len(jobs), "", 0.0)
                try:
                    engines = _add(job, folder, engines, heard, begun, force)
                except EngineError as error:
                    if not heard.go_on():
                        raise
                    failed.append(f"{job.role} {job.precision}: {error}")
                    heard.say(f"{job.role} {job.precision}: failed")
                else:
                    heard.progress(replace(begun, phase="done", share=1.0, done=True))
    except OutputError as error:
        if folder.parent != engine_caches() or OTHER_CACHE in str(error):
            raise
        raise OutputError(f"{error}. {OTHER_CACHE}") from error
    return engines, failed


def _complete(folder: Path, bundle: Bundle, jobs: Sequence[Job], heard: Heard) -> Engines | None:
    """Return a folder's list if it has the engines of all jobs, whole. None otherwise; nobody hears of it then."""
    try:
        listed, wrong = read_or_forget(folder)
    except BundleError:
        return None
    if listed is None or wrong or listed.bundle_digest != bundle.digest or not jobs:
        return None
    here = [KeptEngine(record, folder, "") for record in listed.engines]
    found = [job.find(here)[0] for job in jobs]
    if None in found:
        return None
    for number, (job, one) in enumerate(zip(jobs, found), 1):
        assert one is not None
        heard.say(f"{job.role} {job.precision}: is there already: {one.record.engine.file}")
        heard.progress(Progress(job.role, job.precision, number, len(jobs), "done", 1.0, done=True))
    return listed


def planned(
    bundle: Bundle, toolkit: Toolkit, precision: Precision, components: Sequence[Role] | None
) -> tuple[list[Job], list[str]]:
    """Return what is to be built, and what is wrong with the rest. Raises the errors of ``build_engines``."""
    check_precision(toolkit, precision)
    return _prepared(bundle, toolkit, _roles(bundle, precision, components), precision)


def check_precision(toolkit: Toolkit, precision: Precision) -> None:
    """Raise UsageError when a target cannot run the precision; the message says why and what to do."""
    if precision == "int8":
        raise UsageError("precision int8: its scales are chosen for CPUs; build engines in fp16, or fp32")
    if precision == "fp32" and toolkit.runtime == "rtx" and "sm_75" in toolkit.targets:
        raise UsageError(
            "precision fp32 for sm_75: TensorRT-RTX has no fp32 matrix product for Turing. Build it with --precision "
            "fp16, which its tensor cores run fastest, or leave sm_75 out of the targets"
        )


def _roles(bundle: Bundle, precision: Precision, components: Sequence[Role] | None) -> list[Role]:
    there: list[Role] = [role for role in bundle.manifest.components if precision in bundle.precisions(role)]
    roles: list[Role] = there if components is None else list(dict.fromkeys(components))
    foreign = [role for role in roles if role not in there]
    if not roles or foreign:
        wanted = f"{foreign[0]} in {precision}" if roles else f"component in {precision}"
        raise UsageError(f"{bundle.path} has no {wanted}; in {precision} there are: {', '.join(there) or 'none'}")
    return roles


def _prepared(
    bundle: Bundle, toolkit: Toolkit, roles: Sequence[Role], precision: Precision
) -> tuple[list[Job], list[str]]:
    """Return what is to be built, and what is wrong with the rest; a damaged graph is found before the first build."""
    jobs: list[Job] = []
    failed: list[str] = []
    for role in roles:
        try:
            jobs.append(prepare(bundle, toolkit, role, precision))
        except EngineError as error:
            failed.append(f"{role} {precision}: {error}")
    return jobs, failed


def _listed(bundle: Bundle, folder: Path, say: Say) -> Engines:
    """Return the folder's list. Raises UsageError when its engines belong to another bundle."""
    engines, wrong = read_or_forget(folder)
    if wrong:
        say(f"the list is made anew: {wrong}")
    if engines is not None and engines.bundle_digest != bundle.digest:
        raise UsageError(
            f"{folder} holds engines of another bundle (or of this one before it was exported again): "
            f"{engines.bundle}. Name another folder, or delete this one first"
        )
    return Engines(
        schema_version=engine_records.SCHEMA_VERSION,
        bundle=bundle.manifest.name,
        bundle_digest=bundle.digest,
        engines=engines.engines if engines else (),
    )


def _add(job: Job, folder: Path, engines: Engines, heard: Heard, begun: Progress, force: bool) -> Engines:
    """Write one engine to a folder, and return its new list; an engine that is there stays."""
    title = f"{job.role} {job.precision}"
    if not force:
        here = [KeptEngine(record, folder, "") for record in engines.engines]
        found, wrong = job.find(here)
        for line in wrong:
            heard.say(f"{title}: {line}")
        if found is not None:
            heard.say(f"{title}: is there already: {found.record.engine.file}")
            return engines
        found, _ = job.find(engines_of(job.bundle)[0])
        if found is not None:
            heard.say(f"{title}: taken from {found.path}")
            return _write(job, folder, engines, found.record, found.read())
    return _write(job, folder, engines, *_build(job, heard, begun))


def _write(job: Job, folder: Path, engines: Engines, record: EngineRecord, plan: bytes) -> Engines:
    """Write one engine, and the list with it: by component, the newest of each first."""
    stay = [old for old in engines.engines if not job.replaces(old)]
    listed = by_component(job.bundle, [record, *stay], lambda one: one)
    engines = msgspec.structs.replace(engines, engines=tuple(listed))
    write_folder(folder, engines, {record.engine.file: plan})
    return engines


def by_component(bundle: Bundle, engines: Sequence[One], record: Callable[[One], EngineRecord]) -> list[One]:
    """Sort engines as the manifest lists components; those of one stay in their order."""
    order = list(bundle.manifest.components)
    return sorted(engines, key=lambda one: order.index(name) if (name := record(one).component) in order else -1)


def _build(job: Job, heard: Heard, begun: Progress) -> tuple[EngineRecord, bytes]:
    title, toolkit, start = f"{job.role} {job.precision}", job.toolkit, time.perf_counter()
    heard.say(f"{title}: building for {', '.join(toolkit.targets)} with {toolkit.runtime} {toolkit.version}")

    def tell(phase: str, share: float) -> None:
        heard.progress(replace(begun, phase=phase, share=share))

    record, plan = job.build(Watch(tell, heard.go_on))
    heard.say(f"{title}: {len(plan) / 1e6:.1f} MB in {time.perf_counter() - start:.1f} s")
    return record, plan
