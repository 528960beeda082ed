"""smalti's own calls over HTTP: every answer is the library's."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest

import smalti
from helpers.web_pictures import half_mask, opened, same, text_of

WAYS = ("inpaint", "outpaint", "vary")


def asked(client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(f"/api/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(client, path: str, body: dict[str, Any]) -> list[tuple[str, Any]]:
    answer = client.post(f"/api/{path}", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
    pairs = [block.split("\n", 1) for block in answer.text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in pairs]


@pytest.fixture(scope="module")
def picture(tiny):
    return tiny.generate(seed=3).images[0]


@pytest.fixture(scope="module")
def bodies(picture):
    """Of each call that begins from a picture: its body, and what the library is asked."""
    mask = half_mask(picture.size)
    common = {"seed": 5, "count": 2, "steps": 4}
    return {
        "inpaint": ({"mask": text_of(mask), "feather": 3}, {"mask": mask, "feather": 3}, common),
        "outpaint": ({"right": 32, "top": 16}, {"right": 32, "top": 16}, common),
        "vary": ({"strength": 0.5}, {"strength": 0.5}, common),
    }


def test_generated_pictures_are_the_librarys_and_can_be_replayed(client, tiny, tmp_path):
    wanted = {"count": 3, "seed": 11, "label": tiny.labels[2], "steps": 5, "temperature": 0.9, "size": [96, 64]}
    answer = asked(client, "generate", {**wanted, "format": "png"})
    result = tiny.generate(**{**wanted, "size": (96, 64)})
    assert (answer["bundle"], answer["width"], answer["height"]) == ("tiny", 96, 64)
    assert [one["seed"] for one in answer["pictures"]] == [11, 12, 13]
    assert {one["label"] for one in answer["pictures"]} == {tiny.labels[2]}
    for one, image in zip(answer["pictures"], result.images):
        assert same(one["data"], image)
    (tmp_path / "one.png").write_bytes(base64.b64decode(answer["pictures"][1]["data"]))
    recipe = smalti.read_recipe(tmp_path / "one.png")
    assert recipe.seeds == (12,)
    again = asked(client, "replay", {"source": answer["pictures"][1]["data"]})
    assert same(again["pictures"][0]["data"], result.images[1])


def test_labels_and_seeds_may_be_lists(client, tiny):
    labels, seeds = list(tiny.labels[:2]), [2**64 - 1, 0]
    answer = asked(client, "generate", {"seeds": seeds, "label": labels, "steps": 2})
    result = tiny.generate(seeds=seeds, label=labels, steps=2)
    assert [one["seed"] for one in answer["pictures"]] == seeds
    assert all(same(one["data"], image) for one, image in zip(answer["pictures"], result.images))


@pytest.mark.parametrize("method", WAYS)
def test_what_begins_from_a_picture_is_the_librarys(method, client, tiny, picture, bodies):
    sent, given, common = bodies[method]
    answer = asked(client, method, {"image": text_of(picture), **sent, **common})
    result = getattr(tiny, method)(picture, **given, **common)
    assert all(same(one["data"], image) for one, image in zip(answer["pictures"], result.images))


@pytest.mark.parametrize("method", ["generate", *WAYS])
def test_streams_tell_steps_and_end_with_the_same_answer(method, client, picture, bodies):
    sent, _, common = bodies.get(method, ({}, {}, {"seed": 5, "count": 2, "steps": 4}))
    body = {**({"image": text_of(picture)} if method in WAYS else {}), **sent, **common}
    *steps, (last, done) = events(client, f"{method}/stream", body)
    assert last == "done"
    whole = asked(client, method, body)
    assert done["pictures"] == whole["pictures"]
    assert {name for name, _ in steps} <= {"step"}
    for _, step in steps:
        assert step["index"] < step["total"]
        assert len(step["previews"]) == 1
        assert opened(step["previews"][0]).format == "JPEG"


def test_an_error_of_a_stream_has_its_status(client):
    answer = client.post("/api/generate/stream", json={"steps": 10**6})
    assert answer.status_code == 400
    assert "steps" in answer.json()["error"]["message"]


def test_encode_decode_and_embed_are_the_librarys(client, tiny, picture):
    tokens = asked(client, "encode", {"images": [text_of(picture)]})["tokens"]
    assert np.array_equal(tokens, tiny.encode([picture]))
    decoded = asked(client, "decode", {"tokens": tokens, "box": [0, 0, 32, 16]})["pictures"]
    assert same(decoded[0], tiny.decode(np.array(tokens), box=(0, 0, 32, 16))[0])
    answer = client.post("/api/embed", json={"images": [text_of(picture)]})
    assert np.allclose(answer.json()["features"], tiny.embed([picture]))


@pytest.mark.parametrize(("accept", "format"), [("image/png", "png"), ("image/*", "webp"), ("image/jpeg", "jpeg")])
def test_who_accepts_a_picture_gets_the_file(accept, format, client, tiny):
    body = {"count": 2, "seed": 4, "steps": 2, "format": format}
    answer = client.post("/api/generate", json=body, headers={"Accept": accept})
    assert answer.headers["content-type"] == f"image/{format}"
    tiny.generate(2, 4, steps=2).save(sheet := io.BytesIO(), format=format)
    assert same(answer.content, sheet.getvalue())


def test_bundles_are_chosen_by_name_and_an_unknown_one_is_told(client, avatars):
    answer = asked(client, "generate", {"bundle": "avatars", "seed": 7, "steps": 2, "resolution": 512})
    assert same(answer["pictures"][0]["data"], avatars.generate(seed=7, steps=2, resolution=512).images[0])
    refused = client.post("/api/generate", json={"bundle": "other"})
    assert refused.status_code == 404
    assert "tiny, avatars" in refused.json()["error"]["message"]


def test_capabilities_say_what_may_be_asked(client, tiny):
    answer = client.get("/api/capabilities").json()
    first = answer["bundles"][0]
    assert (first["name"], first["labels"], first["ready"]) == ("tiny", list(tiny.labels), True)
    assert {"generate", "inpaint", "decode", "encode"} <= set(first["calls"])
    assert {option["name"] for option in first["options"]} >= {"steps", "temperature", "order"}
    assert answer["limits"]["count"] == 16


@pytest.mark.parametrize(
    ("path", "body", "status", "named"),
    [
        ("generate", {"label": "dog"}, 400, "lorelei"),
        ("generate", {"count": 17}, 400, "16"),
        ("generate", {"steps": 0}, 400, "steps"),
        ("generate", {"threads": 100}, 400, "threads"),
        ("generate", {"size": [100, 64]}, 400, "96x64"),
        ("generate", {"size": [2**14, 2**14]}, 400, "pixels"),
        ("generate", {"format": "gif"}, 400, "format"),
        ("inpaint", {"image": "////", "mask": "////"}, 400, "image"),
        ("inpaint", {"image": "no base64!", "mask": "////"}, 400, "base64"),
        ("decode", {"tokens": [[[1, 2], [3]]]}, 400, "rows"),
        ("decode", {"tokens": [[[10**30]]]}, 400, "tokens"),
        ("decode", {"tokens": [[[1]]] * 17}, 400, "16"),
        ("encode", {"images": ["////"] * 17}, 400, "16"),
        ("replay", {"source": "////"}, 400, "source"),
    ],
)
def test_what_is_not_allowed_is_told_with_what_is(path, body, status, named, client):
    answer = client.post(f"/api/{path}", json=body)
    assert answer.status_code == status, answer.text
    told = answer.json()["error"]["message"]
    assert named in told
    assert "smalti.Limits" not in told  # that is for whoever loads a bundle
