"""Bodies of requests and answers: how large one may be, and how long a client may take to send or to read it."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smalti.web.failures import Refused, answer
from smalti.web.serving import Serving

PIECE: Final = 2**16
"""Bytes of an answer that are handed on at once: no more of it waits in a connection that nobody reads."""
SENDING_S: Final = 30.0
"""Seconds that a request, or an answer, may be on its way besides the time for its work."""


class TooSlow(Exception):
    """A client did not read its answer in time; the connection is closed."""


class Bodies:
    """Bounds what is received and sent."""

    def __init__(self, app: ASGIApp, serving: Serving) -> None:
        """Stand before an application."""
        self.app, self.serving = app, serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through whose body fits, piece by piece."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        most, loop = self.serving.max_body, asyncio.get_running_loop()
        too_large = f"a body of at most {most} bytes is read; send fewer or smaller images"
        if _declared(scope) > most:  # told before any of it is read
            await answer(Refused(413, "too_large", too_large))(scope, receive, send)
            return
        seconds = self.serving.timeout + SENDING_S
        body_by, taken, whole = loop.time() + SENDING_S, 0, False
        read_by: float | None = None

        async def received() -> Message:
            nonlocal taken, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(body_by):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body did not arrive within {SENDING_S:g} s; send it again") from None
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if taken > most:
                    raise HTTPException(413, too_large)
            return message

        async def sent(message: Message) -> None:
            nonlocal read_by
            if read_by is None:
                read_by = loop.time() + seconds
            try:
                async with asyncio.timeout_at(read_by):
                    for piece in _pieces(message):
                        await send(piece)
            except TimeoutError:
                raise TooSlow(f"an answer was not read within {seconds:g} s") from None

        await self.app(scope, received, sent)


def _declared(scope: Scope) -> int:
    """Return the length that a request states; 0 where it states none. Servers refuse what is no number."""
    stated = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
    return int(stated[0]) if stated and stated[0].isdigit() else 0


def _pieces(message: Message) -> list[Message]:
    """Return a message of an answer as several of at most PIECE bytes."""
    body = message.get("body", b"")
    if len(body) <= PIECE:
        return [message]
    more = message.get("more_body", False)
    return [
        {**message, "body": body[first : first + PIECE], "more_body": more or first + PIECE < len(body)}
        for first in range(0, len(body), PIECE)
    ]
