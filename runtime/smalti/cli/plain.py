"""Apps and commands whose help names what people type, such as FILE or NUMBER, and never a type of Python."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand

Command = TypeVar("Command", bound=Callable[..., Any])


class PlainCommand(TyperCommand):
    """A command that shows an argument by its name alone; its type would stand behind it otherwise."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, each with its help."""
        rows: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                name, text = record
                kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
                rows[kind].append((plain_name(name), text))
        for title, records in rows.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class App(typer.Typer):
    """A Typer app in the style of smalti: plain text, our own errors, and commands that are :class:`PlainCommand`."""

    def __init__(self, *, help: str | None = None, epilog: str | None = None, no_args_is_help: bool = False) -> None:
        """Take what help says of the app."""
        super().__init__(
            help=help,
            epilog=epilog,
            no_args_is_help=no_args_is_help,
            add_completion=False,
            rich_markup_mode=None,
            pretty_exceptions_enable=False,
        )

    def command(  # pyright: ignore[reportIncompatibleMethodOverride] - Typer's other options are ours
        self, name: str | None = None, *, help: str | None = None, epilog: str | None = None, own_help: bool = True
    ) -> Callable[[Command], Command]:
        """Return a decorator that adds a command. Without ``own_help`` it has no option ``--help``."""
        return super().command(name, cls=PlainCommand, help=help, epilog=epilog, add_help_option=own_help)


def plain_name(shown: str) -> str:
    """Return how help shows an argument or option, without the type of Python at its end."""
    return re.sub(r" <[^<>]*>$", "", shown)
