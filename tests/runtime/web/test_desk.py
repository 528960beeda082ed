"""The desk: every place comes back, whatever happens there; batches and streams; who leaves stops the work."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import smalti
from helpers.served import figure, hosted, wait_until
from helpers.web_pictures import same
from smalti.errors import Cancelled, UsageError
from smalti.families.settings import resolve
from smalti.web.desk import desk as desks
from smalti.web.desk.desk import Desk
from smalti.web.desk.shelf import Entry, Shelf
from smalti.web.failures import Refused
from smalti.web.metrics import Metrics
from smalti.web.serving import Serving

MOST = 3
KINDS = ("quick", "fails", "exits", "stops", "long", "stream", "broken stream", "nothing", "error outside")


def desk_of(gen: smalti.Generator, **named) -> Desk:
    return Desk(Shelf([Entry("tiny", gen.bundle, gen)]), Serving(**named), Metrics())


async def until(true, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.005)


def waits(generator, gone) -> None:
    if not gone.wait(20):
        raise AssertionError("nobody left")
    raise Cancelled("left")


async def visit(desk: Desk, kind: str, client: str) -> None:
    """What one request does at the desk."""

    def told(generator, gone, tell):
        for index in range(20):
            tell(index)

    def error(kind):
        def work(generator, gone):
            raise {"fails": ValueError, "exits": SystemExit, "stops": StopIteration}[kind]("as it should")

        return work

    async with desk.reserve(client, None) as place:
        if kind == "quick":
            assert await place.work(lambda generator, gone: 7) == 7
        elif kind in ("fails", "exits", "stops"):
            with pytest.raises((ValueError, RuntimeError)):
                await place.work(error(kind))
        elif kind == "long":
            await place.work(waits)
        elif kind == "stream":
            assert [one async for one in place.stream(told)][-1] == 19
        elif kind == "broken stream":
            stream = place.stream(told)
            async for _ in stream:
                break
            await stream.aclose()
        elif kind == "error outside":
            raise UsageError("a picture that cannot be read")


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from("abc"), st.integers(0, 3), st.booleans()), max_size=12)
)
def test_no_place_is_ever_lost(tiny, visits):
    async def all_visits() -> None:
        desk = desk_of(tiny, max_queue=MOST, timeout=0.05)
        desk.start()
        tasks = []
        for kind, client, pause, leaves in visits:
            task = asyncio.ensure_future(visit(desk, kind, client))
            tasks.append(task)
            assert 0 <= desk._taken <= MOST
            await asyncio.sleep(pause * 0.004)
            if leaves:
                task.cancel()
        for answer in await asyncio.gather(*tasks, return_exceptions=True):
            assert answer is None or isinstance(answer, Refused | UsageError | asyncio.CancelledError), answer
        await until(lambda: desk._taken == 0)
        assert await desk.drain(5)
        assert desk._thread.is_alive()
        desk.draining = False
        await visit(desk, "quick", "a")
        await desk.stop()

    asyncio.run(all_visits())


def test_places_are_given_before_anything_is_awaited(tiny):
    async def ask() -> None:
        desk = desk_of(tiny, max_queue=2)
        desk.start()
        first, second = desk.reserve("a", None), desk.reserve("a", None)
        with pytest.raises(Refused) as refused:
            desk.reserve("b", None)
        assert (refused.value.status, refused.value.retry_after) == (429, 1.0)
        for place in (first, second):
            place.leave()
            place.leave()  # which gives nothing up twice
        desk.reserve("b", None).leave()
        assert desk._taken == 0
        await desk.stop()

    asyncio.run(ask())


def test_users_take_turns(tiny):
    async def ask() -> list[str]:
        desk, order, open_ = desk_of(tiny, max_queue=32), [], threading.Event()
        desk.start()

        async def one(client: str) -> None:
            async with desk.reserve(client, None) as place:
                await place.work(lambda generator, gone: order.append(client))

        tasks = [asyncio.ensure_future(one(client)) for client in "aaaaaabbc"]
        await asyncio.sleep(0.05)
        open_.set()
        await asyncio.gather(*tasks)
        await desk.stop()
        return order

    assert "".join(asyncio.run(ask())) == "abcabaaaa"


def test_a_stop_tells_who_waits_and_who_is_drawn_for(tiny):
    async def ask() -> None:
        desk = desk_of(tiny)
        desk.start()
        tasks = [asyncio.ensure_future(visit(desk, "long", "a")) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert not await desk.drain(0.05)
        await desk.stop()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [answer.code for answer in answers if isinstance(answer, Refused)] == ["draining"] * 3
        with pytest.raises(Refused, match="about to end"):
            desk.reserve("a", None)
        assert desk._taken == 0

    asyncio.run(ask())


def test_a_slow_reader_misses_some_but_holds_neither_memory_nor_a_place(tiny):
    async def read() -> list[bytes]:
        desk = desk_of(tiny, max_queue=1)
        desk.start()
        taken: list[int] = []

        def work(generator, gone, tell):
            for index in range(500):
                tell(index.to_bytes(2, "big") * 5000)
                time.sleep(0.0002)

        found: list[bytes] = []
        async with desk.reserve("a", None) as place:
            async for item in place.stream(work):
                found.append(item[:2])
                taken.append(desk._taken)
                await asyncio.sleep(0.05)
        assert taken[-1] == 0  # the work had ended, and others could ask
        await desk.stop()
        return found

    found = asyncio.run(read())
    numbers = [int.from_bytes(one, "big") for one in found]
    assert numbers == sorted(set(numbers))
    assert numbers[-desks.KEPT :] == list(range(500 - desks.KEPT, 500))
    assert len(numbers) < 100


def settings_of(gen, **options):
    return resolve(gen.manifest, options.pop("count", 1), options.pop("seed", 0), options, limits=gen.limits)


def together(gen: smalti.Generator, draws, **named):
    """Draws that wait for the desk at the same time: their answers, and the desk."""

    async def ask():
        desk = desk_of(gen, max_queue=64, **named)
        desk.start()
        held = desk.reserve("first", None)
        opens = threading.Event()
        holding = asyncio.ensure_future(held.work(lambda generator, gone: opens.wait(20)))

        async def one(index, wanted):
            async with desk.reserve(f"client {index}", None) as place:
                return await place.draw(wanted)

        tasks = [asyncio.ensure_future(one(index, wanted)) for index, wanted in enumerate(draws)]
        await asyncio.sleep(0.05)
        opens.set()
        await holding
        held.leave()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: desk._taken == 0)
        await desk.stop()
        return answers, desk

    return asyncio.run(ask())


def value(counter) -> float:
    return next(iter(counter.collect())).samples[0].value


def test_draws_of_equal_settings_share_a_batch_and_are_the_librarys(tiny):
    draws = [
        settings_of(tiny, seed=10 * index, count=1 + index % 2, steps=4 if index < 6 else 3, label=tiny.labels[index])
        for index in range(8)
    ]
    answers, desk = together(tiny, draws, max_batch=8)
    for index, result in enumerate(answers):
        wanted = tiny.generate(1 + index % 2, 10 * index, steps=4 if index < 6 else 3, label=tiny.labels[index])
        assert (result.tokens == wanted.tokens).all()
        assert all(same(one, other) for one, other in zip(result.images, wanted.images))
        assert result.recipe(0) == wanted.recipe(0)
    assert value(desk.metrics.batched) >= 7


def test_one_at_a_time_where_batches_do_not_pay(tiny):
    _, desk = together(tiny, [settings_of(tiny, seed=index, steps=2) for index in range(4)])
    assert value(desk.metrics.batched) == 0


def test_a_batch_that_is_too_much_is_drawn_one_by_one(tiny_bundle):
    gen = smalti.load(tiny_bundle, "cpu", threads=1, limits=smalti.Limits(count=2))
    answers, _ = together(gen, [settings_of(gen, seed=index, steps=2) for index in range(5)], max_batch=4)
    for index, result in enumerate(answers):
        assert same(result.images[0], gen.generate(seed=index, steps=2).images[0])


LONG = {"bundle": "avatars", "steps": 256, "resolution": 1024}
"""A draw that takes several seconds."""


def leaves(url: str, path: str, body: dict, after: float) -> None:
    """Ask, and close the connection after some seconds, or once a stream has told its first step."""
    timeout = httpx.Timeout(60, read=after)
    with httpx.Client(trust_env=False, timeout=timeout) as own:
        try:
            with own.stream("POST", url + path, json=body) as answer:
                for _ in answer.iter_lines():
                    break
        except httpx.ReadTimeout:
            pass


@pytest.mark.parametrize("path", ["/api/generate", "/api/generate/stream", "/v1/images/generations"])
def test_work_stops_when_its_client_leaves(path, client, server, avatars):
    body = dict(LONG)
    if path.startswith("/v1"):
        body["model"] = body.pop("bundle")
    before = figure(client, "smalti_cancelled_total")
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda after: leaves(server.url, path, body, after), (0.3, 0.35, 0.4)))
    left = time.monotonic()
    wait_until(lambda: figure(client, "smalti_places_taken") == 0, 10)
    assert time.monotonic() - left < 1.5
    wait_until(lambda: figure(client, "smalti_cancelled_total") == before + 3, 10)


def test_time_is_up_for_who_waits_and_for_who_is_drawn(tiny_bundle: Path, avatars):
    serving = replace(Serving(), timeout=0.4, max_queue=2)
    with hosted(serving, ["avatars"], lambda bundle: avatars) as server:
        body = {name: option for name, option in LONG.items() if name != "bundle"}
        with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client, ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: client.post("/api/generate", json=body), range(4)))
            statuses = sorted(answer.status_code for answer in answers)
            assert statuses == [429, 429, 503, 503]
            assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers)
            codes = {answer.json()["error"]["code"] for answer in answers}
            assert codes == {"queue_full", "timeout"}
            wait_until(lambda: figure(client, "smalti_places_taken") == 0, 10)
            stream = client.post("/api/generate/stream", json=body)
            assert stream.text.rstrip().split("\n\n")[-1].startswith("event: error")
            assert client.post("/api/generate", json={"steps": 1}).status_code == 200


def test_an_answer_that_nobody_reads_is_given_up(tiny_bundle: Path, tiny, monkeypatch):
    import socket

    from smalti.web import bodies

    monkeypatch.setattr(bodies, "SENDING_S", 0.2)
    with hosted(Serving(timeout=0.5), [str(tiny_bundle)], lambda bundle: tiny) as server:
        host, port = server.url.removeprefix("http://").split(":")
        tasks = len(asyncio.all_tasks(server.loop))
        kept = []
        for _ in range(5):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((host, int(port)))
            body = b'{"steps": 1, "size": [512, 512], "count": 8}'
            head = f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
            kept.append(connection)
        time.sleep(0.5)
        wait_until(lambda: len(asyncio.all_tasks(server.loop)) <= tasks, 20)
        for connection in kept:
            connection.close()
