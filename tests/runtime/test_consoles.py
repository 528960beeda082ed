"""Consoles and pipes that know few characters, as on Windows: commands print escapes there and never fail."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from smalti.bundle.reader import embedded_bundles
from smalti.cli import bundle as bundle_command
from smalti.cli import escape
from smalti.cli.escape import forgive, in_place

ENCODINGS = ("cp1252", "cp437", "ascii")
"""Of a pipe in Western Europe, of an old console, and of a machine without a locale."""
ODD = "Узоры → 文"


def command(encoding: str, *arguments: object) -> tuple[int, str, str]:
    """Run a command whose pipes have an encoding; (exit code, stdout, stderr)."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    line = [sys.executable, "-m", "smalti.cli", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, env=environment, timeout=120, check=False)
    # Typer takes a pipe of ASCII for a mistake, and writes UTF-8.
    said, error = (pipe.decode("utf-8" if encoding == "ascii" else encoding) for pipe in (done.stdout, done.stderr))
    assert "Traceback" not in error
    assert "UnicodeEncodeError" not in error
    return done.returncode, said, error


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder whose name no such encoding has."""
    (folder := tmp_path / ODD).mkdir()
    return folder


@pytest.fixture
def bundle(odd: Path) -> Path:
    """The embedded bundle's manifest, of which the licence is in another script."""
    content = json.loads((embedded_bundles()["avatars"] / "manifest.json").read_bytes())
    content["licence"] = "CC0 文"
    (odd / "manifest.json").write_bytes(json.dumps(content).encode())
    return odd


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_bundle_is_shown(encoding: str, bundle: Path) -> None:
    code, said, error = command(encoding, "bundle", "inspect", bundle)
    assert (code, error) == (0, "")
    assert ("CC0 文" if encoding == "ascii" else "CC0 \\u6587") in said
    code, said, error = command(encoding, "bundle", "inspect", bundle, "--json")
    assert (code, error) == (0, "")
    assert json.loads(said)["path"] == str(bundle)


@pytest.mark.cases
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_pictures_are_drawn_into_such_a_folder(encoding: str, odd: Path) -> None:
    code, said, error = command(encoding, "generate", "--steps", 1, "-o", odd / "文.png")
    assert (code, error) == (0, "")
    assert "1 image(s)" in said
    assert (odd / "文.png").is_file()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_errors_are_told(encoding: str, odd: Path) -> None:
    code, said, error = command(encoding, "bundle", "verify", odd / "нет")
    assert (code, said) == (3, "")
    assert error.startswith("smalti: no bundle at ")
    code, said, error = command(encoding, "generate", "-o", odd / "文.png", "--label", "→")
    assert (code, said) == (2, "")
    assert error.startswith("smalti: label '\\u2192': this bundle knows")
    code, said, error = command(encoding, "generate", "-o", odd / "a.png", "--seed", "文")
    assert (code, said) == (2, "")
    assert "--seed" in error


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("arguments", [("doctor",), ("--help",), ("generate", "--help"), ("bundle", "--help")])
def test_other_commands_print_what_every_console_shows(encoding: str, arguments: tuple[str, ...]) -> None:
    code, said, _ = command(encoding, *arguments)
    assert code in (0, 4)
    assert len(said) > 200


@pytest.mark.cases
def test_characters_that_a_stream_lacks_are_escaped() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "cp1252")
    with pytest.raises(UnicodeEncodeError):
        stream.write("→")
    forgive(stream, None, io.StringIO())
    stream.write("é→ \udcff")
    stream.flush()
    assert stream.buffer.getvalue() == "é\\u2192 \\udcff".encode("cp1252")


@pytest.mark.parametrize("columns", [10, 40, None])
def test_a_line_in_place_of_another_needs_no_escape_codes(columns: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def size(descriptor: int) -> os.terminal_size:
        if columns is None:
            raise OSError
        return os.terminal_size((columns, 24))

    monkeypatch.setattr(escape.os, "get_terminal_size", size)
    screen = [" "] * 100
    for line in ("denoiser.fp16.onnx", "a\x1b[8m", ""):
        text = in_place(line, SimpleNamespace(fileno=lambda: 2))
        assert "\x1b" not in text
        assert text.count("\r") == 2
        screen[: len(text) - 2] = text[1:-1]
        shown = "".join(screen).rstrip()
        assert shown == line.replace("\x1b", "\\x1b")[: (columns or 80) - 1].rstrip()


def test_progress_is_shown_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (True, False):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda terminal=terminal: terminal, raising=False)
        with contextlib.redirect_stderr(stream):
            bundle_command._progress("decoder")
        assert bool(stream.getvalue()) == terminal
