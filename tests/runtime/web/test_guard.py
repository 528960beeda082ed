"""The guard: who may ask. It is tried as a whole, before an application that notes what reaches it."""

from __future__ import annotations

import asyncio
import base64
import socket
from pathlib import Path
from typing import Any

import pytest

import smalti
from helpers.served import Hosted, hosted
from smalti.errors import UsageError
from smalti.web.guard import Guard
from smalti.web.serving import Serving, is_loopback, read_token

TOKEN = "0123456789abcdef-token"
HOST = "127.0.0.1:8000"


def tried(
    headers: list[tuple[str, str]], serving: Serving | None = None, kind: str = "http", path: str = "/", query: str = ""
) -> tuple[str, Any]:
    """What became of a request: "passed", "closed" for a WebSocket, or its status and headers."""
    seen: list[Any] = []
    scope = {
        "type": kind,
        "method": "GET",
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
    }

    async def app(*_: Any) -> None:
        seen.append(("passed", None))

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            told = [(name.decode(), value.decode()) for name, value in message["headers"]]
            seen.append((str(message["status"]), dict(told)))
        elif message["type"] == "websocket.close":
            seen.append(("closed", message["code"]))

    asyncio.run(Guard(app, serving or Serving())(scope, receive, send))
    assert len(seen) == 1
    return seen[0]


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("name", ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "[::1]:8000", "localhost.:1"])
def test_names_of_this_machine_are_known(name, kind):
    assert tried([("Host", name)], kind=kind)[0] == "passed"


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    "hosts",
    [
        [],
        [""],
        ["evil.example"],
        ["evil.example:8000"],
        ["localhost.evil.example"],
        ["127.0.0.1.nip.io"],
        ["127.0.0.2"],
        ["192.168.1.7:8000"],
        ["localhost@evil.example"],
        ["evil.example@localhost"],
        ["localhost/evil"],
        ["[::1"],
        ["[::1]evil"],
        ["localhost:port"],
        ["localhost evil"],
        ["localhost\xe9"],
        [HOST, HOST],
        [HOST, "evil.example"],
        ["2130706433"],
    ],
)
def test_a_foreign_name_is_refused_as_of_a_page_that_let_it_point_here(hosts, kind):
    found, _ = tried([("Host", host) for host in hosts], kind=kind)
    assert found == ("400" if kind == "http" else "closed")


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ([("Origin", f"http://{HOST}")], True),
        ([("Origin", f"https://{HOST}")], True),  # of a proxy that ends TLS
        ([("Origin", "null")], False),
        ([("Origin", "")], False),
        ([("Origin", "http://evil.example")], False),
        ([("Origin", "http://127.0.0.1:8001")], False),
        ([("Origin", "http://localhost:8000")], False),
        ([("Origin", "http://[")], False),
        ([("Origin", f"http://{HOST}"), ("Origin", "http://evil.example")], False),
        ([("Sec-Fetch-Site", "same-origin")], True),
        ([("Sec-Fetch-Site", "none")], True),
        ([("Sec-Fetch-Site", "cross-site")], False),
        ([("Sec-Fetch-Site", "same-site")], False),
        ([("Sec-Fetch-Site", "none"), ("Sec-Fetch-Site", "cross-site")], False),
    ],
)
def test_only_pages_of_this_server_may_ask(headers, passes, kind):
    found, _ = tried([("Host", HOST), *headers], kind=kind)
    assert found == ("passed" if passes else "403" if kind == "http" else "closed")


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ([("Authorization", f"Bearer {TOKEN}")], True),
        ([("Authorization", f"bearer  {TOKEN} ")], True),
        ([("Authorization", basic("any", TOKEN))], True),
        ([("Cookie", f"other=1; smalti-8000={TOKEN}")], True),
        ([], False),
        ([("Authorization", "Bearer")], False),
        ([("Authorization", "Bearer wrong")], False),
        ([("Authorization", f"Bearer {TOKEN}x")], False),
        ([("Authorization", "Bearer \xe9")], False),
        ([("Authorization", f"Token {TOKEN}")], False),
        ([("Authorization", basic(TOKEN, ""))], False),
        ([("Authorization", "Basic ####")], False),
        ([("Cookie", f"smalti-8001={TOKEN}")], False),
        ([("Cookie", f"smalti-8000={TOKEN}x")], False),
        ([("Cookie", "[]{};;==")], False),
    ],
)
def test_a_token_is_asked_for(headers, passes, kind):
    found, told = tried([("Host", HOST), *headers], Serving(token=TOKEN), kind)
    assert found == ("passed" if passes else "401" if kind == "http" else "closed")
    if found == "401":
        assert told["www-authenticate"] == "Bearer"


