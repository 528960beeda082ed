"""All commands as one tree, those of other floors in their places: for completion, for pages, and for tests."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import typer

from smalti.cli.commands import app
from smalti.cli.completion import shell_aware
from smalti.cli.verbs import LAZY


def every_command() -> Any:
    """Return the command ``smalti`` with all that is below it. A verb whose package is not installed has no options."""
    top: Any = typer.main.get_command(app)
    for verb, (module, _) in LAZY.items():
        *groups, name = verb.split()
        group: Any = top
        for one in groups:
            group = group.commands[one]
        try:
            found: Any = typer.main.get_command(import_module(module).app)
        except ModuleNotFoundError:
            continue
        found.name = name
        group.commands[name] = found
    return top


def verbs(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Return every command with its words, from ``()``, which is smalti itself, to the last below it."""
    command = every_command() if command is None else command
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from verbs(inner, (*path, name))


def answer() -> None:
    """Answer a shell that asks for completions by :data:`smalti.cli.verbs.VARIABLE`, and end the process."""
    shell_aware()
    every_command().main([], prog_name="smalti")
