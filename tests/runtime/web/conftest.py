"""What the tests of the web application share: a server as people start it, on the loopback and a free port."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import smalti
from helpers.served import Started, ready, start
from helpers.studio_page import Studio, browser, studio, tab


@pytest.fixture(scope="session")
def server(tiny_bundle: Path, cache_dir: Path) -> Iterator[Started]:
    """``smalti serve`` with the tiny bundle, and the embedded one by the name of avatars."""
    started = start("--bundle", tiny_bundle, "--bundle", "avatars")
    with started.client() as client:
        ready(client)
    yield started
    started.process.kill()
    started.process.wait()


@pytest.fixture
def client(server: Started) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture
def starting() -> Iterator[Callable[..., Started]]:
    """Start servers that are ended with the test."""
    all_started: list[Started] = []

    def starting(*arguments: object, **environment: str) -> Started:
        all_started.append(start(*arguments, **environment))
        return all_started[-1]

    yield starting
    for started in all_started:
        started.process.kill()
        started.process.wait()


@pytest.fixture(scope="session")
def tiny(tiny_bundle: Path) -> smalti.Generator:
    """The tiny bundle as the server loads it."""
    return smalti.load(tiny_bundle, "cpu", threads=1)


@pytest.fixture(scope="session")
def avatars() -> smalti.Generator:
    return smalti.load(None, "cpu", threads=1)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[Studio]:
    """``smalti studio`` with the embedded bundle and a gallery that is empty at first."""
    with studio(tmp_path_factory.mktemp("studio") / "gallery") as started:
        yield started


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture
def page(here: Studio, chromium: Any) -> Iterator[Any]:
    """A tab of the studio that shows a picture."""
    with tab(chromium, here.url) as page:
        yield page
