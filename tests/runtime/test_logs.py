"""The library's log while a command runs: on stderr, as far as the terminal or SMALTI_LOG ask for it."""

from __future__ import annotations

import io
import logging
import sys

import numpy as np
import pytest
from PIL import Image

from smalti import BuildProgress, UsageError
from smalti.cli.loading import build_shown
from smalti.cli.logs import LEVELS, logs_told
from smalti.cli.main import _run

LOG = logging.getLogger("smalti.loading.any")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(stream: io.StringIO, monkeypatch, asked: str | None = None) -> list[str]:
    """What is told of a record of each level, besides blanks."""
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.delenv("SMALTI_LOG", raising=False)
    if asked is not None:
        monkeypatch.setenv("SMALTI_LOG", asked)
    with logs_told():
        for level in ("debug", "info", "warning", "error"):
            getattr(LOG, level)("%s of\x1b[2J two", level)
    LOG.error("outside")
    return [line.strip() for line in stream.getvalue().replace("\r", "\n").splitlines() if line.strip()]


@pytest.mark.parametrize("number", range(len(LEVELS)))
def test_what_is_at_least_of_the_level_is_told(number, monkeypatch):
    lines = told(io.StringIO(), monkeypatch, LEVELS[number].upper())
    assert lines == [rf"smalti: {level} of\x1b[2J two" for level in LEVELS[number:-1]]


def test_what_takes_long_is_told_on_a_terminal_alone(monkeypatch):
    assert len(told(io.StringIO(), monkeypatch)) == 2
    assert len(told(Terminal(), monkeypatch)) == 3


def test_nothing_stays_of_it(monkeypatch):
    logger = logging.getLogger("smalti")
    before = logger.level, list(logger.handlers)
    told(io.StringIO(), monkeypatch)
    monkeypatch.setenv("SMALTI_LOG", "loud")
    with pytest.raises(UsageError, match=r"SMALTI_LOG is 'loud'; allowed are debug, info"), logs_told():
        pass
    assert (logger.level, logger.handlers) == before


def test_a_command_refuses_an_unknown_level(monkeypatch, capsys):
    monkeypatch.setenv("SMALTI_LOG", "loud")
    assert _run(["bundles"]) == 2
    assert "SMALTI_LOG is 'loud'" in capsys.readouterr().err


def test_what_a_picture_loses_is_told(tiny_bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("SMALTI_LOG", raising=False)
    pixels = np.full((64, 64, 4), 128, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    line = ["encode", str(tmp_path / "a.png"), "--bundle", str(tiny_bundle), "--provider", "cpu"]
    assert _run([*line, "-o", str(tmp_path / "a.npy")]) == 0
    assert "smalti: the image" in capsys.readouterr().err


def test_a_terminal_shows_how_far_a_build_is(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with build_shown() as on_build:
        assert on_build is not None
        on_build(BuildProgress("denoiser", "Tactic\nselection", 0.456))
    shown = stream.getvalue().split("\r")
    assert shown[1].strip() == r"building the denoiser's engine: 46% Tactic\nselection"
    assert stream.getvalue().endswith("\r")
    assert shown[-2].strip() == ""  # and is gone
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with build_shown() as on_build:
        assert on_build is None
