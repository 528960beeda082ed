"""Answers that are told as they come: events of a draw over HTTP (``text/event-stream``)."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any, Final

from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from starlette.types import Receive, Scope, Send

from smalti.web.desk.desk import Place
from smalti.web.desk.orders import Told
from smalti.web.failures import body_of, refusal_of

KIND: Final = "text/event-stream"

_log = logging.getLogger(__name__)


class Events(StreamingResponse):
    """An answer that holds a place until its work has ended, also where its client leaves before the first event."""

    def __init__(self, place: Place, held: AsyncExitStack, work: Told, listed: Callable[[Any], list[Any]]) -> None:
        """Answer with what ``work`` tells.

        Args:
            place: where the work is done.
            held: leaves the place.
            work: is done as :meth:`Place.stream` does it.
            listed: makes pairs of an event's name and its data for JSON of one thing that was told.
        """
        self._held = held
        self._events = _events(place, work, listed)
        super().__init__(self._events, media_type=KIND)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            await self._held.aclose()


async def _events(place: Place, work: Told, listed: Callable[[Any], list[Any]]) -> AsyncGenerator[bytes]:
    try:
        async with aclosing(place.stream(work)) as all_told:
            async for told in all_told:
                for name, data in listed(told):
                    yield _written(name, data)
    except Exception as error:
        refused = refusal_of(error)
        if refused.status == 500:
            _log.error("a stream failed", exc_info=error)
        yield _written("error", body_of(refused))


def _written(name: str, data: Any) -> bytes:
    return format_sse_event(event=name, data_str=json.dumps(data))
