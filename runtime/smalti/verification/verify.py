"""Verify a bundle: its files, its graphs' signatures and, on request, the figures of its certificate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from smalti.backends.base import Backend
from smalti.backends.onnxruntime_cpu import OnnxRuntimeCpu
from smalti.backends.registry import resolve_provider
from smalti.backends.signatures import mismatches
from smalti.bundle.engines import ENGINES
from smalti.bundle.manifest import AGAIN, PRIOR_ROLES, ROUNDED, Measure, Precision, Role, missed
from smalti.bundle.reader import ENGINES_FOLDER, MANIFEST, Bundle, check_file, listing, read_engines
from smalti.errors import BundleError, SamplingError, UsageError
from smalti.families.settings import check_defaults
from smalti.generator import load
from smalti.verification.comparison import compare_runs, run_labels
from smalti.verification.golden import Golden, compare_golden, read_golden

Say = Callable[[str], None]


@dataclass(frozen=True)
class Verification:
    """Result of :func:`verify`."""

    files: int
    bytes: int
    graphs: int
    """Number of graphs that were loaded and compared with the manifest."""
    golden: bool
    """Whether there are golden inputs, which allow the certificate to be measured again."""
    engines: int
    undeclared: tuple[str, ...]
    """Files in the bundle that nothing declares; they are never read."""
    problems: tuple[str, ...]
    """All problems, each with the file's name; empty for a good bundle."""


def verify(bundle: Bundle, say: Say = lambda line: None) -> Verification:
    """Check every file's size and sha256, every graph's inputs and outputs, the golden inputs and the engines.

    No graph is run, no constants are folded and no connection is opened. Raises ProviderUnavailable when ONNX Runtime,
    which reads the graphs, is missing.
    """
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
            if {variant.graph.file, *variant.weights} <= sound:
                say(f"{variant.graph.file}: inputs and outputs")
                problems += _graph_problems(bundle, role, variant.precision)
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


def _graph_problems(bundle: Bundle, role: Role, precision: Precision) -> list[str]:
    """Return the problems of one graph, each with its file's name."""
    try:
        inputs, outputs = OnnxRuntimeCpu(1).declared(bundle, role, precision)
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


@dataclass(frozen=True)
class Remeasured:
    """Figures of one variant on this machine, with those of its certificate."""

    component: Role
    precision: Precision
    provider: str
    figures: dict[str, float]
    certified: dict[str, float]
    tolerances: dict[str, float]
    missed: tuple[str, ...]
    """Figures out of tolerance, as text; empty when all are within."""


def remeasure(
    bundle: Bundle, provider: str = "auto", threads: int | None = None, say: Say = lambda line: None
) -> list[Remeasured]:
    """Measure the certificate's figures again on this machine, with the bundle's golden inputs.

    Raises UsageError when the bundle has none, ProviderUnavailable when the provider cannot run here, BundleError when
    a file is damaged or does not fit.
    """
    golden = read_golden(bundle)
    if golden is None:
        raise UsageError(
            f"{bundle.path} has no golden inputs to measure with: export it again, or verify "
            "its files and graphs alone, without --run"
        )
    if missing := sorted(set(bundle.manifest.components) - set(golden.cases)):
        raise BundleError(f"{bundle.path}: the golden inputs have none of the {missing[0]}. {AGAIN}")
    backend, _ = resolve_provider(provider, threads)
    found: list[Remeasured] = []
    for measure in bundle.manifest.certificate:
        if measure.precision not in set(bundle.precisions(measure.component)) & set(backend.precisions):
            continue
        say(f"{measure.component} {measure.precision}")
        figures = _figures(bundle, measure, golden, backend)
        again = {name for name in measure.tolerances if not name.startswith(ROUNDED)}
        if lacking := sorted(again - figures.keys()):
            raise BundleError(
                f"{bundle.path}: the golden inputs of the {measure.component} do not tell its {', '.join(lacking)}, "
                f"for which there is a bound. {AGAIN}"
            )
        wrong = tuple(missed(figures, measure.tolerances))
        found.append(
            Remeasured(
                measure.component, measure.precision, backend.name, figures, measure.figures, measure.tolerances, wrong
            )
        )
    return found


def _figures(bundle: Bundle, measure: Measure, golden: Golden, backend: Backend) -> dict[str, float]:
    role, precision = measure.component, measure.precision
    session = backend.open(bundle, role, precision)
    if wrong := mismatches(bundle, role, precision, session.inputs, session.outputs):
        raise BundleError("; ".join(wrong))

    def graph(inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            return session(inputs)
        except BundleError as error:
            raise BundleError(f"the golden inputs of the {role} do not fit its graph: {error}") from error

    figures = compare_golden(bundle, role, golden.cases[role], graph)
    if golden.runs is not None and role == PRIOR_ROLES[bundle.manifest.family]:
        count = len(golden.runs)
        generator = load(bundle, precision=precision, backend=backend)
        labels = run_labels(bundle.manifest.classes, count)
        try:
            *_, last = generator.stream(seeds=range(count), label=labels)
            tokens = last.tokens
        except SamplingError:  # invalid logits, such as NaN
            tokens = np.full_like(golden.runs, -1)
        figures |= compare_runs(tokens, golden.runs)
    return figures
