"""The end of a server: what was accepted is answered, what is new gets 503, and it exits with 0 in time."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from helpers.served import Started, figure, ready, wait_until
from helpers.web_pictures import same


@pytest.fixture
def started(starting) -> Started:
    server = starting("--bundle", "avatars", "--drain", 20)
    with server.client() as client:
        ready(client)
    return server


def ask(server: Started, seed: int, steps: int) -> httpx.Response | None:
    try:
        with server.client() as client:
            return client.post("/api/generate", json={"seed": seed, "steps": steps})
    except httpx.TransportError:  # it listens no more
        return None


def taken(server: Started) -> float:
    with server.client() as client:
        return figure(client, "smalti_places_taken")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_accepted_requests_are_answered_and_new_ones_refused(number, started, avatars):
    with ThreadPoolExecutor(16) as pool:
        accepted = [pool.submit(ask, started, seed, 12) for seed in range(5)]
        wait_until(lambda: taken(started) == 5)
        started.process.send_signal(number)
        told = time.monotonic()
        with started.client() as client:
            wait_until(lambda: client.get("/health/ready").status_code == 503)
            assert client.get("/health/ready").json() == {"status": "draining"}
            assert client.get("/health/live").status_code == 200
        new = [pool.submit(ask, started, seed, 1) for seed in range(5)]
        refused = [answer.result() for answer in new]
        answers = [answer.result() for answer in accepted]
    assert [answer.status_code for answer in answers] == [200] * 5
    for seed, answer in enumerate(answers):
        assert same(answer.json()["pictures"][0]["data"], avatars.generate(seed=seed, steps=12).images[0])
    there = [answer for answer in refused if answer is not None]
    assert there
    assert {answer.status_code for answer in there} == {503}
    assert {answer.json()["error"]["code"] for answer in there} == {"draining"}
    assert started.process.wait(30) == 0
    assert time.monotonic() - told < 20


def test_what_takes_longer_than_the_drain_time_is_told_so(starting):
    server = starting("--bundle", "avatars", "--drain", 0.5)
    with server.client() as client:
        ready(client)
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(ask, server, seed, 256) for seed in range(3)]
        wait_until(lambda: taken(server) == 3)
        started = time.monotonic()
        assert server.end() == 0
        assert time.monotonic() - started < 6
        answers = [one.result() for one in asked]
    assert [answer.status_code for answer in answers if answer is not None] == [503] * 3
    assert {answer.json()["error"]["code"] for answer in answers if answer is not None} == {"draining"}


def test_a_second_signal_ends_at_once(started):
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(ask, started, 1, 256)
        wait_until(lambda: taken(started) == 1)
        started.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert started.process.poll() is None
        second = time.monotonic()
        assert started.end(signal.SIGINT) == 130
        assert time.monotonic() - second < 4
        asked.result()


def test_an_idle_server_ends_at_once(started):
    begun = time.monotonic()
    assert started.end() == 0
    assert time.monotonic() - begun < 4
