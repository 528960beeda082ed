"""stdout and stderr of a command, also where they are closed or full: what was lost is told, and nothing fails late."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Generator
from typing import Any

from smalti.cli.escape import forgive
from smalti.errors import OutputError


class Closed(io.TextIOBase):
    """Stands for a stream that was closed before the command began, and remembers whether anything was lost."""

    lost = False

    def write(self, text: str) -> int:
        """Take a text, and lose it."""
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - by which click knows the kind
            raise TypeError("a text is needed")
        self.lost = self.lost or bool(text)
        return len(text)


class Told:
    """stdout, whose errors say that they are its own; Python's would name no file. A reader that went stays quiet."""

    def __init__(self, stream: Any) -> None:
        """Take the stream that it stands for, in all but errors."""
        self._stream = stream

    def write(self, text: Any) -> int:
        """Write a text. Raises OutputError."""
        with _told():
            return self._stream.write(text)

    def flush(self) -> None:
        """Write what is held back. Raises OutputError."""
        with _told():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _told() -> Generator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write to stdout: {error.strerror or error}") from error


def prepare() -> None:
    """Have streams for stdout and stderr that can be printed to, whatever they are."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # else the next file that is opened has this number, and gets what libraries print
            os.open(os.devnull, os.O_RDWR)
    forgive(sys.stdout, sys.stderr)
    out: Any = Closed() if sys.stdout is None else sys.stdout  # pyright: ignore[reportUnnecessaryComparison]
    error: Any = Closed() if sys.stderr is None else sys.stderr  # pyright: ignore[reportUnnecessaryComparison]
    sys.stdout, sys.stderr = out if isinstance(out, Closed | Told) else Told(out), error


def tell(text: str) -> None:
    """Print a line on stderr. Where that cannot be written to, the exit code has to do."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        silence(sys.stderr)


def lost_output() -> str:
    """Say that what was printed on stdout did not arrive, and why; empty where all of it did."""
    if isinstance(sys.stdout, Closed):
        return "cannot write to stdout: it is closed" if sys.stdout.lost else ""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        silence(sys.stdout)
        return str(error)
    return ""


def silence(stream: Any) -> None:
    """Let what a stream still holds go nowhere. Python would try to write it at its end, and end with a code of its
    own.
    """
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
