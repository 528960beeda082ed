"""Progress of a build on stderr: a line that is overwritten, lines of text, or lines of JSON for another program."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Generator
from dataclasses import asdict
from typing import TYPE_CHECKING, TextIO

from smalti.cli.escape import printable
from smalti.errors import UsageError

if TYPE_CHECKING:  # what it comes from needs onnx
    from smalti_export.engines.build import Progress

KINDS = ("auto", "json", "off")
"""On a terminal a line that is overwritten, and text elsewhere; JSON; nothing."""
PAUSE = 0.1
"""Least seconds between two reports of progress."""


@contextlib.contextmanager
def libraries_silent() -> Generator[None, None, None]:
    """Drop what libraries print on stdout by themselves, as TensorRT-RTX does, so that results alone are there.

    Python's own ``sys.stdout`` writes to the same place, so print nothing meanwhile.
    """
    with contextlib.suppress(AttributeError):  # a program without a console has no stdout
        sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


class Shown:
    """Shows a build. It may be called from several threads.

    In JSON every line is an object with ``event``, ``component``, ``phase`` and ``share``. The event is ``say`` for a
    line for people, whose component is empty; ``progress`` for a step of a component; ``done`` for its end.
    """

    def __init__(self, kind: str = KINDS[0], stream: TextIO | None = None) -> None:
        """Begin to show; ``stream`` defaults to stderr. Raises UsageError for an unknown kind."""
        if kind not in KINDS:
            raise UsageError(f"progress {kind!r}: allowed are {', '.join(KINDS)}")
        self._kind, self._stream = kind, stream or sys.stderr
        self._lock = threading.Lock()
        self._pending: Progress | None = None
        self._timer: threading.Timer | None = None
        self._width = 0  # of a line that stands there, to be overwritten

    def say(self, line: str) -> None:
        """Show a line for people; in JSON it is the phase."""
        with self._lock:
            self._pending = None
            self._clear()
            if self._kind == "json":
                self._write(json.dumps({"event": "say", "component": "", "phase": line, "share": 0.0}) + "\n")
            elif self._kind == "auto":
                self._write(printable(line) + "\n")

    def progress(self, progress: Progress) -> None:
        """Show how far an engine is; in JSON all fields of :class:`~smalti_export.engines.build.Progress`.

        Of what comes at once, the last is shown, so that a long phase is never missed.
        """
        with self._lock:
            self._pending = progress
            if progress.done:  # nothing may come in its place
                self._show()
            elif self._timer is None:
                self._show()
                self._timer = threading.Timer(PAUSE, self._later)
                self._timer.daemon = True
                self._timer.start()

    def end(self) -> None:
        """Remove the line that is overwritten, before anything else is written to the stream."""
        with self._lock:
            self._pending = None
            self._clear()

    def _later(self) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):  # the next call tells of a broken or closed stream
            self._timer = None
            self._show()

    def _show(self) -> None:
        progress, self._pending = self._pending, None
        if progress is None:
            return
        if self._kind == "json":
            told = asdict(progress)
            event = "done" if told.pop("done") else "progress"
            self._write(json.dumps({"event": event, **told}) + "\n")
        elif self._kind == "auto" and self._stream.isatty():
            self._clear()
            title = f"{progress.component} {progress.precision} ({progress.number} of {progress.of})"
            line = printable(f"{title}: {progress.share:.0%} {progress.phase}")
            line = line[: shutil.get_terminal_size().columns - 1]
            self._write(line)
            self._width = len(line)

    def _clear(self) -> None:
        if self._width:
            # With blanks, because old consoles of Windows print the code that clears a line.
            self._write(f"\r{'':{self._width}}\r")
            self._width = 0

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
