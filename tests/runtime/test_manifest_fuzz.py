"""Any manifest whatever: it is read, or refused as a BundleError, and no file outside the bundle is touched."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.golden_bundle import golden_bundle
from smalti import BundleError, open_bundle
from smalti.cli.card import card, card_lines
from smalti.families.settings import resolve

CASES = settings(
    max_examples=2000, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ODD: list[Any] = [
    *(None, True, 0, -1, 1, 2**31, 2**63, 10**40, 0.5, -0.0, 1e308, "", " ", [], {}, [[]], "\ud800", "é", "a" * 300),
    *("..", ".", "/", "../x", "/etc/passwd", "a/../../x", "C:\\x", "\\\\host\\x", "a\0b", "CON", "manifest.json"),
    *("decoder.fp32.onnx", "sub/decoder.fp32.onnx", "fp32", "int8", "denoiser", "grey", "n", "16*h", "absorbing"),
]
WATCHED: dict[str, Any] = {"root": None, "strange": []}


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note every file that is opened outside the bundle, or for writing, while there is a bundle to watch."""
    root = WATCHED["root"]
    if root is None or event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.link", "os.symlink"):
        return
    path = os.path.realpath(os.fsdecode(arguments[0])) if isinstance(arguments[0], str | bytes | Path) else ""
    writes = event != "open" or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
    if writes or not path.startswith(root):
        WATCHED["strange"].append((event, arguments))


sys.addaudithook(_watch)


@contextlib.contextmanager
def watched(root: Path) -> Iterator[None]:
    WATCHED.update(root=os.path.realpath(root), strange=[])
    try:
        yield
    finally:
        WATCHED["root"] = None
    assert WATCHED["strange"] == []


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return golden_bundle(tmp_path_factory.mktemp("fuzz") / "table")


@pytest.fixture(scope="module")
def original(bundle) -> dict[str, Any]:
    return json.loads((bundle / "manifest.json").read_text())


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything inside a manifest's JSON."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [found for key, value in inner for found in ((*path, key), *places(value, (*path, key)))]


def changed(content: Any, path: tuple[Any, ...], how: str, value: Any) -> Any:
    content = copy.deepcopy(content)
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    key = path[-1]
    if how == "delete":
        del parent[key]
    elif how == "double" and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))
    elif how == "rename" and isinstance(parent, dict):
        parent[str(value)] = parent.pop(key)
    else:
        parent[key] = value
    return content


def use(path: Path) -> None:
    """Everything that reads a bundle but does not run it."""
    bundle = open_bundle(path)
    card_lines(card(bundle))
    with contextlib.suppress(ValueError):  # a UsageError: defaults that do not go together
        resolve(bundle.manifest, 1, 0, {})
    for record in bundle.manifest.files():
        bundle.read(record.file)


@CASES
@given(data=st.data())
def test_a_manifest_changed_anywhere_is_refused_or_harmless(data, bundle, original):
    content = original
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places(content)))
        how = data.draw(st.sampled_from(["set", "set", "set", "delete", "double", "rename"]))
        content = changed(content, path, how, data.draw(st.sampled_from(ODD)))
    (bundle / "manifest.json").write_text(json.dumps(content))
    with watched(bundle), contextlib.suppress(BundleError):
        use(bundle)


@settings(CASES, max_examples=300)
@given(
    raw=st.binary(max_size=300) | st.text(alphabet='{}[]:,"0123456789eE+-. schema_vrion', max_size=300).map(str.encode)
)
def test_bytes_that_are_no_manifest_are_refused(raw, bundle):
    (bundle / "manifest.json").write_bytes(raw)
    with watched(bundle), pytest.raises(BundleError, match=r"manifest\.json"):
        open_bundle(bundle)


def test_the_watch_sees_what_is_opened_elsewhere(bundle, tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(AssertionError), watched(bundle):
        (tmp_path / "x").read_bytes()
    with pytest.raises(AssertionError), watched(bundle):
        (bundle / "new").write_bytes(b"")
