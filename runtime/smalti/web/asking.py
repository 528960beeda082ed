"""What routes share: the desk of their application, who asks, and what is done when they leave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import TypeVar, cast

from starlette.requests import HTTPConnection, Request

from smalti.web.desk.desk import Desk
from smalti.web.failures import LEFT, Refused

Made = TypeVar("Made")


def desk_of(asked: HTTPConnection) -> Desk:
    """Return the desk of the application that was asked."""
    return cast(Desk, asked.app.state.desk)


def client_of(asked: HTTPConnection, user: str | None = None) -> str:
    """Return who takes turns: the user that a client names, or the address that it asks from."""
    return f"user {user}" if user else f"address {asked.client.host if asked.client else ''}"


async def unless_gone(request: Request, work: Awaitable[Made]) -> Made:
    """Wait for ``work``, and cancel it when the client leaves. Raises Refused then, and what ``work`` raises.

    The body of the request is read before.
    """
    task = asyncio.ensure_future(work)
    leaves = asyncio.ensure_future(_leaves(request))
    try:
        await asyncio.wait({task, leaves}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Refused(LEFT, "left", "the client has left")
    finally:
        leaves.cancel()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


async def _leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
