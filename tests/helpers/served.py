"""Servers for tests: in a process of their own as people start them, or in a thread of this one."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
from fastapi import FastAPI

import smalti
from smalti.web.app import create_app
from smalti.web.desk.shelf import opened
from smalti.web.server import address, bound, run
from smalti.web.serving import Serving

PATIENCE_S = 60.0


@dataclass
class Started:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    told: str
    """What it said until it listened, that line included."""

    def client(self, **named: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, trust_env=False, timeout=PATIENCE_S, **named)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "smalti.cli", *map(str, arguments)]


def start(*arguments: object, verb: str = "serve", **environment: str) -> Started:
    """Start a server on a free port; its process, and its address once it listens."""
    line = command(verb, "--port", 0, "--provider", "cpu", "--threads", 1, *arguments)
    process = subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
    )
    assert process.stdout is not None
    told = ""
    for text in process.stdout:
        told += text
        if found := re.search(r"(http://[^/]+)/", text):
            # What else it says is read, or a full pipe would stop it.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return Started(process, found[1], told)
    raise AssertionError(f"it ended with {process.wait()}: {told}")


def ready(client: httpx.Client) -> None:
    """Wait until all bundles are loaded."""
    wait_until(lambda: client.get("/health/ready").status_code == 200)


def wait_until(true: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    by = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < by, "it did not come true"
        time.sleep(0.02)


@dataclass
class Hosted:
    """A server in a thread."""

    app: FastAPI
    url: str
    loop: asyncio.AbstractEventLoop

    def client(self, **named: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, trust_env=False, timeout=PATIENCE_S, **named)


@contextmanager
def hosted(
    serving: Serving,
    bundles: Sequence[str],
    load: Callable[..., smalti.Generator] | None = None,
    gallery: Any = None,
    **more: Any,
) -> Iterator[Hosted]:
    """Serve bundles in a thread, on a free port; inside, they are loaded. ``more`` is for the application."""
    listening, serving = bound(replace(serving, port=0))
    loaded, listens, loops = threading.Event(), threading.Event(), []

    def on_listening() -> None:
        loops.append(asyncio.get_running_loop())
        listens.set()

    def own(bundle: smalti.Bundle) -> smalti.Generator:
        return smalti.load(bundle, "cpu", threads=1, limits=serving.limits)

    app = create_app(opened(bundles), serving, load or own, gallery=gallery, on_ready=loaded.set, **more)
    thread = threading.Thread(target=run, args=(app, serving, listening, on_listening), daemon=True)
    with listening:
        thread.start()
        assert listens.wait(PATIENCE_S)
        assert loaded.wait(PATIENCE_S)
        try:
            yield Hosted(app, address(serving).rstrip("/"), loops[0])
        finally:
            loops[0].call_soon_threadsafe(app.state.end)
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def figure(client: httpx.Client, name: str) -> float:
    """The sum of a figure of /metrics over its labels."""
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if re.match(rf"{name}[ {{]", line))
