"""Hints name the command that works where they are read: pip's line, and how smalti is started."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from smalti.system import platform
from smalti.system.platform import Installation, command_line, install_hint, installation, quoted


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Say what the installer noted of where it had smalti from; None for nothing."""

    def installed(noted: Any) -> None:
        text = None if noted is None else json.dumps(noted)
        found = SimpleNamespace(read_text=lambda name: text)
        monkeypatch.setattr(metadata, "distribution", lambda name: found)
        installation.cache_clear()

    yield installed
    monkeypatch.undo()
    installation.cache_clear()


def test_cases_of_a_package_from_an_index(installed: Any) -> None:
    installed(None)
    assert installation() == Installation("", False)
    assert install_hint("train") == 'pip install "smalti[train]"'
    assert install_hint("cli,rtx", "--upgrade") == 'pip install --upgrade "smalti[cli,rtx]"'


def test_cases_of_a_checkout(installed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed({"url": tmp_path.as_uri(), "dir_info": {"editable": True}})
    assert installation() == Installation(str(tmp_path), True)
    assert install_hint("train") == f'pip install -e "{tmp_path}[train]"'
    monkeypatch.chdir(tmp_path)
    assert install_hint("train") == 'pip install -e ".[train]"'


def test_a_folder_and_an_address_are_named_again(installed: Any, tmp_path: Path) -> None:
    installed({"url": tmp_path.as_uri(), "dir_info": {}})
    assert install_hint("cpu") == f'pip install "{tmp_path}[cpu]"'
    installed({"url": "https://example.org/smalti.whl", "archive_info": {}})
    assert install_hint("cpu") == 'pip install "smalti[cpu] @ https://example.org/smalti.whl"'


@pytest.mark.parametrize("noted", [[], "text", {"url": 3}, {"dir_info": None}])
def test_an_odd_note_is_no_error(noted: Any, installed: Any) -> None:
    installed(noted)
    assert install_hint("cpu").startswith("pip install ")


def test_no_package_at_all_is_no_error(monkeypatch: pytest.MonkeyPatch, installed: Any) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    installed(None)
    monkeypatch.setattr(metadata, "distribution", missing)
    assert install_hint("cpu") == 'pip install "smalti[cpu]"'


def test_a_frozen_program_names_itself_and_has_no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", str(Path("/apps/painter")))
    assert command_line() == "painter"
    assert "pip" not in install_hint("train")
    assert "smalti[train]" in install_hint("train")


def test_the_way_it_was_started_is_the_way_to_start_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", [str(Path(platform.__file__).parent / "cli" / "__main__.py")])
    assert command_line() == "python -m smalti.cli"
    script = str(tmp_path / "my bin" / "smalti")
    monkeypatch.setattr(sys, "argv", [script])
    monkeypatch.setattr(platform.shutil, "which", lambda name: None)
    assert command_line() == quoted(script)
    monkeypatch.setattr(platform.shutil, "which", lambda name: script)
    assert command_line() == "smalti"
    monkeypatch.setattr(sys, "argv", ["app.py"])
    assert command_line() == "smalti"


def test_a_usage_error_names_the_command_that_was_typed(command) -> None:
    done = command("generate", "--nope")
    assert done.returncode == 2
    assert "python -m smalti.cli generate --help" in done.stderr
