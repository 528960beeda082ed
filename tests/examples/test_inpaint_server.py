"""The example inpaint_server.py, in a process of its own, asked as an app asks it."""

from __future__ import annotations

import base64
import http.client
import io
import json
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import smalti


def coded(picture: Image.Image) -> str:
    """A picture as a PNG in base64."""
    picture.save(buffer := io.BytesIO(), format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def asked(url: str, body: bytes | dict[str, Any]) -> tuple[int, bytes, Any]:
    """Status, content and headers of an answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, content), timeout=60) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


@pytest.fixture
def serve(start: Callable[..., Any]):
    """Start the server; the process, and its address."""

    def serve(*arguments: object) -> tuple[Any, str]:
        process = start("inpaint_server.py", "--port", 0, *arguments)
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), line + process.stderr.read()
        return process, line.split()[-1]

    return serve


@pytest.fixture
def server(serve: Callable[..., tuple[Any, str]], tiny_bundle: Path) -> tuple[Any, str]:
    return serve("--bundle", tiny_bundle)


@pytest.fixture(scope="module")
def wanted(gen: smalti.Generator) -> dict[str, Any]:
    """A request."""
    picture = gen.generate(seed=3).images[0]
    mask = np.zeros((64, 64), np.bool_)
    mask[10:40, 20:50] = True
    return {"image": coded(picture), "mask": coded(Image.fromarray(mask)), "seed": 5, "label": gen.labels[1]}


def test_pixels_outside_the_mask_are_kept_and_the_picture_is_that_of_inpaint(server, wanted, gen):
    status, content, headers = asked(server[1], wanted)
    assert (status, headers["Content-Type"]) == (200, "image/png"), content
    image, mask = (Image.open(io.BytesIO(base64.b64decode(wanted[name]))) for name in ("image", "mask"))
    found, before, repaint = np.asarray(Image.open(io.BytesIO(content))), np.asarray(image), np.asarray(mask)
    assert np.array_equal(found[~repaint], before[~repaint])
    assert not np.array_equal(found[repaint], before[repaint])
    same = gen.inpaint(image, mask, seed=5, label=wanted["label"]).images[0]
    assert np.array_equal(found, np.asarray(same))


def test_wrong_requests_are_told_what_is_wrong_and_the_server_goes_on(server, wanted):
    url, wide = server[1], Image.new("RGB", (64, 128))
    huge = {name: coded(Image.new("L", (4096, 4096), 255)) for name in ("image", "mask")}
    cases = [
        (b"{", 400, "no JSON"),
        (b"[]", 400, "an object"),
        ({"image": wanted["image"]}, 400, "an object"),
        ({**wanted, "provider": "cuda"}, 400, "no more than"),
        ({**wanted, "image": "***"}, 400, "image: a picture in base64"),
        ({**wanted, "image": 7}, 400, "image: a picture in base64"),
        ({**wanted, "mask": base64.b64encode(b"no picture").decode()}, 400, "mask: a picture"),
        ({**wanted, "image": wanted["image"][:400]}, 400, "cannot be read"),
        ({**wanted, "image": coded(wide)}, 400, "64"),
        ({**wanted, "label": "nobody"}, 400, "nobody"),
        ({**wanted, "seed": -1}, 400, "seed"),
        ({**wanted, "steps": 101}, 400, "allowed are 1 .. 100"),
        ({**wanted, "feather": "wide"}, 400, "feather"),
        (huge, 400, "pixels"),
    ]
    for body, status, told in cases:
        found = asked(url, body)
        assert found[0] == status, (body, found)
        assert told in found[1].decode(), (body, found)
    assert asked(url.replace("/inpaint", "/other"), wanted)[0] == 404
    assert asked(url, wanted)[0] == 200


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(server):
    connection = http.client.HTTPConnection(server[1].split("/")[2], timeout=30)
    connection.putrequest("POST", "/inpaint")
    connection.putheader("Content-Length", str(2**40))
    connection.endheaders()
    assert connection.getresponse().status == 413


def test_who_comes_while_it_is_busy_is_told_to_come_again_and_who_leaves_frees_it(serve):
    _, url = serve()  # the embedded bundle, which takes half a minute for the largest picture in all steps
    large, small = Image.new("RGB", (1024, 1024), "teal"), Image.new("RGB", (256, 256), "teal")
    long = {"image": coded(large), "mask": coded(Image.new("L", large.size, 255)), "steps": 100}
    short = {"image": coded(small), "mask": coded(Image.new("L", small.size, 255)), "steps": 1}
    host, port = url.split("/")[2].split(":")
    content = json.dumps(long).encode()
    with socket.create_connection((host, int(port)), timeout=30) as leaving:
        leaving.sendall(b"POST /inpaint HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
        for _ in range(20):  # one that comes first is answered
            status, told, headers = asked(url, short)
            if status == 503:
                break
        assert (status, headers["Retry-After"]) == (503, "2"), told
    started = time.monotonic()
    statuses = [asked(url, short)[0] for _ in range(3)]
    assert statuses[-1] == 200
    assert time.monotonic() - started < 15


def test_sigterm_lets_it_answer_what_it_draws_and_ends_it(server):
    process, url = server
    busy = {"image": coded(Image.new("RGB", (1024, 1024))), "steps": 100}  # more than a second
    busy["mask"] = coded(Image.new("L", (1024, 1024), 255))
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(asked, url, busy)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert answer.result()[0] == 200
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "Traceback" not in err
