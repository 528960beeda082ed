"""A server that listens, says where, and ends well: what was accepted is answered first."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Generator
from dataclasses import replace
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from smalti.errors import UsageError
from smalti.web.serving import Serving

GRACE_S = 1
"""Seconds for answers on their way once all work has ended."""
CONNECTIONS = 512
"""Connections at a time; further ones get 503."""


def bound(serving: Serving) -> tuple[socket.socket, Serving]:
    """Take the address; return the socket, and where it listens. Raises UsageError where it is taken or not ours."""
    family = socket.AF_INET6 if ":" in serving.host else socket.AF_INET
    # The protocol is named, or asyncio would let each answer wait 40 ms for what else it could send with it.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((serving.host, serving.port))
    except (OSError, UnicodeError) as error:
        listening.close()
        told = error.strerror if isinstance(error, OSError) else "it is no name of a host"
        raise UsageError(
            f"cannot listen on {serving.host:.80} port {serving.port}: {told or error}; name another --port, or 0"
            " for any that is free"
        ) from None
    return listening, replace(serving, port=listening.getsockname()[1])


def address(serving: Serving) -> str:
    """Return where a server is found."""
    host = f"[{serving.host}]" if ":" in serving.host else serving.host
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    return f"http://{host}:{serving.port}/"


class Server(uvicorn.Server):
    """Uvicorn's, but that it still answers new requests with 503 while accepted ones are worked on."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], Any]) -> None:
        """``drain`` is awaited after a signal, before the server stops to listen."""
        super().__init__(config)
        self._drain = drain
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = False
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Remember the loop, and start."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; a second signal ends at once."""
        if self._told or self._loop is None:
            self.should_exit = self.force_exit = True
            return
        self._told = True
        self._loop.call_soon_threadsafe(self.begin_to_end)

    def begin_to_end(self) -> None:
        """Refuse what is new, answer what was accepted, and end."""
        self._draining = asyncio.ensure_future(self._end())

    async def _end(self) -> None:
        await self._drain()
        self.should_exit = True


def run(app: FastAPI, serving: Serving, listening: socket.socket, on_listening: Callable[[], object]) -> None:
    """Serve until SIGTERM or Ctrl+C, then answer what was accepted, for as long as ``serving.drain`` allows.

    Raises what :attr:`app.state.failure` holds: why a bundle could not be made ready; and KeyboardInterrupt after a
    second signal.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        limit_concurrency=CONNECTIONS,
        ws="websockets-sansio",
        ws_max_size=serving.max_body,
        lifespan="on",
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)

    async def drain() -> None:
        if not await app.state.desk.drain(serving.drain):
            await app.state.desk.stop()

    server = Server(config, drain)
    app.state.end = server.begin_to_end

    async def serve() -> None:
        task = asyncio.ensure_future(server.serve(sockets=[listening]))
        while not (server.started or task.done()):
            await asyncio.sleep(0.01)
        if server.started:
            on_listening()
        await task

    with _signals_of_its_own():
        asyncio.run(serve())
    if server.force_exit:
        raise KeyboardInterrupt
    if (failure := getattr(app.state, "failure", None)) is not None:
        raise failure


@contextlib.contextmanager
def _signals_of_its_own() -> Generator[None]:
    """Inside, signals are the server's alone: the command line would end the process soon after SIGTERM."""
    try:
        before = signal.set_wakeup_fd(-1)
    except ValueError:  # in another thread than the main one, which gets no signals
        yield
        return
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
