"""``smalti engine``: which engines are there, which would run, which are of no use. ``build`` is another floor's."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Annotated, Final

import typer

from smalti.backends.tensorrt.choice import NAMES, PACKAGES
from smalti.bundle.engine_folder import engine_caches
from smalti.bundle.engines import Runtime
from smalti.bundle.reader import open_bundle
from smalti.cli.escape import printable
from smalti.cli.options import BundleArgument, JsonOption
from smalti.cli.plain import App
from smalti.errors import BundleError
from smalti.system.platform import command_line, install_hint
from smalti.verification.engines.cards import GPUS
from smalti.verification.engines.explaining import Explanation, explain, find_gpu
from smalti.verification.engines.listing import (
    Listed,
    engines_here,
    engines_of_bundle,
    installed_versions,
    installs,
)
from smalti.verification.engines.pruning import Pruned, Rule, prune

UNTRIED: Final = "never tried on a GPU: see docs/coverage.md"
"""What is to be said of every engine until one has run."""
TARGETS: Final = f'A GPU that need not be here: {", ".join(GPUS)}; or its card, such as "RTX 4090".'

app = App(no_args_is_help=True, help="Engines of a bundle for GPUs.")


@app.command("list")
def list_engines(
    bundle: Annotated[
        str | None,
        typer.Argument(
            metavar="BUNDLE",
            help="Path or name of a bundle. [default: the embedded ones, and all in the cache]",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 3 when an engine is damaged or a list cannot be read.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List engines: what they are for, the version that built them, where they lie, and whether they can be used.

    The states are ok, damaged, other version, other graph, and not installed (its runtime is missing).
    """
    installed = installed_versions()
    found, wrong = engines_here(installed) if bundle is None else engines_of_bundle(open_bundle(bundle), installed)
    if as_json:
        typer.echo(json.dumps({"engines": [one.to_dict() for one in found], "problems": wrong}, indent=2))
    else:
        _print([*(f"! {line}" for line in wrong), *_listed(found)])
    if check and (bad := [*wrong, *(one.note for one in found if one.state == "damaged")]):
        raise BundleError("\n        ".join(bad))


def _listed(found: list[Listed]) -> Iterator[str]:
    if not found:
        yield f"no engines; {command_line()} engine build makes them, and {command_line()} engine explain says more"
    for (name, digest), group in groupby(found, key=lambda one: (one.bundle, one.digest)):
        yield f"{name} ({digest[:12]})"
        for root, inside in groupby(group, key=lambda one: one.engine.root):
            own = list(inside)
            yield f"  {'in the cache' if root.parent == engine_caches() else 'in the bundle'}: {root}"
            for one in own:
                yield from _engine(one)
            yield from (f"    runs with: {line}" for line in installs(one.engine.record for one in own))


def _engine(one: Listed) -> Iterator[str]:
    record = one.engine.record
    of = f" of {record.device}" if record.device else ""
    yield (
        f"  {record.component:<12} {record.precision:<5} {record.engine.bytes / 1e6:>8.1f} MB  {one.state:<13} "
        f"{NAMES[record.runtime]} {record.version}, {', '.join(record.targets)}{of}"
    )
    yield f"    {one.engine.path}"
    if one.note:
        yield f"    {one.note}"


@app.command("explain")
def explain_engines(
    bundle: BundleArgument = None,
    target: Annotated[str | None, typer.Option("--for", metavar="TARGET", help=TARGETS)] = None,
    as_json: JsonOption = False,
) -> None:
    """Say which engine would run on this machine's GPU, or on another one, why others would not, and what to do."""
    gpu = find_gpu(target)
    content = explain(open_bundle(bundle), gpu, installed_versions(), bundle or "")
    if as_json:
        typer.echo(json.dumps(asdict(content), indent=2))
    else:
        _print(_explained(content))


