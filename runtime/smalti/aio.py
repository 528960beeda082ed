"""smalti for asyncio: the same calls, awaited; each works in a thread, so that the event loop goes on.

::

    gen = await smalti.aio.load()
    result = await gen.generate(seed=7)
    async for step in gen.stream(seed=7):
        ...

A task that is cancelled ends its call between two pieces of work. At most ``at_once`` calls of one event loop work at a
time; others wait their turn. Several loops, each in a thread of its own, may use one generator.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from smalti.drawing import generator
from smalti.drawing.folder import Written
from smalti.drawing.result import Result, Step
from smalti.errors import Cancelled, UsageError
from smalti.families.checks import shown
from smalti.loading import load as loads
from smalti.loading import replay as replaying

Made = TypeVar("Made")


async def load(*arguments: Any, at_once: int = 1, **named: Any) -> Generator:
    """Load a bundle as :func:`smalti.load` does, which says what may be given and what is raised.

    ``at_once`` is how many calls of an event loop work at a time, at least 1. More than one helps where a GPU waits for
    the host.
    """
    if not isinstance(at_once, int) or isinstance(at_once, bool) or at_once < 1:  # pyright: ignore
        raise UsageError(f"at_once {shown(at_once)}: a whole number, at least 1, is needed")
    loaded = await asyncio.to_thread(loads.load, *arguments, **named)
    return Generator(loaded, at_once)


async def replay(*arguments: Any, **named: Any) -> Result:
    """Draw a picture again from the recipe in its file: see :func:`smalti.replay`."""
    cancel = named.pop("cancel", None) or threading.Event()
    return await _to_the_end(partial(replaying.replay, *arguments, cancel=cancel, **named), cancel)


class Generator:
    """A loaded bundle whose calls are awaited; each takes and gives what that of :class:`smalti.Generator` does."""

    def __init__(self, loaded: generator.Generator, at_once: int = 1) -> None:
        """Wrap a generator, which may be used by others too."""
        self.generator = loaded
        """The generator itself: its manifest, labels and report."""
        self._at_once = at_once
        self._turns: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}
        self._lock = threading.Lock()

    async def generate(self, *arguments: Any, **named: Any) -> Result:
        """Draw images: see :meth:`smalti.Generator.generate`."""
        return await self._call(self.generator.generate, *arguments, **named)

    async def inpaint(self, *arguments: Any, **named: Any) -> Result:
        """Repaint a part of an image: see :meth:`smalti.Generator.inpaint`."""
        return await self._call(self.generator.inpaint, *arguments, **named)

    async def outpaint(self, *arguments: Any, **named: Any) -> Result:
        """Paint on beyond an image's edges: see :meth:`smalti.Generator.outpaint`."""
        return await self._call(self.generator.outpaint, *arguments, **named)

    async def vary(self, *arguments: Any, **named: Any) -> Result:
        """Draw variations of an image: see :meth:`smalti.Generator.vary`."""
        return await self._call(self.generator.vary, *arguments, **named)

    async def encode(self, *arguments: Any, **named: Any) -> Any:
        """Encode images: see :meth:`smalti.Generator.encode`."""
        return await self._call(self.generator.encode, *arguments, **named)

    async def decode(self, *arguments: Any, **named: Any) -> Any:
        """Decode tokens: see :meth:`smalti.Generator.decode`."""
        return await self._call(self.generator.decode, *arguments, **named)

    async def embed(self, *arguments: Any, **named: Any) -> Any:
        """Describe images: see :meth:`smalti.Generator.embed`."""
        return await self._call(self.generator.embed, *arguments, **named)

    async def generate_into(self, *arguments: Any, **named: Any) -> Written:
        """Draw images into a folder: see :meth:`smalti.Generator.generate_into`. ``on_picture`` is told in a thread."""
        return await self._call(self.generator.generate_into, *arguments, **named)

    def stream(self, *arguments: Any, **named: Any) -> AsyncIterator[Step]:
        """Draw images step by step: see :meth:`smalti.Generator.stream`."""
        return self._stream(self.generator.stream, *arguments, **named)

    def stream_inpaint(self, *arguments: Any, **named: Any) -> AsyncIterator[Step]:
        """Repaint a part of an image step by step: see :meth:`smalti.Generator.stream_inpaint`."""
        return self._stream(self.generator.stream_inpaint, *arguments, **named)

    def stream_outpaint(self, *arguments: Any, **named: Any) -> AsyncIterator[Step]:
        """Paint on beyond an image's edges step by step: see :meth:`smalti.Generator.stream_outpaint`."""
        return self._stream(self.generator.stream_outpaint, *arguments, **named)

    def _turn(self) -> asyncio.Semaphore:
        """Return what calls of the running loop wait for: a semaphore serves one loop only."""
        loop = asyncio.get_running_loop()
        with self._lock:
            self._turns = {known: turns for known, turns in self._turns.items() if not known.is_closed()}
            return self._turns.setdefault(loop, asyncio.Semaphore(self._at_once))

    async def _call(self, method: Callable[..., Made], *arguments: Any, **named: Any) -> Made:
        cancel = named.pop("cancel", None) or threading.Event()
        async with self._turn():
            return await _to_the_end(partial(method, *arguments, cancel=cancel, **named), cancel)

    async def _stream(
        self, method: Callable[..., Iterator[Step]], *arguments: Any, **named: Any
    ) -> AsyncIterator[Step]:
        cancel = named.pop("cancel", None) or threading.Event()
        async with self._turn():
            steps = await _to_the_end(partial(method, *arguments, cancel=cancel, **named), cancel)
            while (step := await _to_the_end(partial(next, steps, None), cancel)) is not None:
                yield step


async def _to_the_end(work: Callable[[], Made], cancel: threading.Event) -> Made:
    """Do work in a thread. Where this task is cancelled, cancel the work, and wait until it has ended."""
    task = asyncio.ensure_future(asyncio.to_thread(_awaitable, work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        cancel.set()
        with contextlib.suppress(Cancelled):
            await task
        raise


def _awaitable(work: Callable[[], Made]) -> Made:
    """Do work. A StopIteration of a function that is told steps or pictures would never reach who awaits."""
    try:
        return work()
    except StopIteration as error:
        raise RuntimeError("a function that is told steps or pictures raised StopIteration") from error
