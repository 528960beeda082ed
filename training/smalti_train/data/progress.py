"""Progress of long work: a bar on a terminal, two plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


@contextmanager
def image_progress(title: str, total: int, done: int = 0, enabled: bool = True) -> Generator[Callable[[], None]]:
    """Yield a function to call once per finished image; writes to stderr only.

    A terminal shows a ``rich`` bar with images/s. Anything else (a log, a pipe, no ``rich``) gets one line at the start
    and one at the end, so that logs stay readable. ``done`` images count as finished before the start.
    ``enabled=False`` writes nothing.
    """
    if not enabled:
        yield lambda: None
        return
    start, finished = time.perf_counter(), 0

    def rate() -> float:
        return finished / max(time.perf_counter() - start, 1e-9)

    bar = open_bar()
    if bar is None:
        resumed = f", {done} already there" if done else ""
        print(f"{title}: building {total} images{resumed}", file=sys.stderr, flush=True)

        def tick() -> None:
            nonlocal finished
            finished += 1

        yield tick
        seconds = time.perf_counter() - start
        print(f"{title}: {finished} images in {seconds:.1f} s, {rate():.0f} images/s", file=sys.stderr, flush=True)
        return
    with bar:
        task = bar.add_task(title, total=total, completed=done, figures="")

        def advance() -> None:
            nonlocal finished
            finished += 1
            if finished % 8 == 0 or done + finished == total:
                bar.update(task, completed=done + finished, figures=f"{rate():.0f} images/s")

        yield advance


def open_bar() -> Progress | None:
    """Return a ``rich`` bar on stderr that shows each task's field ``figures``.

    Return None where stderr is no terminal or ``rich`` is not installed.
    """
    if not sys.stderr.isatty():
        return None
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        return None
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
