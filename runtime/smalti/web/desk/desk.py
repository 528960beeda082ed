"""The desk of a server: requests get a place in the queue or are refused, and one thread works for all of them.

Everything here but :meth:`Desk._work` runs in the thread of the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, TypeVar

from smalti.drawing.generator import Generator
from smalti.drawing.result import Result
from smalti.errors import Cancelled
from smalti.families.base import Settings
from smalti.web.desk.orders import RETRY_S, Order, Work, answers_of, ending, seen, settle, shares
from smalti.web.desk.shelf import Entry, Shelf
from smalti.web.desk.together import draw_together
from smalti.web.desk.turns import Turns
from smalti.web.failures import Refused
from smalti.web.metrics import Metrics
from smalti.web.serving import Serving

Made = TypeVar("Made")
KEPT: Final = 8
"""Items of a stream that wait for a slow client; then the oldest is dropped."""

_log = logging.getLogger(__name__)


class Desk:
    """Gives places, and works on what is asked from them, one order after the other."""

    def __init__(self, shelf: Shelf, serving: Serving, metrics: Metrics) -> None:
        """Set the desk up; nothing is done before :meth:`start`."""
        self.shelf, self.serving, self.metrics = shelf, serving, metrics
        self.draining = False
        self._taken = 0
        self._turns: Turns[Order] = Turns()
        self._changed = threading.Condition()
        self._stopped = False
        self._running: list[Order] = []
        self._thread = threading.Thread(target=self._work, name="smalti-desk", daemon=True)
        self._idle = asyncio.Event()
        self._idle.set()
        metrics.follow(lambda: self._taken, lambda: shelf.ready)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def reserve(self, client: str, bundle: str | None, *, param: str = "bundle") -> Place:
        """Give a place in the queue, at once: nothing is awaited, so no two requests get the last one.

        ``param`` is the field that named the bundle.

        Raises Refused: 404 for an unknown bundle, 503 while it is loaded or the server ends, 429 where all are taken.
        """
        if self.draining:
            self.metrics.refused.labels("draining").inc()
            raise ending()
        entry = self.shelf.find(bundle, param)
        try:
            _ = entry.ready
        except Refused as refused:
            self.metrics.refused.labels(refused.code).inc()
            raise
        if self._taken >= self.serving.max_queue:
            self.metrics.refused.labels("queue_full").inc()
            told = f"all {self.serving.max_queue} places are taken; come again"
            raise Refused(429, "queue_full", told, retry_after=RETRY_S)
        self._taken += 1
        self._idle.clear()
        return Place(self, client, entry)

    async def drain(self, seconds: float) -> bool:
        """Refuse new requests, and wait for those that are accepted; return whether all ended in time."""
        self.draining = True
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """End the worker. What it works on is cancelled, and who waits is told to ask elsewhere."""
        with self._changed:
            self._stopped = True
            for order in self._running:
                order.gone.set()
            while (order := self._turns.take()) is not None:
                settle(order.future, ending())
            self._changed.notify_all()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def put(self, order: Order) -> None:
        """Let an order wait for its turn."""
        with self._changed:
            if self._stopped:
                settle(order.future, ending())
                return
            self._turns.put(order.client, order)
            self._changed.notify()

    def withdraw(self, order: Order) -> None:
        """Take an order back whose client has left. What is worked on ends soon."""
        order.gone.set()
        with self._changed:
            waiting = self._turns.remove(order)
        if waiting:
            self.metrics.cancelled.inc()
            settle(order.future, Cancelled("the client has left"))

    def release(self) -> None:
        """Take a place back."""
        self._taken -= 1
        if not self._taken:
            self._idle.set()

    def _next(self) -> list[Order]:
        """Wait for the next order, and those that share its batch; none once the desk is stopped."""
        with self._changed:
            while not (len(self._turns) or self._stopped):
                self._changed.wait()
            if self._stopped:
                return []
            first = self._turns.take()
            assert first is not None
            self._running = [first]
            if first.draw is not None:
                most = self.serving.max_batch or first.entry.batch
                room = most - len(first.draw.seeds)
                while room > 0 and (other := self._turns.take_like(partial(shares, first, room))):
                    self._running.append(other)
                    room -= len(other.draw.seeds) if other.draw else 0
            return list(self._running)

    def _work(self) -> None:
        """Work on orders until the desk is stopped. This is the worker's thread, and nothing that fails ends it."""
        while orders := self._next():
            begun = time.perf_counter()
            answers = answers_of(orders)
            seconds = time.perf_counter() - begun
            with self._changed:
                self._running = []
                if self._stopped:
                    answers = [ending() if isinstance(answer, Cancelled) else answer for answer in answers]
            for order, answer in zip(orders, answers):
                with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
                    order.future.get_loop().call_soon_threadsafe(settle, order.future, answer)
            try:
                self._count(orders, answers, begun, seconds)
            except Exception:
                _log.exception("work could not be counted")

    def _count(self, orders: Sequence[Order], answers: Sequence[Any], begun: float, seconds: float) -> None:
        """Count what was done. A batch has one time, whoever shared it."""
        for order in orders:
            self.metrics.waited.observe(begun - order.asked)
        self.metrics.worked.observe(seconds)
        self.metrics.cancelled.inc(sum(isinstance(answer, Cancelled) for answer in answers))
        drawn = [answer for answer in answers if isinstance(answer, Result)]
        if len(drawn) > 1:
            self.metrics.batched.inc(len(drawn))
        if drawn:
            self.metrics.drawn(orders[0].entry.name, sum(len(one.images) for one in drawn), drawn[0].timings)


