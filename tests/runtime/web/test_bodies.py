"""Bodies that nobody should send: too large, too deep, no JSON, bombs. None is an error of the server."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import smalti
from helpers.served import hosted
from helpers.web_pictures import bomb, text_of
from smalti.web import bodies
from smalti.web.serving import Serving, default_limits

JSON = {"Content-Type": "application/json"}


def told(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize("path", ["/api/generate", "/v1/images/generations", "/sdapi/v1/txt2img"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"1",
        b'"\xff\xfe"',
        b'{"prompt": "\xff"}',
        b"[" * 100_000,
        b'{"steps":' * 50_000,
        b'{"seed": 1e999}',
        b'{"seed": %s}' % (b"1" * 400),
        b'{"seed": %s}' % (b"1" * 5000),
        b'{"steps": %s}' % (b"1" * 400),
        b'{"count": %s, "n": %s, "batch_size": %s}' % ((b"1" * 400,) * 3),
        b'{"guidance": NaN, "cfg_scale": NaN}',
        b'{"guidance": 1e999, "cfg_scale": Infinity}',
        b'{"seed": -1e400, "n": true, "width": true}',
        b'{"label": "\\ud800", "prompt": "\\ud800"}',
        b'{"prompt": "\\u0000", "label": "\\u0000"}',
        b'{"user": {}, "\\ud800": 1, "width": {}}',
        gzip.compress(b'{"steps": 1}', mtime=0),
    ],
    ids=lambda content: content[:20].decode("latin-1") if isinstance(content, bytes) else None,
)
def test_content_that_is_not_allowed_is_refused(path, content, client):
    answer = client.post(path, content=content, headers=JSON)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("label", [10**400, -1, True, "x" * 10**6, ["a"] * 10**5, [[]], {"a": 1}, 1.5, ""])
def test_labels_of_any_kind_are_told_in_a_line(label, client):
    answer = client.post("/api/generate", json={"label": label, "steps": 1})
    assert told(answer)[0] == 400
    assert len(answer.content) < 2000


@pytest.mark.parametrize("name", ["temperature", "top_k", "top_p", "guidance", "steps", "stride", "resolution", "seed"])
@pytest.mark.parametrize("value", ["-1", "1e308", "-0.0", "1" * 300, '"7"', "[]", "{}", "1e-320", "true"])
def test_options_out_of_range_are_refused_or_drawn(name, value, client):
    answer = client.post("/api/generate", content=f'{{"steps": 1, "{name}": {value}}}', headers=JSON)
    assert answer.status_code in (200, 400), answer.text


@pytest.fixture(scope="module")
def small(tiny_bundle: Path, tiny: smalti.Generator):
    """A server that reads 100 kB and draws small pictures."""
    limits = replace(default_limits(), pixels=2**16, all_pixels=2**18)
    with hosted(Serving(max_body=100_000, limits=limits), [str(tiny_bundle)]) as server:
        yield server


def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_read(small):
    host, port = small.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        head = "POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 100001\r\n\r\n".encode())
        started = time.monotonic()
        answer = ""
        while "too_large" not in answer and (piece := connection.recv(2**16)):  # head and body may come one by one
            answer += piece.decode()
    assert answer.startswith("HTTP/1.1 413")
    assert time.monotonic() - started < 5
    assert "too_large" in answer


def test_a_body_without_a_length_is_refused_once_it_is_too_large(small):
    def endless():
        for _ in range(10_000):
            yield b" " * 10_000

    with httpx.Client(trust_env=False) as client:
        with contextlib.suppress(httpx.WriteError):  # it may close while more is on its way
            assert told(client.post(f"{small.url}/api/generate", content=endless(), headers=JSON)) == (413, "too_large")
        files = {"image": ("a.png", b"x" * 90_000), "mask": ("b.png", b"x" * 90_000)}
        assert told(client.post(f"{small.url}/v1/images/edits", files=files)) == (413, "too_large")
        assert client.post(f"{small.url}/api/generate", json={"steps": 1}).status_code == 200


def test_a_body_that_does_not_come_is_given_up(small, monkeypatch):
    monkeypatch.setattr(bodies, "SENDING_S", 0.3)
    host, port = small.url.removeprefix("http://").split(":")
    for path in ("/api/generate", "/v1/images/edits"):
        with socket.create_connection((host, int(port)), 10) as connection:
            kind = "multipart/form-data; boundary=x" if "edits" in path else "application/json"
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 100\r\n\r\n"
            connection.sendall(head.encode())
            assert connection.recv(2**16).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("size", [(20000, 20000), (13000, 13000), (65535, 65535), (1000, 1)])
def test_a_picture_that_says_it_is_huge_is_refused_soon_and_without_memory(size, client, server):
    content = bomb(*size)
    assert len(content) < 10_000
    text, process = base64.b64encode(content).decode(), psutil.Process(server.process.pid)
    before, started = process.memory_info().rss, time.monotonic()
    asked: list[Any] = [
        client.post("/api/vary", json={"image": text}),
        client.post("/api/inpaint", json={"image": text, "mask": text}),
        client.post("/api/encode", json={"images": [text]}),
        client.post("/api/replay", json={"source": text}),
        client.post("/v1/images/edits", files={"image": ("a.png", content)}, data={"strength": "0.5"}),
        client.post("/v1/images/edits", files={"image": ("a.png", content), "mask": ("a.png", content)}),
    ]
    assert [answer.status_code for answer in asked] == [400] * len(asked)
    assert time.monotonic() - started < 10
    assert process.memory_info().rss - before < 64 * 2**20


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM"])
def test_pictures_of_other_kinds_are_not_read(kind, client, tiny):
    tiny.generate(seed=1, steps=1).images[0].save(buffer := io.BytesIO(), kind)
    answer = client.post("/api/vary", json={"image": base64.b64encode(buffer.getvalue()).decode()})
    assert told(answer)[0] == 400
    assert "image" in answer.json()["error"]["message"]


def test_damaged_pictures_are_told(client, tiny):
    whole = base64.b64decode(text_of(tiny.generate(seed=1, steps=1).images[0]))
    for end in range(0, len(whole), max(1, len(whole) // 30)):
        text = base64.b64encode(whole[:end]).decode()
        answer = client.post("/api/vary", json={"image": text, "steps": 1})
        assert answer.status_code in (400, 200), answer.text


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("application/json", json.dumps({"image": "x"}).encode()),
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--"),
        ("multipart/form-data; boundary=x", b"--x"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\nabc\r\n--x--'),
        ("application/x-www-form-urlencoded", b"image=abc&mask=def"),
        ("text/plain", b"\xff" * 100),
    ],
)
def test_forms_that_are_none_are_refused(kind, content, client):
    answer = client.post("/v1/images/edits", content=content, headers={"Content-Type": kind})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


def test_forms_of_many_fields_or_files_are_refused(client):
    many = {f"field{index}": "x" for index in range(200)}
    assert client.post("/v1/images/edits", files={"image": b"x"}, data=many).status_code == 400
    files = [("image", (f"{index}.png", b"x")) for index in range(50)]
    assert client.post("/v1/images/edits", files=files).status_code == 400
    long = {"prompt": "x" * 2**20}
    assert client.post("/v1/images/edits", files={"image": b"x"}, data=long).status_code == 400


def test_methods_and_paths_that_there_are_not(client):
    assert told(client.get("/api/generate")) == (405, "method_not_allowed")
    assert "allowed: POST" in client.get("/api/generate").json()["error"]["message"]
    assert told(client.get("/none")) == (404, "not_found")
    assert "/docs" in client.get("/none").json()["error"]["message"]
    assert client.get("/", follow_redirects=True).text.startswith("<!doctype html>")
    assert client.request("BREW", "/api/generate").status_code == 405
    assert client.options("/api/generate", headers={"Access-Control-Request-Method": "POST"}).status_code == 405


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("application/x-www-form-urlencoded", b'{"seed": 1}', "Content-Type: application/json, and here it is applic"),
        ("text/plain", b'{"seed": 1}', "Content-Type: application/json, and here it is text/plain"),
        ("", b'{"seed": 1}', "Content-Type: application/json, and here it is absent"),
        ("application/json", b"{bad", "no JSON: Expecting property name enclosed in double quotes, at character 1"),
        ("application/json", b"", "needed"),
        (
            "application/json",
            b'{"step": 3}',
            "step: there is no such field; is steps meant? There are temperature, top_k",
        ),
        ("application/json", b'{"zzzz": 3}', "zzzz: there is no such field; there are temperature, top_k"),
        ("application/json", b'{"size": "large"}', "size: width and height in pixels are needed, such as [512, 256]"),
        ("application/json", b'{"size": [1, 2, 3]}', "size"),
        ("application/json", b'{"size": [1000000, 1000000]}', "at most 16384 patches of 16x16 pixels"),
    ],
)
def test_bodies_that_beginners_send_are_told_what_to_do(kind, content, message, client):
    answer = client.post("/api/generate", content=content, headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_a_size_may_be_a_text(client):
    both = [client.post("/api/generate", json={"size": size, "steps": 1}).json() for size in ("128x64", [128, 64])]
    assert both[0]["pictures"] == both[1]["pictures"]
    assert (both[0]["width"], both[0]["height"]) == (128, 64)
