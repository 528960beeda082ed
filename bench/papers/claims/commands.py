"""The command line that the papers' scripts share: one verb for each claim, and ``all``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from claims.common import Bench

AnyBench = TypeVar("AnyBench", bound=Bench)
Commands = dict[str, tuple[int, str, Callable[[AnyBench], None]]]
"""Minutes on two cores where the commands before it have run, what it is, and what does it."""


def parser_of(description: str | None, name: str) -> argparse.ArgumentParser:
    """Options of the script about the paper called ``name``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs") / name, help="folder of the trainings")
    parser.add_argument("--results", type=Path, default=Path("bench/results") / name)
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    return parser


def run(
    parser: argparse.ArgumentParser,
    commands: Commands[AnyBench],
    make: Callable[[argparse.Namespace], AnyBench],
    arguments: list[str] | None,
) -> None:
    """Read ``arguments``, and run one command on what ``make`` makes of the options, or all in order."""
    verbs = parser.add_subparsers(dest="command", required=True)
    for name, (minutes, what, _) in commands.items():
        about = f"{what}; about {minutes} minutes" if minutes else what
        verbs.add_parser(name, help=about, description=about)
    verbs.add_parser("all", help="all of these in order")
    options = parser.parse_args(arguments)
    bench = make(options)
    for name, (_, _, command) in commands.items():
        if options.command in (name, "all"):
            started = time.perf_counter()
            command(bench)
            print(f"{name}: done in {(time.perf_counter() - started) / 60:.1f} minutes", flush=True)
