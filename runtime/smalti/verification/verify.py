"""Verify a bundle: its files, and its graphs' signatures; :mod:`smalti.verification.remeasure` runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from smalti.backends.onnxruntime_cpu import OnnxRuntimeCpu
from smalti.backends.onnxruntime_options import LIBRARY
from smalti.backends.signatures import mismatches
from smalti.bundle.engines import ENGINES
from smalti.bundle.manifest import Precision, Role
from smalti.bundle.reader import ENGINES_FOLDER, MANIFEST, Bundle, check_file, listing, read_engines
from smalti.errors import BundleError, ProviderUnavailable
from smalti.families.settings import check_defaults
from smalti.verification.golden import read_golden

Say = Callable[[str], None]


@dataclass(frozen=True)
class Verification:
    """Result of :func:`verify`."""

    files: int
    bytes: int
    graphs: int
    """Number of graphs that were loaded and compared with the manifest."""
    unread: str
    """Why graphs were not loaded; empty where they were."""
    golden: bool
    """Whether there are golden inputs, which allow the certificate to be measured again."""
    engines: int
    undeclared: tuple[str, ...]
    """Files in the bundle that nothing declares; they are never read."""
    problems: tuple[str, ...]
    """All problems, each with the file's name; empty for a good bundle."""


def verify(bundle: Bundle, say: Say = lambda line: None) -> Verification:
    """Check every file's size and sha256, every graph's inputs and outputs, the golden inputs and the engines.

    No graph is run, no constants are folded and no connection is opened. Graphs are left out where ONNX Runtime, which
    reads them, is missing; ``unread`` then says so.
    """
    reader, unread = _reader()
    problems = _raised(lambda: check_defaults(bundle.manifest, str(bundle.path)))
    sound: set[str] = set()
    for record in bundle.manifest.files():
        say(record.file)
        try:
            check_file(bundle.path, record)
            sound.add(record.file)
        except BundleError as error:
            problems.append(str(error))
    graphs = 0
    for role, component in bundle.manifest.components.items():
        for variant in component.variants:
            if reader is not None and {variant.graph.file, *variant.weights} <= sound:
                say(f"{variant.graph.file}: inputs and outputs")
                problems += _graph_problems(reader, bundle, role, variant.precision)
                graphs += 1
    golden = bundle.manifest.golden
    if golden is not None and golden.file in sound:
        problems += _raised(lambda: read_golden(bundle))
    bundle.forget()
    engines, belong, wrong = _engines(bundle, say)
    declared = {MANIFEST, *(record.file for record in bundle.manifest.files()), *belong}
    return Verification(
        files=len(bundle.manifest.files()),
        bytes=sum(record.bytes for record in bundle.manifest.files()),
        graphs=graphs,
        unread=unread,
        golden=golden is not None,
        engines=engines,
        undeclared=tuple(name for name in listing(bundle.path) if name not in declared),
        problems=(*problems, *wrong),
    )


def _raised(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except BundleError as error:
        return [str(error)]
    return []


def _reader() -> tuple[OnnxRuntimeCpu | None, str]:
    """Return what reads graphs, or None, and why."""
    try:
        return OnnxRuntimeCpu(1), ""
    except ProviderUnavailable as error:
        absent = f"No module named {LIBRARY!r}" in str(error)
        return None, "ONNX Runtime is not installed" if absent else str(error)


def _graph_problems(reader: OnnxRuntimeCpu, bundle: Bundle, role: Role, precision: Precision) -> list[str]:
    """Return the problems of one graph, each with its file's name."""
    try:
        inputs, outputs = reader.declared(bundle, role, precision)
    except BundleError as error:
        return [str(error)]
    return mismatches(bundle, role, precision, inputs, outputs)


def _engines(bundle: Bundle, say: Say) -> tuple[int, set[str], list[str]]:
    """Return the number of engines in the bundle, their files, and their problems."""
    try:
        engines = read_engines(bundle.path)
    except BundleError as error:
        return 0, {f"{ENGINES_FOLDER}/{ENGINES}"}, [str(error)]
    if engines is None:
        return 0, set(), []
    belong, problems = {f"{ENGINES_FOLDER}/{ENGINES}"}, list[str]()
    if engines.bundle_digest != bundle.digest:
        problems.append(f"{bundle.path}: {ENGINES} lists engines of another bundle; build them again from this one")
    sources = {
        (role, variant.precision): variant.graph.sha256
        for role, component in bundle.manifest.components.items()
        for variant in component.variants
    }
    for record in engines.engines:
        inside = msgspec.structs.replace(record.engine, file=f"{ENGINES_FOLDER}/{record.engine.file}")
        belong.add(inside.file)
        say(inside.file)
        problems += _raised(lambda inside=inside: check_file(bundle.path, inside, ENGINES, "build it again"))
        if sources.get((record.component, record.precision)) != record.source_sha256:
            problems.append(
                f"{bundle.path}: {inside.file} was not built from the bundle's {record.component} {record.precision}; "
                "build it again"
            )
    return len(engines.engines), belong, problems