class Place:
    """A place in the queue. Who leaves it gives it up, and what is done there ends within a step."""

    def __init__(self, desk: Desk, client: str, entry: Entry) -> None:
        """Take the place; :meth:`Desk.reserve` gives it."""
        self.desk, self.client, self.entry = desk, client, entry
        self.gone = threading.Event()
        self._under_way: asyncio.Future[Any] | None = None
        self._left = False

    @property
    def generator(self) -> Generator:
        """The generator of the bundle that was asked for."""
        return self.entry.ready

    async def __aenter__(self) -> Place:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Give the place up; a second time does nothing."""
        self.gone.set()
        if self._left:
            return
        self._left = True
        if self._under_way is None or self._under_way.done():
            self.desk.release()
        else:  # a place is free once nothing is done there any more
            self._under_way.add_done_callback(lambda _: self.desk.release())

    async def work(self, work: Callable[[Generator, threading.Event], Made]) -> Made:
        """Do ``work`` in its turn, in the worker's thread; return what it gives.

        Raises what it raises, and Refused once the time of a request is over.
        """
        return await self._ordered(work, None)

    async def draw(self, settings: Settings) -> Result:
        """Draw in its turn, in one batch with draws of equal settings where that pays."""

        def work(generator: Generator, gone: threading.Event) -> Result:
            return draw_together(generator, [settings], [gone])[0]

        return await self._ordered(work, settings)

    async def stream(
        self, work: Callable[[Generator, threading.Event, Callable[[Made], None]], object]
    ) -> AsyncGenerator[Made]:
        """Do ``work`` as :meth:`work` does, and yield what it tells meanwhile.

        Its third argument takes one thing to tell. A slow client misses some, and never the last ones. The place is
        given up once the work has ended.
        """
        loop, kept, arrived = asyncio.get_running_loop(), deque[Made](maxlen=KEPT), asyncio.Event()

        def put(item: Made) -> None:
            kept.append(item)
            arrived.set()

        def ended(_: object) -> None:
            self.leave()  # who takes its time to read keeps nobody from asking
            arrived.set()

        def tell(item: Made) -> None:
            if self.gone.is_set():
                raise Cancelled("the client has left")
            loop.call_soon_threadsafe(put, item)

        task = asyncio.ensure_future(self.work(lambda generator, gone: work(generator, gone, tell)))
        task.add_done_callback(ended)
        try:
            while True:
                await arrived.wait()
                arrived.clear()
                while kept:
                    yield kept.popleft()
                if task.done() and not kept:
                    await task
                    return
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task

    async def _ordered(self, work: Work, draw: Settings | None) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.add_done_callback(seen)
        order = Order(self.client, self.entry, work, future, self.gone, draw)
        self._under_way = future
        self.desk.put(order)
        try:
            async with asyncio.timeout(self.desk.serving.timeout):
                return await asyncio.shield(future)
        except TimeoutError:
            self.desk.withdraw(order)
            raise Refused(
                503,
                "timeout",
                f"it took more than {self.desk.serving.timeout:g} s; ask for fewer steps or pixels, or come again",
                retry_after=RETRY_S,
            ) from None
        except asyncio.CancelledError:
            self.desk.withdraw(order)
            raise
