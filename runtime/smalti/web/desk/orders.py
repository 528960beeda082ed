"""Orders: work of one request each, how it is done, and how who waits for it is told."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from smalti.drawing.generator import Generator
from smalti.errors import Cancelled, SmaltiError
from smalti.families.base import Settings
from smalti.web.desk.shelf import Entry
from smalti.web.desk.together import alike, draw_together
from smalti.web.failures import Refused

Work = Callable[[Generator, threading.Event], Any]
"""What is done in the worker's thread: it ends soon after the event is set."""
Told = Callable[[Generator, threading.Event, Callable[[Any], None]], object]
"""Work that tells things meanwhile."""
RETRY_S: Final = 1.0
"""When to come again where all places are taken."""

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Order:
    """Work of one request, on its way."""

    client: str
    entry: Entry
    work: Work
    future: asyncio.Future[Any]
    gone: threading.Event
    draw: Settings | None = None
    """What it draws, where it may share a batch."""
    asked: float = field(default_factory=time.perf_counter)


def settle(future: asyncio.Future[Any], answer: Any) -> None:
    """Give a future its answer, or let it raise it, unless it has one."""
    if future.done():
        return
    if not isinstance(answer, BaseException):
        future.set_result(answer)
    elif isinstance(answer, Exception) and not isinstance(answer, StopIteration):
        future.set_exception(answer)
    else:  # a future takes no StopIteration, and others, such as SystemExit, would end the loop
        future.set_exception(RuntimeError(f"the work ended with {answer!r}"))


def ending() -> Refused:
    """Return what is told to who waits, or comes, while the server ends."""
    return Refused(503, "draining", "this server is about to end; ask another one", retry_after=RETRY_S)


def seen(future: asyncio.Future[Any]) -> None:
    """Look at an exception that nobody waits for any more, or asyncio would log it."""
    if not future.cancelled():
        future.exception()


def shares(first: Order, room: int, other: Order) -> bool:
    """Return whether a draw of at most ``room`` images may share the batch of the first."""
    if first.draw is None or other.draw is None or other.entry is not first.entry:
        return False
    return len(other.draw.seeds) <= room and alike(first.draw, other.draw)


def answers_of(orders: Sequence[Order]) -> Sequence[Any]:
    """Work on one order, or on draws that share a batch; return the answer or the error of each."""
    first = orders[0]
    try:
        generator = first.entry.ready
        if len(orders) == 1:
            return [first.work(generator, first.gone)]
        draws = [order.draw for order in orders if order.draw is not None]
        return draw_together(generator, draws, [order.gone for order in orders])
    except BaseException as error:  # told to who waits; the desk goes on
        if len(orders) > 1 and not isinstance(error, Cancelled):  # such as too much at once; each is told its own
            return [answers_of([order])[0] for order in orders]
        if not isinstance(error, SmaltiError):
            _log.exception("work failed")
        return [error] * len(orders)