def _explained(content: Explanation) -> Iterator[str]:
    gpu = content.gpu
    yield f"bundle {content.bundle}: {content.path}"
    if gpu.target:
        yield f"GPU    {gpu.target}: {gpu.name}{'' if gpu.here else ', as --for says'}"
    else:
        yield f"GPU    none here: {gpu.name}. Name one with --for, such as --for sm_86"
    for one in content.supports:
        yield f"  {one.name:<8} {'' if one.works else 'no: '}{one.text}"
    useless = {one.name for one in content.supports if not one.works}
    for runtime, version in content.installed.items():
        if not version and runtime in useless:
            continue
        yield f"{NAMES[runtime]} {version} is installed" if version else _absent(content, runtime)
    for (runtime, precision), group in groupby(content.outcomes, key=lambda one: (one.runtime, one.precision)):
        outcomes = list(group)
        if not any(one.engine or one.reasons for one in outcomes):
            yield f"{runtime} {precision}: no engine of any component"
            continue
        yield f"{runtime} {precision}"
        for one in outcomes:
            what = (
                f"would run {one.engine} ({UNTRIED})" if gpu.target else f"{one.engine} (for {', '.join(one.targets)})"
            )
            yield f"  {one.component:<12} {what if one.engine else 'no engine'}"
            yield from (f"    not used: {reason}" for reason in one.reasons)
    for optional, title in (
        (False, "what is missing is built with"),
        (True, "optional, and not needed to draw"),
    ):
        if some := [one for one in content.remedies if one.optional == optional]:
            yield f"\n{title}"
            yield from (f"  {one.line}" + (f"   ({one.where})" if one.where else "") for one in some)
    if content.tries:
        yield (
            f"\nprovider auto would try {', '.join(content.tries)}, as far as their packages are installed, and take "
            "the fastest that computes the golden inputs as certified"
        )
    for note in content.notes:
        yield f"\n{note}"


def _absent(content: Explanation, runtime: Runtime) -> str:
    """Return that a runtime is not installed, and how to install it in the version that engines here need."""
    line = install_hint(runtime)
    needed = sorted({one.version for one in content.outcomes if one.runtime == runtime and one.engine})
    told = f"; engines here need {' or '.join(needed)}" if needed else ""
    return f"{NAMES[runtime]} is not installed{told}; {line}" + (
        f" {PACKAGES[runtime]}=={needed[-1]}" if needed else ""
    )


@app.command("prune")
def prune_engines(
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Remove all engines in the cache, kernels that TensorRT-RTX compiled, and the verdicts of auto.",
        ),
    ] = False,
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Remove those that were made so many days ago too.")
    ] = None,
    keep_mb: Annotated[
        float | None, typer.Option(metavar="MB", help="Remove the oldest too, until at most so many megabytes stay.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove from the cache what nothing can use: engines that are damaged or of other versions, and left-overs.

    Kernels that TensorRT-RTX compiled in another version, or for another driver, go too.

    A bundle's own engines stay. Engines of a runtime that is not installed stay too, without an option.
    """
    keep = None if keep_mb is None else round(keep_mb * 1e6) if math.isfinite(keep_mb) else -1
    pruned = prune(installed_versions(), Rule(everything, older_than, keep), dry=dry_run, say=_say)
    if as_json:
        total = sum(one.bytes for one in pruned.removed)
        typer.echo(json.dumps({**asdict(pruned), "bytes": total, "dry_run": dry_run}, indent=2))
    else:
        _print(_pruned(pruned, dry_run))


def _pruned(pruned: Pruned, dry: bool) -> Iterator[str]:
    for (folder, why), group in groupby(pruned.removed, key=lambda one: (str(Path(one.path).parent), one.why)):
        files = list(group)
        size = f"{sum(one.bytes for one in files) / 1e6:.1f} MB"
        yield f"{files[0].path}: {size}: {why}" if len(files) == 1 else f"{folder}: {_files(len(files))}, {size}: {why}"
    yield from (f"! {line}" for line in pruned.problems)
    total = sum(one.bytes for one in pruned.removed)
    yield (
        f"{'would remove' if dry else 'removed'} {_files(len(pruned.removed))}, {total / 1e6:.1f} MB; engines of "
        f"{pruned.kept / 1e6:.1f} MB stay in {engine_caches()}"
    )


def _files(count: int) -> str:
    return f"{count} file{'s' if count != 1 else ''}"


def _print(lines: Iterable[str]) -> None:
    typer.echo("\n".join(printable(part) for line in lines for part in line.split("\n")))


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)
