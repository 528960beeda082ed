"""The ``smalti`` command. Verbs of training and export are loaded when they are called."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import cast

from smalti.cli.ending import ending_soon
from smalti.cli.escape import forgive, printable_lines
from smalti.cli.verbs import EXTRAS, LAZY, VARIABLE, lazy_verb
from smalti.errors import MissingExtra, SmaltiError, UsageError, exit_code
from smalti.platform import at_home, command_line, ending_signals, install_hint

INTERRUPTED, TERMINATED = 130, 143


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the documented code (see :mod:`smalti.errors`)."""
    forgive(sys.stdout, sys.stderr)
    with contextlib.suppress(ValueError):  # for which there must be the main thread
        for number in ending_signals():
            # Unwound like any other exit, so that no temporary folder stays behind.
            signal.signal(number, _terminated)
    with ending_soon(ending_signals(), TERMINATED, "smalti: terminated"):
        sys.exit(_run(sys.argv[1:] if arguments is None else arguments))


def _terminated(number: int, frame: object) -> None:
    print("smalti: terminated", file=sys.stderr)
    sys.exit(TERMINATED)


def _run(arguments: list[str]) -> int:
    try:
        if VARIABLE in os.environ:
            return _complete()
        arguments = _as_a_shell(arguments)
        if verb := lazy_verb(arguments):
            return _call_lazy(verb, arguments[len(verb.split()) :])
        try:
            from smalti.cli.commands import app
        except ImportError as error:
            raise MissingExtra(f"the command line needs {error.name}; {install_hint('cli')}") from error
        return _call(app, arguments, command_line())
    except SmaltiError as error:
        print(printable_lines(f"smalti: {error}"), file=sys.stderr)
        return exit_code(error)
    except OSError as error:
        # A full disk or a vanished folder while logs or caches are written; the message says which.
        print(f"smalti: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("smalti: interrupted", file=sys.stderr)
        return INTERRUPTED


def _as_a_shell(arguments: list[str]) -> list[str]:
    """Return the arguments with home folders for ``~``, which shells leave after ``=``, and other programs always.

    Raises UsageError for an empty one: an empty path is the working folder, which nobody means by it.
    """
    read: list[str] = []
    for before, argument in zip(["", *arguments], arguments):
        option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        if not value and (equals or not option):
            name = option or (before if before.startswith("-") else "an argument")
            raise UsageError(f"{name} is empty; give it a value, or leave it out. Is a variable of the shell not set?")
        separators = tuple(filter(None, (os.sep, os.altsep)))
        if value == "~" or (value.startswith("~") and any(sign in value for sign in separators)):
            value = str(at_home(Path(value))) + (os.sep if value.endswith(separators) else "")
        read.append(f"{option}{equals}{value}")
    return read


def _complete() -> int:
    """Answer a shell that completes a line; without the command line's packages there is nothing to say."""
    try:
        from smalti.cli.tree import answer
    except ImportError:
        return 1
    answer()
    return 0


def _call_lazy(verb: str, arguments: list[str]) -> int:
    """Run a verb of another floor. Its help needs the command line's extra alone, and its work more."""
    module, _ = LAZY[verb]
    try:
        app: object = importlib.import_module(module).app
        return _call(app, arguments, f"{command_line()} {verb}")
    except ImportError as error:
        if isinstance(error, SmaltiError) or error.name is None:  # which says itself what is missing
            raise
        from smalti.backends.onnxruntime_cpu import LIBRARY

        # Of the extras that have it the user takes one; cpu is what runs everywhere.
        extra = {LIBRARY: "cpu", "typer": "cli"}.get(error.name or "", EXTRAS.get(verb, verb))
        raise MissingExtra(f"smalti {verb} needs {error.name}; {install_hint(extra)}") from error


def _call(app: object, arguments: list[str], name: str) -> int:
    """Run a typer app without letting it exit by itself, so that our own errors keep their codes."""
    import typer

    # The parent of all complaints about options and arguments: click's own, and from typer 0.26 on typer's copy of it.
    complaint = cast(type[typer.BadParameter], typer.BadParameter.__bases__[0])
    try:
        command = typer.main.get_command(app)  # pyright: ignore[reportArgumentType]
        code = command.main(arguments, prog_name=name, standalone_mode=False) or 0
    except complaint as error:
        error.show()
        return error.exit_code
    except typer.Abort:
        raise KeyboardInterrupt from None
    if code == INTERRUPTED:  # What newer versions of typer make of an interrupt.
        raise KeyboardInterrupt
    return code
