"""The example window.py: its painter as it is, and the window on a display that Xvfb makes."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageGrab

import smalti
from helpers.house import HOUSE

pytest.importorskip("tkinter", reason="this Python has no tkinter")
pytest.importorskip("PIL.ImageTk")
EXAMPLES = HOUSE / "docs/examples"
needs_display = pytest.mark.skipif(shutil.which("Xvfb") is None, reason="needs Xvfb; Debian's package xvfb has it")


@pytest.fixture(scope="module")
def window():
    spec = importlib.util.spec_from_file_location("window_example", EXAMPLES / "window.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["window_example"] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def painter(window, tiny_bundle: Path):
    painter = window.Painter(str(tiny_bundle))
    assert "tiny" in painter.news.get(timeout=60).text
    return painter


@pytest.fixture(scope="module")
def display(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of an X display without a screen, and without anyone at it."""
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "800x600x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as told:
        number = told.readline().strip()  # empty where the server has ended
    try:
        assert number, f"Xvfb ended with {server.wait(10)}"
        yield f":{number}"
    finally:
        server.terminate()
        server.wait(20)


def until_idle(painter) -> list:
    """All news of a draw."""
    news = [painter.news.get(timeout=60)]
    while news[-1].busy:
        news.append(painter.news.get(timeout=60))
    return news


def test_previews_come_step_by_step_and_the_last_picture_is_that_of_generate(painter, gen):
    painter.draw(5, gen.labels[1])
    *steps, last = until_idle(painter)
    assert [one.text for one in steps] == [f"Step {index + 1} of 8" for index in range(8)]
    assert [one.share for one in steps] == [(index + 1) / 8 for index in range(8)]
    assert len({one.picture.tobytes() for one in steps}) > 1
    wanted = gen.generate(seed=5, label=gen.labels[1])
    assert np.array_equal(last.result.tokens, wanted.tokens)
    assert np.array_equal(np.asarray(last.picture), np.asarray(wanted.images[0]))


def test_a_draw_that_is_stopped_tells_so_and_the_next_one_is_drawn(painter, gen):
    painter.draw(5, None)
    painter.cancel.set()
    stopped = until_idle(painter)[-1]
    assert "cancelled" in stopped.text
    assert stopped.result is None
    painter.draw(5, None)
    assert np.array_equal(until_idle(painter)[-1].result.tokens, gen.generate(seed=5).tokens)


def test_what_is_wrong_is_told_in_words(window, painter, gen, tmp_path):
    painter.draw(5, "nobody")
    assert gen.labels[0] in until_idle(painter)[-1].text
    painter.draw(2**64, None)
    assert "seed" in until_idle(painter)[-1].text
    absent = window.Painter(str(tmp_path / "none"))
    assert "none" in absent.news.get(timeout=60).text
    absent.draw(5, None)  # which nobody can ask for, as its button is off
    assert absent.news.empty()


@needs_display
def test_a_window_shows_draws_stops_saves_and_closes(display, tiny_bundle, gen, tmp_path):
    command = [sys.executable, HOUSE / "tests/examples/drive_window.py", EXAMPLES, tiny_bundle, tmp_path]
    environment = {**os.environ, "DISPLAY": display}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout)
    assert seen["labels"] == ["(any)", *gen.labels]
    states = [seen[name] for name in ("at first", "loaded", "begun", "drawn", "stopped")]
    generate, stop, save = [True, False, False], [False, True, False], [True, False, True]
    assert states == [[False, False, False], generate, stop, save, generate]
    assert "Step 8 of 8" in seen["texts"]
    assert "cancelled" in seen["told"]
    assert seen["wrong seed"] == "Seed 'many': a whole number from 0 on is needed"

    wanted = gen.generate(seed=11, label=gen.labels[1])
    saved = Image.open(tmp_path / "saved.png")
    assert np.array_equal(np.asarray(saved), np.asarray(wanted.images[0]))
    assert smalti.read_recipe(tmp_path / "saved.png").seeds == (11,)
    shown = np.asarray(Image.open(tmp_path / "shown.png").convert("RGB"))
    top, left = (shown.shape[0] - 64) // 2, (shown.shape[1] - 64) // 2  # the label centres its picture
    found = [
        np.array_equal(shown[y : y + 64, x : x + 64], np.asarray(saved))
        for y in (top, top + 1)
        for x in (left, left + 1)
    ]
    assert any(found)


@needs_display
def test_the_command_of_the_page_opens_a_window(display, start, tiny_bundle, monkeypatch):
    monkeypatch.setenv("DISPLAY", display)
    process = start("window.py", tiny_bundle)
    end = time.monotonic() + 60
    while not ImageGrab.grab(xdisplay=display).getbbox():  # the screen is black but for the window
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.05)
