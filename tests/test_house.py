"""The house as a whole: rooms on floors, imports that run down, files that can be read in one go."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.house import HOUSE, ROOTS

ROOMS = {
    "smalti_kernels": ("errors", "platform", "spec", "checks", "impl", "api", "build"),
    "smalti": (
        "version",
        "errors",
        "system",
        "bundle",
        "backends",
        "families",
        "codec",
        "saving",
        "drawing",
        "verification",
        "loading",
        "batch",
        "aio",
        "web",
        "cli",
    ),
    "smalti_train": (
        "data",
        "models",
        "runs",
        "presets",
        "objectives",
        "importers",
        "evaluation",
        "trainers",
        "cli",
    ),
    "smalti_export": (
        "defaults",
        "engines",
        "embedding",
        "source",
        "again",
        "graphs",
        "precision",
        "parity",
        "builder",
        "export",
        "cli",
    ),
}
"""Of each root, lowest first: a room imports itself and those before it."""
TOP = {"embedded", "__init__.py", "py.typed"}
"""What else lies at the top of the runtime."""
MOST_LINES = 400
MOST_NAMES = 18


def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    found: dict[str, Path] = {}
    for package, folder in ROOTS.items():
        for file in folder.rglob("*.py"):
            name = ".".join((package, *file.relative_to(folder).with_suffix("").parts))
            found[name.removesuffix(".__init__")] = file
    return found


MODULES = modules()


def imports(source: str) -> Iterator[str]:
    """Modules of the house that a file imports, at any depth."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in MODULES or node.module in MODULES:
                    yield inner if inner in MODULES else node.module


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def upwards(root: str, module: str, source: str) -> list[str]:
    """Modules of the same root that lie in a room above that of ``module``; a root's own names are above its rooms."""
    order = (*ROOMS[root], "")
    here = order.index(room(module))
    same = (found for found in imports(source) if found.split(".")[0] == root)
    return [found for found in same if order.index(room(found)) > here]


@pytest.mark.parametrize("root", ROOTS)
def test_every_room_is_listed(root: str) -> None:
    assert {room(name) for name in MODULES if name.startswith(f"{root}.")} - {""} == set(ROOMS[root])


@pytest.mark.parametrize("root", ROOTS)
def test_imports_run_down(root: str) -> None:
    wrong = {
        name: found
        for name, file in MODULES.items()
        if name.split(".")[0] == root and (found := upwards(root, name, file.read_text()))
    }
    allowed = {"smalti.cli.commands": ["smalti"]} if root == "smalti" else {}  # the version, which is public
    assert wrong == allowed


def test_the_check_sees_imports_that_run_up() -> None:
    assert upwards("smalti", "smalti.bundle.reader", "def f():\n    from smalti.drawing.generator import load")
    assert upwards("smalti", "smalti.errors", "import smalti.cli.main")
    assert upwards("smalti_train", "smalti_train.models.vqgan", "from smalti_train.trainers import vqgan")
    assert not upwards("smalti_train", "smalti_train.trainers.vqgan", "from smalti_train.models import vqgan")


def test_no_module_imports_itself_in_a_circle() -> None:
    below = {name: set(imports(file.read_text())) - {name} for name, file in MODULES.items()}
    while free := {name for name, needed in below.items() if not needed}:
        below = {name: needed - free for name, needed in below.items() if name not in free}
    assert not below, f"each of these needs another: {sorted(below)}"


@pytest.mark.parametrize(
    "folder", [*ROOTS.values(), HOUSE / "bench", HOUSE / "tests", HOUSE / "docs"], ids=lambda path: path.name
)
def test_every_file_can_be_read_in_one_go(folder: Path) -> None:
    lengths = {file: len(file.read_text().splitlines()) for file in folder.rglob("*.py")}
    assert lengths
    assert not {file.name: lines for file, lines in lengths.items() if lines > MOST_LINES}


def test_the_top_of_the_runtime_is_what_is_listed() -> None:
    found = {path.name for path in ROOTS["smalti"].iterdir() if path.name != "__pycache__"}
    rooms = {name if (ROOTS["smalti"] / name).is_dir() else f"{name}.py" for name in ROOMS["smalti"]}
    assert found == rooms | TOP
    assert len(found) <= MOST_NAMES
