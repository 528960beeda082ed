"""The house has floors: what may import what, what a plain import costs, and which names are public."""

from __future__ import annotations

import ast
import json
import re
from importlib import metadata
from types import ModuleType

import pytest

import smalti
import smalti.errors
from helpers.house import ROOTS
from smalti.cli.verbs import LAZY

ABOVE = ("torch", "triton", "onnx", "onnxscript", "accelerate", "safetensors", "smalti_train", "smalti_export")
MODULE = re.compile(r"(smalti_\w+|torch|triton|onnx\w*)(\.\w+)*")
"""Strings that are taken for a module's name."""


def named_modules(source: str) -> set[str]:
    """Modules that a file imports, at any depth, or names in a string (which may then be imported)."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute in this project"
            names.add(node.module or "")
    strings = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return names | {value for value in strings if isinstance(value, str) and MODULE.fullmatch(value)}


def trespasses(floor: str, source: str) -> set[str]:
    """Modules of floors above ``floor`` that a file of it names."""
    above = list(ROOTS)[list(ROOTS).index(floor) + 1 :]
    return {name for name in named_modules(source) if name.partition(".")[0] in above}


@pytest.mark.parametrize("floor", ROOTS)
def test_a_floor_imports_only_floors_below(floor):
    files = sorted(ROOTS[floor].rglob("*.py"))
    assert files
    lazy = {module for module, _ in LAZY.values() if not module.startswith("smalti.")}
    for file in files:
        allowed = lazy if file == ROOTS["smalti"] / "cli/verbs.py" else set()
        assert trespasses(floor, file.read_text()) == allowed, file


@pytest.mark.parametrize(
    "source",
    [
        "import smalti_train",
        "import numpy, smalti_train.trainers.loop as loop",
        "def f():\n    from smalti_export.export import export_bundle",
        "if TYPE_CHECKING:\n    from smalti_train import config",
        "importlib.import_module('smalti_train.cli.train')",
        "module = 'smalti_export'",
    ],
)
def test_the_check_of_the_floors_sees_every_way_to_import(source):
    assert trespasses("smalti", source)
    assert trespasses("smalti_kernels", source)
    assert not trespasses("smalti_export", source)


def test_neither_kernels_nor_runtime_name_a_training_package():
    for floor in ("smalti_kernels", "smalti"):
        for file in ROOTS[floor].rglob("*.py"):
            roots = {name.partition(".")[0] for name in named_modules(file.read_text())}
            assert not roots & {"torch", "onnx", "onnxscript", "accelerate", "safetensors"}, file


def test_one_file_alone_knows_onnx_runtime():
    knowing = {file.name for file in ROOTS["smalti"].rglob("*.py") if "onnxruntime" in named_modules(file.read_text())}
    assert knowing - {"hook-smalti.py"} == {"onnxruntime_options.py"}  # a hook is no part of the runtime


def test_every_module_imports_and_generates_without_the_floors_above(python, tiny_bundle, gen):
    code = """
import importlib, json, pkgutil
import smalti, smalti_kernels
walks = [pkgutil.walk_packages(root.__path__, root.__name__ + ".") for root in (smalti_kernels, smalti)]
names = [info.name for walk in walks for info in walk if ".freezing." not in info.name]  # of PyInstaller
for name in names:
    importlib.import_module(name)
tokens = smalti.load(sys.argv[1]).generate(2, 7).tokens.tolist()
loaded = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps({"names": names, "tokens": tokens, "loaded": loaded}))
"""
    done = python(code, tiny_bundle, blocked=ABOVE)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {"smalti.cli.commands", "smalti.drawing.generator", "smalti_kernels.impl.reference"} <= set(report["names"])
    assert report["tokens"] == gen.generate(2, 7).tokens.tolist()
    assert not set(report["loaded"]) & set(ABOVE)


def test_the_block_blocks(python):
    done = python("import smalti_train", blocked=ABOVE)
    assert done.returncode == 1
    assert "No module named 'smalti_train'" in done.stderr


def test_a_plain_import_loads_neither_the_backend_nor_the_command_line(python):
    done = python("import smalti\nassert 'numpy' not in sys.modules\nsmalti.load\nprint(*sys.modules)")
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "numpy" in loaded
    assert not {name.partition(".")[0] for name in loaded} & {"onnxruntime", "typer", "click", "rich", *ABOVE}
    assert {name for name in loaded if re.fullmatch(r"PIL\.\w+ImagePlugin", name)} <= {"PIL.PngImagePlugin"}


def test_public_names_exist_and_are_sorted():
    assert smalti.__all__ == sorted(smalti.__all__)
    for name in smalti.__all__:
        assert hasattr(smalti, name), name


def test_no_public_name_is_missing():
    assert all(hasattr(smalti, name) for name in smalti.__all__)  # which imports each
    inside = {name for name, value in vars(smalti).items() if not isinstance(value, ModuleType) and name[0] != "_"}
    modules = {"aio"}
    assert inside - {"annotations"} == set(smalti.__all__) - {"__version__"} - modules
    assert set(smalti.errors.__all__) - {"exit_code"} <= set(smalti.__all__)


def test_every_error_is_in_the_tree_and_has_its_documented_exit_code():
    documented = dict(re.findall(r"(\w+) {2,}(\d+)", smalti.errors.__doc__ or ""))
    errors = [getattr(smalti.errors, name) for name in smalti.errors.__all__ if name != "exit_code"]
    assert {error.__name__ for error in errors} == set(documented)
    for error in errors:
        assert issubclass(error, smalti.SmaltiError)
        assert smalti.errors.exit_code(error("x")) == int(documented[error.__name__]), error


def test_the_version_is_the_installed_one():
    assert smalti.__version__ == metadata.version("smalti")
