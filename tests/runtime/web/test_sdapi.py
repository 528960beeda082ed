"""What Open WebUI asks of AUTOMATIC1111's web UI, in the order in which it asks."""

from __future__ import annotations

import json

import pytest

from helpers.web_pictures import same


def test_open_webui_finds_the_models_chooses_one_and_draws(client, avatars, tiny):
    assert client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "tiny"
    models = client.get("/sdapi/v1/sd-models").json()
    assert [(one["title"], one["model_name"]) for one in models] == [("tiny", "tiny"), ("avatars", "avatars")]
    assert client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "avatars"}).status_code == 200
    try:
        assert client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "avatars"
        body = {
            "prompt": "planets",
            "batch_size": 2,
            "width": 512,
            "height": 512,
            "steps": 2,
            "negative_prompt": "dark",
        }
        answer = client.post("/sdapi/v1/txt2img", json=body).json()
    finally:
        client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "tiny"})
    info = json.loads(answer["info"])
    assert info["all_seeds"] == [info["seed"], info["seed"] + 1]
    result = avatars.generate(2, info["seed"], label="planets", resolution=512, steps=2)
    assert all(same(one, image) for one, image in zip(answer["images"], result.images))
    assert info["infotexts"][0].startswith("planets\nSteps: 2, Sampler: absorbing")


def test_a_seed_and_guidance_are_the_librarys(client, tiny):
    body = {"prompt": tiny.labels[1], "seed": 5, "cfg_scale": 2.5, "steps": 3, "n_iter": 2, "sampler_name": "Euler a"}
    answer = client.post("/sdapi/v1/txt2img", json=body).json()
    result = tiny.generate(2, 5, label=tiny.labels[1], guidance=2.5, steps=3)
    assert all(same(one, image) for one, image in zip(answer["images"], result.images))


def test_a_request_may_name_its_bundle_and_want_no_images(client):
    body = {"override_settings": {"sd_model_checkpoint": "avatars"}, "steps": 1, "send_images": False}
    answer = client.post("/sdapi/v1/txt2img", json=body).json()
    assert answer["images"] == []
    assert json.loads(answer["info"])["sd_model_name"] == "avatars"


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"prompt": "a cat"}, 400, "lorelei"),
        ({"width": 100}, 400, "64x64"),
        ({"batch_size": 9, "n_iter": 9}, 400, "16"),
        ({"override_settings": {"sd_model_checkpoint": "sdxl"}}, 404, "tiny"),
        ({"override_settings": {"sd_model_checkpoint": 3}}, 400, "name"),
    ],
)
def test_errors_say_what_is_allowed(body, status, told, client):
    answer = client.post("/sdapi/v1/txt2img", json=body)
    assert (answer.status_code, told in answer.json()["error"]["message"]) == (status, True), answer.text


def test_samplers_and_schedulers_are_listed(client):
    assert client.get("/sdapi/v1/samplers").json()[0]["name"]
    assert client.get("/sdapi/v1/schedulers").json()[0]["name"]
    assert client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "sdxl"}).status_code == 404
