"""What the tests of the examples share: a process that runs one on the tiny bundle, as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import smalti
from helpers.house import HOUSE

EXAMPLES = HOUSE / "docs/examples"


@pytest.fixture(scope="session")
def gen(tiny_bundle: Path) -> smalti.Generator:
    return smalti.load(tiny_bundle, "cpu", threads=1)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start an example with arguments, in a folder of its own; it is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, *arguments: object) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "SMALTI_THREADS": "1"}
        command, pipe = [sys.executable, str(EXAMPLES / name), *map(str, arguments)], subprocess.PIPE
        started.append(
            subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=pipe, encoding="utf-8", env=environment)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=30)


@pytest.fixture
def example(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[int, str, str]]:
    """Run an example to its end: exit code, stdout, stderr."""

    def run(name: str, *arguments: object) -> tuple[int, str, str]:
        process = start(name, *arguments)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    return run
