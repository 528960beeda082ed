"""A bundle, its folder in a cache of its own, and the commands of ``smalti engine``."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.golden_bundle import plain_bundle
from helpers.kept_engines import INSTALLED
from smalti.bundle.engine_folder import engine_cache
from smalti.bundle.reader import Bundle, open_bundle
from smalti.cli import engine as command_line
from smalti.cli.main import _run


@pytest.fixture
def bundle(tmp_path) -> Bundle:
    return open_bundle(plain_bundle(tmp_path / "bundle"))


@pytest.fixture
def cache(bundle, tmp_path, monkeypatch) -> Path:
    """The bundle's folder in a cache of its own; it does not exist yet."""
    monkeypatch.setenv("SMALTI_CACHE_DIR", str(tmp_path / "cache"))
    return engine_cache(bundle)


@pytest.fixture
def engine(monkeypatch, capsys):
    """Run a command of ``smalti engine`` where the versions of INSTALLED are; (exit code, stdout, stderr)."""
    monkeypatch.setattr(command_line, "installed_versions", lambda: dict(INSTALLED))

    def run(*words: object) -> tuple[int, str, str]:
        code = _run(["engine", *map(str, words)])
        return code, *capsys.readouterr()

    return run
