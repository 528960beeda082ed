"""The ``smalti`` command. Verbs of training and export are loaded when they are called."""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
from typing import cast

from smalti.cli.escape import forgive, printable_lines
from smalti.cli.verbs import EXTRAS, LAZY, lazy_verb
from smalti.errors import MissingExtra, SmaltiError, exit_code
from smalti.platform import ending_signals

INTERRUPTED, TERMINATED = 130, 143


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the documented code (see :mod:`smalti.errors`)."""
    forgive(sys.stdout, sys.stderr)
    with contextlib.suppress(ValueError):  # for which there must be the main thread
        for number in ending_signals():
            # Unwound like any other exit, so that no temporary folder stays behind.
            signal.signal(number, _terminated)
    sys.exit(_run(sys.argv[1:] if arguments is None else arguments))


def _terminated(number: int, frame: object) -> None:
    print("smalti: terminated", file=sys.stderr)
    sys.exit(TERMINATED)


def _run(arguments: list[str]) -> int:
    try:
        if verb := lazy_verb(arguments):
            return _call(_lazy_app(verb), arguments[len(verb.split()) :], f"smalti {verb}")
        try:
            from smalti.cli.commands import app
        except ImportError as error:
            raise MissingExtra(f'the command line needs {error.name}; pip install "smalti[cli]"') from error
        return _call(app, arguments, "smalti")
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


def _lazy_app(verb: str) -> object:
    module, _ = LAZY[verb]
    try:
        return importlib.import_module(module).app
    except ImportError as error:
        from smalti.backends.onnxruntime_cpu import LIBRARY

        # Of the extras that have it the user takes one; cpu is what runs everywhere.
        extra = "cpu" if error.name == LIBRARY else EXTRAS.get(verb, verb)
        raise MissingExtra(f'smalti {verb} needs {error.name}; pip install "smalti[{extra}]"') from error


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
