"""Load a bundle for a command. Where engines have to be built first, a terminal shows how far they are."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator as Yields

from smalti.cli.escape import in_place
from smalti.drawing.generator import Generator
from smalti.loading.building import BuildProgress, OnProgress
from smalti.loading.load import load


def loaded(bundle: str | None, provider: str, precision: str = "auto", threads: int | None = None) -> Generator:
    """Load a bundle as :func:`smalti.load` does, and show on a terminal how far a build is."""
    with build_shown() as on_build:
        return load(bundle, provider, precision, threads, on_build=on_build)


@contextlib.contextmanager
def build_shown() -> Yields[OnProgress | None]:
    """Give what shows how far a build is, in one line on stderr that goes at the end; None without a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    there = False

    def show(progress: BuildProgress) -> None:
        nonlocal there
        there = True
        line = f"building the {progress.component}'s engine: {progress.share:.0%} {progress.phase}"
        sys.stderr.write(in_place(line, sys.stderr))
        sys.stderr.flush()

    try:
        yield show
    finally:
        if there:
            sys.stderr.write(in_place("", sys.stderr))
            sys.stderr.flush()
