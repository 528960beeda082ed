"""``smalti doctor``: what this machine has, what is wrong with it, and the line that installs smalti for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer

from smalti.bundle.reader import open_bundle
from smalti.cli.completion import complete_bundle
from smalti.cli.escape import printable
from smalti.cli.options import JsonOption
from smalti.verification.doctor.facts import Machine
from smalti.verification.doctor.finding import Finding
from smalti.verification.doctor.findings import conclude, draws_with
from smalti.verification.doctor.gather import gather
from smalti.verification.doctor.install import Choice, choose

CANNOT_DRAW = 4
"""Exit code of :class:`smalti.ProviderUnavailable`."""


def doctor(
    bundles: Annotated[
        list[str] | None,
        typer.Option(
            "--bundle",
            metavar="BUNDLE",
            help="Path or name of a bundle whose engines are looked at too; give several.",
            autocompletion=complete_bundle,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what this machine has, what is wrong, and which line installs smalti for it. Nothing is run on a GPU.

    Exits with 4 when smalti cannot draw here.
    """
    machine = gather(named=[open_bundle(name) for name in bundles or ()])
    findings = conclude(machine)
    providers, choice = draws_with(machine, findings), choose(machine)
    if as_json:
        typer.echo(json.dumps(report(machine, findings, providers, choice), indent=2))
    else:
        typer.echo("\n".join(map(printable, lines(findings, providers, choice))))
    if not providers:
        raise typer.Exit(CANNOT_DRAW)


def report(machine: Machine, findings: list[Finding], providers: list[str], choice: Choice) -> dict[str, Any]:
    """Return everything as plain values, for JSON."""
    return {
        "facts": asdict(machine),
        "findings": [asdict(one) for one in findings],
        "draws_with": providers,
        "install": choice._asdict(),
    }


def lines(findings: list[Finding], providers: list[str], choice: Choice) -> Iterator[str]:
    """Return everything as lines of text."""
    width = max(len(one.topic) for one in findings) + 2
    for one in findings:
        yield f"{one.verdict:<9}{one.topic:<{width}}{' '.join(one.text.split())}"
        yield from (f"{'':<{9 + width}}-> {line}" for line in one.remedy.splitlines())
    yield ""
    yield f"smalti draws here with {' and '.join(providers)}." if providers else "smalti cannot draw here."
    yield f"For this machine ({choice.extra}: {choice.why}):"
    yield from (f"    {line}" for line in (choice.uninstall, choice.line) if line)
