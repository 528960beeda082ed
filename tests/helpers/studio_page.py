"""The studio as people use it: ``smalti studio`` in a process of its own, and Debian's Chromium that opens its page."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from helpers.served import command

PATIENCE_S = 20.0
CHROMIUM = shutil.which("chromium")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium; install Debian's, or put it on PATH"
)
DRAWN = "document.getElementById('stop').hidden && document.getElementById('status').textContent.includes('seed')"


@dataclass
class Studio:
    """A studio that listens."""

    process: subprocess.Popen[str]
    url: str
    """Its address, with the token."""
    folder: Path

    @property
    def token(self) -> str:
        return self.url.partition("token=")[2]

    @property
    def root(self) -> str:
        return self.url.partition("?")[0].rstrip("/")

    def client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.root, headers=headers, trust_env=False, timeout=PATIENCE_S)

    def pictures(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("*.png"))


@contextmanager
def studio(folder: Path, *arguments: object) -> Iterator[Studio]:
    """Start a studio on a free port, with one thread."""
    line = command("studio", "--no-open", "--provider", "cpu", "--threads", 1, "--gallery", folder, *arguments)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert process.stdout is not None
    try:
        told = process.stdout.readline()
        found = re.search(r"http://\S+", told)
        assert found, told + process.stdout.read()
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield Studio(process, found[0], folder)
    finally:
        process.kill()
        process.wait()


@dataclass
class Seen:
    """What a tab did: addresses that it asked, what its console told, and headers of frames with their times."""

    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    frames: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    told: int = 0
    """Draws whose end a test has seen."""

    def watch(self, page: Any) -> None:
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda one: self.errors.append(one.text) if one.type in ("error", "warning") else None)
        page.on("websocket", self._socket)

    def _socket(self, socket: Any) -> None:
        self.requests.append(socket.url)
        socket.on("framereceived", self._frame)

    def _frame(self, content: Any) -> None:
        (length,) = struct.unpack_from("<I", content)
        self.frames.append((time.perf_counter(), json.loads(content[4 : 4 + length])))

    def check(self, root: str) -> None:
        """Nothing was asked of others, and nothing went wrong."""
        assert self.requests
        assert {urlsplit(url).netloc for url in self.requests if not url.startswith(("blob:", "data:"))} == {
            urlsplit(root).netloc
        }
        assert self.errors == []


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium. Its loop blocks others of this thread, so it is ended with the module that needs it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield chromium
        chromium.close()


@contextmanager
def tab(
    chromium: Any, url: str, *, checks: bool = True, before: Callable[[Any], object] = lambda page: None, **options: Any
) -> Iterator[Any]:
    """Open the page in a tab of its own, and wait until it shows a picture. ``page.seen`` has what it did."""
    context = chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    page, seen = context.new_page(), Seen()
    seen.watch(page)
    page.seen = seen
    before(page)
    try:
        page.goto(url)
        poll(page, DRAWN)
        seen.told = len(ends(page))
        yield page
        if checks:
            seen.check(url.partition("?")[0])
    finally:
        context.close()


def poll(page: Any, expression: str, seconds: float = PATIENCE_S) -> None:
    """Wait until a page finds something true. Under its policy it takes no script that waits by itself."""
    by = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < by, f"never true: {expression}"
        page.wait_for_timeout(20)


def drawn(page: Any) -> dict[str, Any]:
    """Wait for the end of the draw that was begun; return the header of its last frame."""
    by = time.monotonic() + PATIENCE_S
    while len(ends(page)) <= page.seen.told:
        assert time.monotonic() < by, "the draw did not end"
        page.wait_for_timeout(20)
    poll(page, "document.getElementById('stop').hidden")
    page.wait_for_timeout(150)  # the gallery is read again
    page.seen.told = len(ends(page))
    return ends(page)[-1]


def ends(page: Any) -> list[dict[str, Any]]:
    return [header for _, header in page.seen.frames if header["is"] in ("done", "stopped", "failed")]


def stroke(page: Any, *points: tuple[float, float]) -> None:
    """Paint along points, which are shares of the picture's sides and may lie beyond them."""
    box = page.locator("#picture").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=8)
    page.mouse.up()


def masked(page: Any) -> Sequence[int]:
    """Left, top, right and bottom of the mask in pixels, and how many are painted."""
    return page.evaluate(
        """() => {
        const canvas = document.getElementById("mask"), { width, height } = canvas;
        const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
        let [left, top, right, bottom, count] = [width, height, 0, 0, 0];
        for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) if (data[4 * (y * width + x) + 3] > 127) {
          count++; left = Math.min(left, x); top = Math.min(top, y); right = Math.max(right, x + 1);
          bottom = Math.max(bottom, y + 1);
        }
        return [left, top, right, bottom, count];
        }"""
    )
