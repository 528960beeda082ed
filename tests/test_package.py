"""What pyproject.toml states: a version that stands once, and no dependency that the runtime does not import."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import smalti

HOUSE = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))
MODULES = {"pillow": "PIL"}
"""Packages that are not imported by their own name."""


def imported(folder: Path) -> set[str]:
    found: set[str] = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return found


def test_every_base_dependency_is_imported_by_the_runtime_or_the_kernels() -> None:
    names = [re.split(r"[^\w.-]", one, maxsplit=1)[0] for one in PROJECT["project"]["dependencies"]]
    assert names
    missing = {MODULES.get(name, name) for name in names} - imported(HOUSE / "runtime") - imported(HOUSE / "kernels")
    assert not missing


def test_the_version_is_stated_once() -> None:
    assert "version" in PROJECT["project"]["dynamic"]
    stated = HOUSE / PROJECT["tool"]["hatch"]["version"]["path"]
    assert f'__version__ = "{smalti.__version__}"' in stated.read_text(encoding="utf-8")
