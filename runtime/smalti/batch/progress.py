"""How far a batch is: pictures per second and time left, on stderr and in a file that others may follow."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

import msgspec

from smalti.system.files import write_whole

PROGRESS: Final = "progress.json"
FILE_EVERY: Final = 2.0
"""Seconds between two writings of the file."""
LINE_EVERY: Final = 30.0
"""Seconds between two lines where stderr is no terminal."""
BAR_EVERY: Final = 0.2
WIDE: Final = 24
"""Signs of a bar."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What ``progress.json`` holds."""

    state: str
    """``running``, ``finished``, ``stopped`` (by a signal) or ``failed``."""
    rows: int
    done: int
    """Rows in files, those that were there before among them."""
    there: int
    """Rows that were there before."""
    failed: int
    """Pictures that could not be read."""
    per_second: float | None
    """Of this run; None before its first file."""
    seconds: float
    """Since it began."""
    seconds_left: float | None


@dataclass
class Follow:
    """Counts rows, and tells."""

    folder: Path | None
    """Where the file is written; None for none."""
    rows: int
    there: int = 0
    failed: int = 0
    what: str = "pictures"
    stream: TextIO | None = None
    """Where it is told; None for nowhere."""
    made: int = 0

    def __post_init__(self) -> None:
        """Begin to count the time."""
        self._started = time.monotonic()
        self._told = self._wrote = float("-inf")
        self._terminal = self.stream is not None and self.stream.isatty()

    def add(self, rows: int, failed: int) -> None:
        """Count a shard."""
        self.made += rows
        self.failed += failed

    def now(self, state: str = "running") -> Progress:
        """Return how far it is."""
        seconds = time.monotonic() - self._started
        done = self.there + self.made
        rate = self.made / seconds if self.made and seconds > 0 else None
        return Progress(
            state=state,
            rows=self.rows,
            done=done,
            there=self.there,
            failed=self.failed,
            per_second=rate,
            seconds=seconds,
            seconds_left=(self.rows - done) / rate if rate else None,
        )

    def tell(self) -> None:
        """Tell, if it is time."""
        now = time.monotonic()
        if now - self._wrote >= FILE_EVERY:
            self._write(self.now())
        if self.stream is not None and now - self._told >= (BAR_EVERY if self._terminal else LINE_EVERY):
            self._told = now
            if self._terminal or self.made:
                self._say(self.now())

    def end(self, state: str) -> Progress:
        """Tell the last time."""
        last = self.now(state)
        self._write(last)
        if self.stream is not None and (self._terminal or self.made):
            self._say(last)
            if self._terminal:
                print(file=self.stream)
        return last

    def _write(self, progress: Progress) -> None:
        self._wrote = time.monotonic()
        if self.folder is not None:
            write_whole(self.folder / PROGRESS, msgspec.json.encode(progress) + b"\n")

    def _say(self, progress: Progress) -> None:
        line = told(progress, self.what)
        if self._terminal:
            full = WIDE * progress.done // max(1, progress.rows)
            line = f"\r[{'#' * full}{'-' * (WIDE - full)}] {line:<70}"
        print(line, end="" if self._terminal else "\n", file=self.stream, flush=True)


def told(progress: Progress, what: str) -> str:
    """Return a line for people."""
    words = [f"{progress.done} of {progress.rows} {what}"]
    if progress.failed:
        words.append(f"{progress.failed} failed")
    if progress.per_second is not None:
        words.append(f"{progress.per_second:.3g} per second")
    if progress.seconds_left:
        words.append(f"{duration(progress.seconds_left)} left")
    return ", ".join(words)


def duration(seconds: float) -> str:
    """Return seconds in words, such as ``2 h 13 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, hours, days = whole // 60 % 60, whole // 3600 % 24, whole // 86400
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"


def stderr() -> TextIO | None:
    """Return stderr, where there is any."""
    return sys.stderr
