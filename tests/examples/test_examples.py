"""All examples: short, on the page, of the public API alone, and nothing in them is known to fail on Windows."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import smalti
from helpers.house import HOUSE
from test_portability import faults

FILES = sorted((HOUSE / "docs/examples").glob("*.py"))
PAGE = (HOUSE / "docs/examples.md").read_text(encoding="utf-8")
MOST_LINES = 150
each = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def test_the_examples_that_were_promised_are_there() -> None:
    assert [file.stem for file in FILES] == ["batch", "embed_search", "inpaint_server", "search", "window"]


@each
def test_an_example_is_short_and_on_the_page_with_its_command(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    assert f"```{{literalinclude}} examples/{file.name}\n" in PAGE
    assert f"python docs/examples/{file.name}" in PAGE
    assert f"\npython docs/examples/{file.name}" in text
    assert (HOUSE / f"tests/examples/test_{file.name}").exists()


@each
def test_an_example_uses_only_public_names_of_smalti(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not [name for name in names if name.startswith("smalti") and name != "smalti"]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "smalti":
            assert node.attr in smalti.__all__


@each
def test_nothing_in_an_example_is_known_to_fail_on_windows(file: Path) -> None:
    assert list(faults(f"examples.{file.stem}", file.read_text(encoding="utf-8"))) == []
