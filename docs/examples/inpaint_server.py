"""An inpainting back-end: POST /inpaint takes a picture and a mask, and answers the repainted picture as PNG.

python docs/examples/inpaint_server.py [--bundle BUNDLE] [--port 8000]

The body is JSON: "image" and "mask" are files in base64; "seed", "label", "steps" and "feather" may stand beside them.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import select
import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

import smalti

LIMITS = smalti.Limits(count=1, steps=100, pixels=1024 * 1024)
MOST_BYTES = 16 * 2**20
AT_ONCE = 1
"""Draws that work at a time; others wait for WAIT_S seconds, and are told to come again."""
WAIT_S = 2.0
FIELDS = {"image", "mask", "seed", "label", "steps", "feather"}


class Refused(Exception):
    """A request that gets no picture: the HTTP status, and what was wrong."""


class Left(threading.Event):
    """An event that is set once the client has closed its connection, and nobody waits for the picture any more."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self.connection = connection

    def is_set(self) -> bool:
        """Look at the connection, without taking anything from it."""
        try:
            return bool(select.select([self.connection], [], [], 0)[0]) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True


class Server(ThreadingHTTPServer):
    """A thread for each request, on this machine alone."""

    daemon_threads = False  # closing the server waits for the answers that are under way

    def __init__(self, port: int, gen: smalti.Generator) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.gen, self.turns = gen, threading.BoundedSemaphore(AT_ONCE)


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    timeout = 10  # seconds in which a client sends its next bytes

    def do_POST(self) -> None:
        """Answer the picture, or say what was wrong."""
        try:
            self._answer(200, "image/png", self._inpainted(self._body()))
        except Refused as error:
            status, reason = error.args
            self._answer(status, "text/plain; charset=utf-8", f"{reason}\n".encode())
        except (smalti.Cancelled, OSError) as error:
            self.log_message("the client has left: %s", error)

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if self.path != "/inpaint" or not length.isdecimal():
            raise Refused(404, "POST to /inpaint, with a Content-Length")
        if int(length) > MOST_BYTES:
            raise Refused(413, f"at most {MOST_BYTES} bytes are read")
        try:
            body = json.loads(self.rfile.read(int(length)))
        except ValueError as error:
            raise Refused(400, f"the body is no JSON: {error}") from None
        if not isinstance(body, dict) or not {"image", "mask"} <= body.keys() <= FIELDS:
            raise Refused(400, f"an object with image, mask, and no more than {', '.join(sorted(FIELDS))} is needed")
        return body

    def _inpainted(self, body: dict[str, Any]) -> bytes:
        server: Any = self.server
        image, mask = opened("image", body.pop("image")), opened("mask", body.pop("mask"))
        if not server.turns.acquire(timeout=WAIT_S):
            raise Refused(503, "busy: come again")
        try:
            result = server.gen.inpaint(image, mask, cancel=Left(self.connection), **body)
        except smalti.UsageError as error:  # its message says what is wrong and what is allowed
            raise Refused(400, str(error)) from None
        except smalti.OutOfMemory as error:
            raise Refused(413, str(error)) from None
        finally:
            server.turns.release()
        result.save(png := io.BytesIO(), format="png")
        return png.getvalue()

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if status == 503:
            self.send_header("Retry-After", "2")
        self.end_headers()
        self.wfile.write(content)


def opened(name: str, text: Any) -> Image.Image:
    """Open a file that came as base64. Its pixels are read later, within the limits."""
    try:
        return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    except (TypeError, ValueError, OSError, Image.DecompressionBombError) as error:
        raise Refused(400, f"{name}: a picture in base64 is needed; {error}") from None


def main() -> None:
    """Serve until SIGTERM or Ctrl+C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", help="a folder or .zip; by default the embedded bundle")
    parser.add_argument("--port", type=int, default=8000)
    asked = parser.parse_args()
    gen = smalti.load(asked.bundle, limits=LIMITS)
    blank = gen.generate(steps=1).images[0]
    gen.inpaint(blank, Image.new("L", blank.size, 255), steps=1)  # opens what the first request would wait for
    server = Server(asked.port, gen)
    for number in (signal.SIGTERM, signal.SIGINT):  # in a thread: shutdown waits for the loop that is interrupted here
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"listening on http://127.0.0.1:{server.server_port}/inpaint", flush=True)
    with server:
        server.serve_forever(poll_interval=0.1)


if __name__ == "__main__":
    main()