def test_a_token_in_the_address_becomes_a_cookie_that_scripts_cannot_read():
    serving, host = Serving(token=TOKEN), [("Host", HOST)]
    status, headers = tried(host, serving, query=f"token={TOKEN}")
    assert (status, headers["location"]) == ("303", "/")
    cookie = headers["set-cookie"].lower()
    assert cookie.startswith(f"smalti-8000={TOKEN};")
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert tried(host, serving, query="token=wrong")[0] == "401"
    assert tried(host, serving, "websocket", query=f"token={TOKEN}")[0] == "closed"
    elsewhere = tried(host, serving, path="//evil.example/", query=f"token={TOKEN}")[1]["location"]
    assert elsewhere == "/evil.example/"


def test_a_token_does_not_stand_for_host_and_origin():
    shown = ("Authorization", f"Bearer {TOKEN}")
    assert tried([("Host", "evil.example"), shown], Serving(token=TOKEN))[0] == "400"
    assert tried([("Host", HOST), ("Origin", "null"), shown], Serving(token=TOKEN))[0] == "403"


def test_health_is_told_without_a_token_and_figures_are_not():
    serving, host = Serving(token=TOKEN), [("Host", HOST)]
    assert tried(host, serving, path="/health/live")[0] == "passed"
    assert tried(host, serving, path="/health/ready")[0] == "passed"
    assert tried(host, serving, path="/metrics")[0] == "401"


def test_an_open_server_is_known_by_addresses_and_by_the_names_it_is_given():
    serving = Serving(host="0.0.0.0", token=TOKEN, allow_hosts=("Pictures.example.org",))
    shown = ("Authorization", f"Bearer {TOKEN}")
    for name in ("192.168.1.7:8000", "pictures.example.org", "localhost"):
        assert tried([("Host", name), shown], serving)[0] == "passed"
    assert tried([("Host", "other.example.org"), shown], serving)[0] == "400"


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": "0.0.0.0"},
        {"host": "::"},
        {"host": "pictures.example.org"},
        {"host": ""},
        {"token": "short"},
        {"token": "with spaces in it 123"},
        {"token": "ünicode-token-of-some-length"},
        {"allow_hosts": ("*",)},
        {"allow_hosts": ("http://a.example",)},
        {"allow_hosts": ("a.example:8000",)},
        {"port": 65536},
        {"max_queue": 0},
        {"timeout": float("nan")},
        {"drain": 0.0},
    ],
)
def test_settings_that_would_leave_it_open_or_dead_are_refused(wrong):
    with pytest.raises(UsageError):
        Serving(**wrong)


def test_loopback_is_this_machine_alone():
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.example.org", "")))


def test_a_token_is_read_from_a_file(tmp_path: Path):
    (file := tmp_path / "token").write_text(f"{TOKEN}\n")
    assert read_token(file) == TOKEN
    for content in (b"", b"\n", b"\xff\xfe", b"x" * 5000):
        file.write_bytes(content)
        with pytest.raises(UsageError, match="one line"):
            read_token(file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_token(tmp_path / "none")


@pytest.fixture(scope="module")
def guarded(tiny_bundle: Path, tiny: smalti.Generator):
    with hosted(Serving(token=TOKEN), [str(tiny_bundle)], lambda bundle: tiny) as server:
        yield server


def raw(server: Hosted, *lines: str) -> str:
    """The first lines of the answer to a request as it is written here."""
    host, port = server.url.removeprefix("http://").split(":")
    closing = () if "Connection: Upgrade" in lines else ("Connection: close",)
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall("\r\n".join((*lines, *closing, "", "")).encode("latin-1"))
        content = b""
        while piece := connection.recv(2**16):
            content += piece
    return content.decode("latin-1").partition("\r\n\r\n")[0]


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["GET /api/capabilities HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {TOKEN}"], 200),
        (["GET /api/capabilities HTTP/1.1", "Host: 127.0.0.1"], 401),
        (["GET /api/capabilities HTTP/1.1", "Host: evil.example", f"Authorization: Bearer {TOKEN}"], 400),
        (["GET /api/capabilities HTTP/1.1", "Host: 127.0.0.1", "Host: 127.0.0.1"], 400),
        (["GET http://evil.example/ HTTP/1.1", "Host: evil.example"], 400),
        (["GET /docs/files/../../../../etc/passwd HTTP/1.1", "Host: localhost", f"Authorization: Bearer {TOKEN}"], 404),
        (["GET /docs/files/%2e%2e/__init__.py HTTP/1.1", "Host: localhost", f"Authorization: Bearer {TOKEN}"], 404),
        (
            [
                "GET /ws HTTP/1.1",
                "Host: evil.example",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                "Connection: Upgrade",
            ],
            403,
        ),
    ],
)
def test_requests_over_a_real_connection(lines, status, guarded):
    head = raw(guarded, *lines)
    assert int(head.split()[1]) == status, head
    told = head.lower()
    assert "access-control-allow" not in told
    assert "server:" not in told


def test_every_answer_says_that_nobody_may_frame_or_sniff_it(guarded):
    head = raw(guarded, "GET /docs HTTP/1.1", "Host: localhost", f"Authorization: Bearer {TOKEN}").lower()
    for header in ("content-security-policy", "x-content-type-options: nosniff", "x-frame-options: deny"):
        assert header in head
    assert "http:" not in head
    assert "https:" not in head
