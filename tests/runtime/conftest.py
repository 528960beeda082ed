"""What the runtime's tests share: a loaded bundle, broken copies of it, and processes that lack some packages."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import smalti
from smalti.cli.main import _run

DRAWS = ("generate", "inpaint", "outpaint", "vary", "encode", "decode", "embed", "bench")
"""Verbs that load a bundle."""
BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Block())
"""


@pytest.fixture(scope="session")
def gen(tiny_bundle: Path) -> smalti.Generator:
    """The tiny bundle, loaded with the defaults."""
    return smalti.load(tiny_bundle)


@pytest.fixture
def copied(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that may be broken."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copied"))


@pytest.fixture
def edit() -> Callable[[Path, Callable[[Any], None]], None]:
    """Change a bundle's manifest by a function of its JSON."""

    def edit(bundle: Path, change: Callable[[Any], None]) -> None:
        content = json.loads((bundle / "manifest.json").read_text())
        change(content)
        (bundle / "manifest.json").write_text(json.dumps(content))

    return edit


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run code in a new process that cannot import the ``blocked`` packages; ``arguments`` become its sys.argv[1:]."""

    def run(code: str, *arguments: object, blocked: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", BLOCK.format(blocked=blocked) + code, *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder for what a command writes."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def run(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process, with the tiny bundle if none is named; (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        words = [str(argument) for argument in arguments]
        if "--bundle" not in words and words[0] in DRAWS:
            words += ["--bundle", str(tiny_bundle)]
        code = _run(words)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command in a process of its own."""

    def command(*arguments: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "smalti.cli", *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)

    return command
