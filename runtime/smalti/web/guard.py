"""Who may ask: a guard before the whole application, WebSockets included.

A page of a foreign site can send requests to programs of its reader's machine. So the guard looks at the name that the
client called (a foreign name may point here), at where the page came from, and at the token.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smalti.web.failures import Refused, answer
from smalti.web.serving import Serving

OPEN_PATHS: Final = frozenset({"/health/live", "/health/ready"})
"""What those who watch over servers ask without a token."""
OWN_SITES: Final = frozenset({"none", "same-origin"})
POLICY: Final = (
    "default-src 'self'; img-src 'self' blob: data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""On every answer, unless it sets one of them itself."""
REFUSED_SOCKET: Final = 4403
HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?", re.ASCII | re.IGNORECASE)
"""A Host: a name or an address, and a port."""


class Guard:
    """Lets requests through that come from where they may."""

    def __init__(self, app: ASGIApp, serving: Serving) -> None:
        """Stand before an application."""
        self.app, self.serving = app, serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or let it through."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        try:
            told = self._answer(scope)
        except Refused as refused:
            told = answer(refused)
        sent = _with_headers(send) if scope["type"] == "http" else send
        if told is None:
            await self.app(scope, receive, sent)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": REFUSED_SOCKET})
        else:
            await told(scope, receive, sent)

    def _answer(self, scope: Scope) -> Response | None:
        """Return what the guard itself answers; None lets the request through. Raises Refused."""
        named = _headers(scope)
        host = self._host(named)
        origin = _one(named, "origin")
        if origin is not None and _site(origin) != host.lower():
            raise Refused(403, "foreign_origin", f"a page of {origin[:200]} may not ask here")
        if (site := _one(named, "sec-fetch-site")) is not None and site not in OWN_SITES:
            raise Refused(403, "foreign_origin", "a page of another site may not ask here; type the address instead")
        if self.serving.token is None or scope["path"] in OPEN_PATHS:
            return None
        if self._shows_token(named):
            return None
        if scope["type"] == "http" and scope["method"] == "GET" and self._is_token(_token_in_address(scope)):
            return self._with_cookie(scope)
        shown = _one(named, "authorization") or _token_in_address(scope)
        told = "the token that came is not that of this server" if shown else "a token is needed"
        raise Refused(401, "no_token", f"{told}: Authorization: Bearer TOKEN, or once /?token=TOKEN in a browser")

    def _host(self, named: list[tuple[str, str]]) -> str:
        """Return the host that the client called. Raises Refused for another one's."""
        hosts = [value for name, value in named if name == "host"]
        named_so = HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if named_so is None or not self.serving.knows_host(named_so[1]):
            told = hosts[0][:200] if hosts else "no name"
            raise Refused(
                400,
                "unknown_host",
                f"this server is not known as {told}; start it with --allow-host NAME to call it so",
            )
        return hosts[0]

    def _shows_token(self, named: list[tuple[str, str]]) -> bool:
        for name, value in named:
            if name == "authorization" and self._is_token(_shown(value)):
                return True
            if name == "cookie" and any(self._is_token(shown) for shown in _cookies(value, self._cookie)):
                return True
        return False

    def _is_token(self, shown: str) -> bool:
        return secrets.compare_digest(shown.encode(), (self.serving.token or "").encode())

    @property
    def _cookie(self) -> str:
        return f"smalti-{self.serving.port}"  # ports of a machine share their cookies

    def _with_cookie(self, scope: Scope) -> Response:
        """Keep the token in a cookie, which scripts cannot read, and take it out of the address."""
        answer = RedirectResponse("/" + scope["path"].lstrip("/\\"), 303)  # two slashes would name another host
        answer.set_cookie(self._cookie, self.serving.token or "", httponly=True, samesite="strict")
        return answer


def _headers(scope: Scope) -> list[tuple[str, str]]:
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]


def _one(named: Iterable[tuple[str, str]], wanted: str) -> str | None:
    """Return a header; several of a name are told as one that fits nothing."""
    found = [value for name, value in named if name == wanted]
    return None if not found else ", ".join(found)


def _site(origin: str) -> str:
    """Return host and port of an origin; nothing for null, and for what is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _shown(header: str) -> str:
    """Return the token in a header Authorization: Bearer's, or the password of Basic, which some clients know alone."""
    scheme, _, shown = header.partition(" ")
    if scheme.lower() == "bearer":
        return shown.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(shown.strip(), validate=True).decode("latin-1").partition(":")[2]
        except (binascii.Error, ValueError):
            return ""
    return ""


def _cookies(header: str, name: str) -> list[str]:
    try:
        return [SimpleCookie(header)[name].value]
    except (CookieError, KeyError):
        return []


def _token_in_address(scope: Scope) -> str:
    return parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sent
