"""``smalti bundle``: look at a bundle, and find out whether it is what it says it is."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from smalti.backends.base import Backend
from smalti.backends.registry import AUTO, check_provider, open_backend
from smalti.bundle.manifest import allowed
from smalti.bundle.reader import Bundle, open_bundle
from smalti.cli.card import card, card_lines, figure
from smalti.cli.escape import in_place, printable
from smalti.cli.options import BundleArgument, JsonOption, ProviderOption, ThreadsOption
from smalti.cli.plain import App
from smalti.errors import BundleError, ParityError, ProviderUnavailable
from smalti.loading.load import load
from smalti.system.platform import quoted
from smalti.verification.polygraphy import check_new, write_polygraphy
from smalti.verification.remeasure import Remeasured, remeasure
from smalti.verification.verify import Verification
from smalti.verification.verify import verify as verify_bundle

EVERY = 4.0
"""Seconds between two lines about a measurement, where stderr is no terminal."""

app = App(no_args_is_help=True, help="Look at a bundle, or verify it.")


@app.command()
def inspect(bundle: BundleArgument = None, as_json: JsonOption = False) -> None:
    """Print what a bundle is: family, grid, codebook, licences, variants, sizes, certificate, engines."""
    content = card(open_bundle(bundle))
    typer.echo(json.dumps(content, indent=2) if as_json else "\n".join(map(printable, card_lines(content))))


@app.command()
def verify(
    bundle: BundleArgument = None,
    run: Annotated[bool, typer.Option("--run", help="Measure the certificate again, on this machine.")] = False,
    polygraphy: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="New folder for graphs, inputs and outputs that NVIDIA's Polygraphy compares."
        ),
    ] = None,
    provider: ProviderOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every file's hash and every graph's signature; nothing is downloaded, and without --run nothing is run.

    Where ONNX Runtime is not installed, graphs are not read, and that is said.

    Exits with 3 when a file is damaged, and with 6 when a figure measured by --run is out of its tolerance.
    """
    opened = open_bundle(bundle)
    check_provider(provider)
    if polygraphy:
        check_new(polygraphy)
    found = verify_bundle(opened, _progress)
    measured: list[Remeasured] = []
    if run and not found.problems:
        measured = remeasure(opened, _backend(opened, provider, threads), _measuring())
    commands = write_polygraphy(opened, polygraphy) if polygraphy and not found.problems else []
    _progress("")
    if as_json:
        report = {"bundle": opened.manifest.name, "path": str(opened.path), "digest": opened.digest, **asdict(found)}
        report["remeasured"] = [asdict(one) for one in measured] if run else None
        report["polygraphy"] = commands
        typer.echo(json.dumps(report, indent=2))
    if found.problems:
        raise BundleError("\n        ".join(found.problems))
    if not as_json:
        typer.echo("\n".join(map(printable, (*_summary(opened.manifest.name, found), *_table(measured)))))
        if commands:
            typer.echo("\n".join(["", f"cd {quoted(str(polygraphy))}", *commands]))
    if wrong := [f"{one.component} {one.precision}: {'; '.join(one.missed)}" for one in measured if one.missed]:
        raise ParityError(
            f"{opened.path} does not compute here what it was certified to: {' | '.join(wrong)}. Choose another "
            "precision, or report it with the output of --json"
        )


def _backend(bundle: Bundle, provider: str, threads: int | None) -> Backend:
    """Return what auto takes, or the CPU where it takes nothing, since the figures then say why."""
    if provider != AUTO:
        return open_backend(provider, threads)
    try:
        return load(bundle, threads=threads).backend
    except ProviderUnavailable:
        return open_backend("cpu", threads)


def _summary(name: str, found: Verification) -> list[str]:
    graphs = "" if found.unread else f" and {found.graphs} graph{'s' if found.graphs != 1 else ''}"
    lines = [f"{name}: {found.files} files ({found.bytes / 1e6:.1f} MB){graphs} are as declared"]
    if found.unread:
        lines.append(f"graphs were not read: {found.unread}")
    if found.engines:
        lines.append("1 engine belongs to it" if found.engines == 1 else f"{found.engines} engines belong to it")
    if not found.golden:
        lines.append("it has no golden inputs: its certificate cannot be measured again")
    if found.undeclared:
        lines.append(f"not of the bundle, and never read: {', '.join(found.undeclared)}")
    return lines


def _table(measured: list[Remeasured]) -> list[str]:
    lines: list[str] = []
    for one in measured:
        lines.append(f"{one.component} {one.precision} on {one.provider}: {'out of tolerance' if one.missed else 'ok'}")
        for name, value in one.figures.items():
            certified = one.certified.get(name)
            bound = one.tolerances.get(name)
            told = [] if certified is None else [f"certified: {figure(name, certified)}"]
            told += [] if bound is None else [f"allowed: {allowed(name, bound)}"]
            lines.append(f"  {figure(name, value)}" + (f" ({'; '.join(told)})" if told else ""))
    return lines


def _measuring() -> Callable[[str], None]:
    """Return what shows how far a measurement is: one line on a terminal, else a line every few seconds on stderr."""
    if sys.stderr.isatty():
        return _progress
    said = time.monotonic()

    def say(line: str) -> None:
        nonlocal said
        if time.monotonic() - said >= EVERY:
            print(printable(line), file=sys.stderr, flush=True)
            said = time.monotonic()

    return say


def _progress(line: str) -> None:
    """Show on a terminal the file that is checked now, in one line that the next one overwrites."""
    if sys.stderr.isatty():
        print(in_place(line, sys.stderr), end="", file=sys.stderr, flush=True)
