"""``smalti completion``: a script that lets a shell complete verbs, options, and the names that options take."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Annotated, Any, Final

import typer

from smalti.backends.registry import AUTO, PROVIDERS
from smalti.bundle.reader import embedded_bundles, open_bundle
from smalti.cli.verbs import VARIABLE
from smalti.errors import SmaltiError, UsageError

SHELLS: Final = ("bash", "zsh", "fish", "powershell")
PRECISIONS: Final = (AUTO, "fp32", "fp16", "int8")


def complete_bundle(incomplete: str) -> list[str]:
    """Return names of embedded bundles; paths are completed by the shell."""
    return _beginning(incomplete, embedded_bundles())


def complete_label(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the labels of the bundle that the line names so far."""
    try:
        named: Any = ctx.params.get("bundle")
        return _beginning(incomplete, open_bundle(named).manifest.classes)
    except SmaltiError:
        return []


def complete_provider(incomplete: str) -> list[str]:
    """Return names of providers."""
    return _beginning(incomplete, (AUTO, *PROVIDERS))


def complete_precision(incomplete: str) -> list[str]:
    """Return names of precisions."""
    return _beginning(incomplete, PRECISIONS)


def completion(
    shell: Annotated[
        str,
        typer.Argument(metavar="SHELL", help="bash, zsh, fish or powershell.", autocompletion=lambda: list(SHELLS)),
    ],
) -> None:
    """Print a script that completes this command in a shell.

    For bash: eval "$(smalti completion bash)", in ~/.bashrc; zsh likewise, after compinit. For fish: smalti completion
    fish | source. For PowerShell: smalti completion powershell | Out-String | Invoke-Expression.
    """
    if shell not in SHELLS:
        raise UsageError(f"shell {shell!r}: allowed are {', '.join(SHELLS)}")
    os.environ[VARIABLE] = f"source_{shell}"
    shell_aware().main([], prog_name="smalti")


def shell_aware() -> Any:
    """Return an empty command. Typer knows the shells only after it made one with its own options for completion."""
    empty = typer.Typer(add_completion=True)
    empty.command()(lambda: None)
    return typer.main.get_command(empty)


def _beginning(text: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(text)]
