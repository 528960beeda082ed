"""The ``smalti`` command. Verbs of training and export are loaded when they are called.

Next to nothing is imported before :func:`main` is called, so that an interrupt finds somebody who answers it.
"""

from __future__ import annotations

import sys

INTERRUPTED, TERMINATED = 130, 143
_said: list[str] = []
"""What was told of the end, which is told once."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the documented code (see :mod:`smalti.errors`)."""
    try:
        code = _watched(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:  # while this was imported or set up; what comes later is told by _run
        print("smalti: interrupted", file=sys.stderr or sys.stdout)
        code = INTERRUPTED
    sys.exit(code)


def _watched(arguments: list[str]) -> int:
    """Run with handlers of signals, and with streams that can be printed to."""
    import contextlib
    import signal

    from smalti.cli.ending import ending_soon
    from smalti.cli.streams import lost_output, prepare, tell
    from smalti.system.platform import ending_signals

    prepare()
    _said.clear()
    with contextlib.suppress(ValueError):  # for which there must be the main thread
        for number in ending_signals():
            # Unwound like any other exit, so that no temporary folder stays behind.
            signal.signal(number, _terminated)
    with ending_soon(ending_signals(), TERMINATED, _say_terminated):
        code = _run(arguments)
        if (reason := lost_output()) and not code:  # else an error was told before, and this may be that one
            tell(f"smalti: {reason}")
            code = 1
    return code


def _terminated(number: int, frame: object) -> None:
    _say_terminated()
    sys.exit(TERMINATED)


def _say_terminated() -> None:
    from smalti.cli.streams import tell

    if not _said:
        _said.append("smalti: terminated")
        tell(_said[0])


def _run(arguments: list[str]) -> int:
    import os

    from smalti.cli.escape import printable_lines
    from smalti.cli.logs import logs_told
    from smalti.cli.streams import tell
    from smalti.cli.verbs import VARIABLE
    from smalti.errors import SmaltiError, exit_code, for_outsiders

    try:
        if VARIABLE in os.environ:
            return _complete()
        with logs_told():
            return _called(_as_a_shell(arguments))
    except SmaltiError as error:
        tell(printable_lines(f"smalti: {for_outsiders(str(error))}"))
        return exit_code(error)
    except OSError as error:
        # A full disk or a vanished folder while logs or caches are written; the message says which.
        tell(printable_lines(f"smalti: {error}"))
        return 1
    except KeyboardInterrupt:
        tell("smalti: interrupted")
        return INTERRUPTED


def _called(arguments: list[str]) -> int:
    """Run a verb. Raises what it raises, and MissingExtra without the packages of the command line."""
    from smalti.cli.verbs import lazy_verb
    from smalti.errors import MissingExtra
    from smalti.system.platform import command_line, install_hint

    if verb := lazy_verb(arguments):
        return _call_lazy(verb, arguments[len(verb.split()) :])
    try:
        from smalti.cli.commands import app
    except ImportError as error:
        raise MissingExtra(f"the command line needs {error.name}; {install_hint('cli')}") from error
    return _call(app, arguments, command_line())


def _as_a_shell(arguments: list[str]) -> list[str]:
    """Return the arguments with home folders for ``~``, which shells leave after ``=``, and other programs always.

    Raises UsageError for an empty one: an empty path is the working folder, which nobody means by it.
    """
    import os
    from pathlib import Path

    from smalti.errors import UsageError
    from smalti.system.platform import at_home

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
    from importlib import import_module

    from smalti.cli.verbs import EXTRAS, LAZY
    from smalti.errors import MissingExtra, SmaltiError
    from smalti.system.platform import command_line, install_hint

    module, _ = LAZY[verb]
    try:
        app: object = import_module(module).app
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
    from typing import cast

    import typer

    from smalti.cli.streams import silence

    # The parent of all complaints about options and arguments: click's own, and from typer 0.26 on typer's copy of it.
    complaint = cast(type[typer.BadParameter], typer.BadParameter.__bases__[0])
    try:
        command = typer.main.get_command(app)  # pyright: ignore[reportArgumentType]
        code = command.main(arguments, prog_name=name, standalone_mode=False) or 0
    except complaint as error:
        try:
            error.show()
        except (OSError, ValueError):  # stderr cannot be written to
            silence(sys.stderr)
        return error.exit_code
    except typer.Abort:
        raise KeyboardInterrupt from None
    if code == INTERRUPTED:  # What newer versions of typer make of an interrupt.
        raise KeyboardInterrupt
    return code
