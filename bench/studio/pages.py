"""A studio and a browser for the scripts that take pictures of it: ``smalti studio`` on the loopback, and Chromium."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs" / "studio"
PATIENCE_S = 60.0


@contextmanager
def studio() -> Iterator[tuple[str, Path]]:
    """Start a studio with an empty gallery; its address and its folder."""
    with tempfile.TemporaryDirectory() as folder:
        gallery = Path(folder) / "smalti"
        command = [sys.executable, "-m", "smalti.cli", "studio", "--no-open", "--provider", "cpu"]
        line = [*command, "--gallery", str(gallery)]
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        try:
            told = process.stdout.readline()
            found = re.search(r"http://\S+", told)
            if not found:
                raise SystemExit(told + process.stdout.read())
            yield found[0], gallery
        finally:
            process.terminate()
            process.wait()


@contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    if path is None:
        raise SystemExit("there is no chromium; install Debian's, or put it on PATH")
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


def poll(page: Any, expression: str) -> None:
    """Wait until a page finds something true."""
    by = time.monotonic() + PATIENCE_S
    while not page.evaluate(expression):
        if time.monotonic() > by:
            raise SystemExit(f"never true: {expression}")
        page.wait_for_timeout(20)


def ready(page: Any) -> None:
    """Wait until a picture is shown."""
    poll(page, "document.getElementById('status').textContent.includes('seed')")
    idle(page)


def idle(page: Any) -> None:
    """Wait until nothing is drawn."""
    poll(page, "document.getElementById('stop').hidden")
    page.wait_for_timeout(300)


def ask(page: Any, label: str, seed: int, resolution: int = 1024) -> None:
    """Set label, seed and resolution."""
    page.get_by_label("Create", exact=True).check()
    page.get_by_label(label, exact=True).check()
    page.get_by_label(str(resolution), exact=True).check()
    page.get_by_label("Seed", exact=True).fill(str(seed))
