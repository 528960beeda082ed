"""The studio's socket without a browser: what a page may send, and what it is told."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from websockets.sync.client import ClientConnection, connect

import smalti
from helpers.served import Hosted, figure, hosted, wait_until
from helpers.web_pictures import bomb, file_of, half_mask, pixels, same
from smalti.errors import OutputError
from smalti.web.serving import Serving, default_limits
from smalti.web.studio.frames import packed
from smalti.web.studio.gallery import Gallery

Told = tuple[dict[str, Any], list[bytes]]


def null(bundle: smalti.Bundle) -> smalti.Generator:
    return smalti.Generator(bundle, smalti.NullBackend(), limits=default_limits())


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    gallery = Gallery(tmp_path_factory.mktemp("studio") / "gallery")
    with hosted(Serving(), ["avatars"], null, gallery) as started:
        yield started


@pytest.fixture
def socket(host: Hosted) -> Iterator[ClientConnection]:
    with opened(host) as connection:
        yield connection


@pytest.fixture
def client(host: Hosted) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=host.url, trust_env=False) as client:
        yield client


def opened(host: Hosted) -> ClientConnection:
    return connect(f"{host.url.replace('http', 'ws')}/studio/socket", proxy=None, max_size=2**26)


def receive(socket: ClientConnection) -> Told:
    frame = socket.recv(30)
    assert isinstance(frame, bytes)
    place = 4 + struct.unpack_from("<I", frame)[0]
    header = json.loads(frame[4:place])
    files: list[bytes] = []
    for _, size in header["files"]:
        files.append(frame[place : place + size])
        place += size
    return header, files


def end(socket: ClientConnection, number: int) -> Told:
    """Read on to the end of the draw of a number."""
    while True:
        header, files = receive(socket)
        if header["id"] == number and header["is"] in ("done", "failed", "stopped"):
            return header, files


def ask(socket: ClientConnection, number: int, files: dict[str, bytes] | None = None, **about: Any) -> None:
    socket.send(packed({"do": "draw", "id": number, **about}, list((files or {}).items())))


def test_a_draw_waits_begins_steps_and_is_the_librarys(socket: ClientConnection, host: Hosted) -> None:
    ask(socket, 7, seed="3", count=2, label="planets", options={"steps": 3, "resolution": 512})
    kinds: list[str] = []
    while (told := receive(socket))[0]["is"] != "done":
        kinds.append(told[0]["is"])
    header, files = told
    wanted = host.app.state.desk.shelf.entries[0].ready.generate(2, 3, label="planets", steps=3, resolution=512)
    assert kinds[:2] == ["waits", "begun"]
    assert set(kinds[2:]) <= {"step"}
    assert all(same(file, image) for file, image in zip(files, wanted.images, strict=True))
    assert [one["seed"] for one in header["pictures"]] == ["3", "4"]
    assert set(header["seconds"]) == {"network", "draw", "decoder", "host"}


def test_a_new_draw_ends_the_one_before(socket: ClientConnection, client: httpx.Client) -> None:
    before = figure(client, "smalti_cancelled_total")
    ask(socket, 1, options={"steps": 1000}, count=16)
    while receive(socket)[0]["is"] != "step":
        pass
    ask(socket, 2, options={"steps": 1})
    assert end(socket, 1)[0]["is"] == "stopped"
    assert end(socket, 2)[0]["is"] == "done"
    assert figure(client, "smalti_cancelled_total") == before + 1


def test_stopping_and_leaving_end_the_work(host: Hosted, client: httpx.Client) -> None:
    with opened(host) as socket:
        ask(socket, 1, options={"steps": 1000}, count=16)
        while receive(socket)[0]["is"] != "step":
            pass
        socket.send(packed({"do": "stop", "id": 1}))
        assert end(socket, 1)[0]["is"] == "stopped"
        wait_until(lambda: figure(client, "smalti_places_taken") == 0, 3)
        ask(socket, 2, options={"steps": 1000}, count=16)
        while receive(socket)[0]["is"] != "step":
            pass
    wait_until(lambda: figure(client, "smalti_places_taken") == 0, 3)


def test_what_was_painted_on_is_kept_so_that_it_can_be_drawn_again(socket: ClientConnection, host: Hosted) -> None:
    gallery: Gallery = host.app.state.gallery
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8))
    mask = half_mask((256, 256))
    ask(socket, 1, {"image": file_of(image), "mask": file_of(mask)}, call="inpaint", options={"steps": 2})
    header, (made,) = end(socket, 1)
    assert np.array_equal(pixels(made)[:, 128:], pixels(image)[:, 128:])
    (about,) = header["pictures"]
    for named, content in ((about["recipe"]["image"], file_of(image)), (about["recipe"]["mask"], file_of(mask))):
        assert (path := gallery.inputs.find(named)) is not None
        assert path.read_bytes() == content

    socket.send(packed({"do": "replay", "id": 2, "name": about["name"]}))
    header, (again,) = end(socket, 2)
    assert again == made
    shutil.rmtree(gallery.inputs.folder)
    socket.send(packed({"do": "replay", "id": 3}, [("source", made)]))
    assert end(socket, 3)[0]["code"] == "needs_input"
    given = [("source", made), ("image", file_of(image)), ("mask", file_of(mask))]
    socket.send(packed({"do": "replay", "id": 4}, given))
    assert end(socket, 4)[1] == [made]


@pytest.mark.parametrize(
    ("about", "files", "status", "says"),
    [
        ({"label": "dragons"}, {}, 400, "planets"),
        ({"options": {"steps": 10**6}}, {}, 400, "1000"),
        ({"count": 17}, {}, 400, "16"),
        ({"bundle": "other"}, {}, 404, "avatars"),
        ({"call": "inpaint"}, {}, 400, "image"),
        ({"call": "vary"}, {"image": b"no picture"}, 400, "image"),
        ({"call": "vary"}, {"image": bomb(60_000, 60_000)}, 400, "pixels"),
        ({"call": "vary", "fit": "squeeze"}, {"image": file_of(Image.new("RGB", (256, 256)))}, 400, "pad"),
        ({"call": "outpaint", "left": 3}, {"image": file_of(Image.new("RGB", (256, 256)))}, 400, "multiples"),
        ({"call": "outpaint", "left": 10**6}, {"image": file_of(Image.new("RGB", (256, 256)))}, 400, "pixels"),
    ],
    ids=str,
)
def test_what_is_wrong_is_told_and_the_tab_goes_on(
    socket: ClientConnection, about: dict[str, Any], files: dict[str, bytes], status: int, says: str
) -> None:
    ask(socket, 1, files, **about)
    header, _ = end(socket, 1)
    assert (header["is"], header["status"]) == ("failed", status)
    assert says in header["message"]
    ask(socket, 2, options={"steps": 1})
    assert end(socket, 2)[0]["is"] == "done"


def test_frames_of_another_kind_are_told(socket: ClientConnection) -> None:
    for frame in ("text", b"", b"\xff\xff\xff\xff", b"\x02\0\0\0[]", packed({"do": "fly", "id": 1})):
        socket.send(frame)
        header, _ = receive(socket)
        assert (header["is"], header["id"], header["code"]) == ("failed", 0, "invalid_value")


def test_a_picture_that_cannot_be_kept_is_shown_all_the_same(
    socket: ClientConnection, host: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(result: smalti.Result, which: int, content: bytes) -> str:
        raise OutputError("cannot write a.png: No space left on device")

    monkeypatch.setattr(host.app.state.gallery, "keep", full)
    ask(socket, 1, options={"steps": 1}, count=2)
    header, files = end(socket, 1)
    assert "No space left" in header["unkept"]
    assert [one["name"] for one in header["pictures"]] == [None, None]
    assert len(files) == 2


def test_the_gallery_is_served_with_small_copies_and_nothing_else(client: httpx.Client, tmp_path: Path) -> None:
    listed = client.get("/studio/gallery").json()
    name = listed["pictures"][0]["name"]
    assert client.get(f"/studio/gallery/{name}").headers["content-type"] == "image/png"
    assert client.get(f"/studio/gallery/{name}/thumb").headers["content-type"] == "image/jpeg"
    for path in ("..%2f..%2fetc%2fpasswd", "%2e%2e", "inputs", "a.png", "..%5ca.png"):
        for end_of in ("", "/thumb"):
            assert client.get(f"/studio/gallery/{path}{end_of}").status_code == 404
        assert client.delete(f"/studio/gallery/{path}").status_code in (404, 405)
    assert client.get("/studio/inputs/..%2f..%2fa").status_code == 404
    for path in ("../gallery.py", "%2e%2e/gallery.py", "..%2fgallery.py"):
        assert client.get(f"/studio/page/{path}").status_code == 404
    assert "text/javascript" in client.get("/studio/page/main.js").headers["content-type"]
