"""OpenAI's own client against the server: generations, edits, streams, errors."""

from __future__ import annotations

import asyncio
import io

import numpy as np
import openai
import pytest

from helpers.web_pictures import file_of, half_mask, opened, pixels, same

STEPS = {"steps": 4}


@pytest.fixture(scope="module")
def ai(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as ai:
        yield ai


@pytest.fixture(scope="module")
def picture(tiny):
    return tiny.generate(seed=3).images[0]


def png(picture, name="image.png"):
    file = io.BytesIO(file_of(picture))
    file.name = name
    return file


def refused(call) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        call()
    return caught.value


def test_a_prompt_is_a_label_and_the_pictures_are_the_librarys(ai, tiny):
    answer = ai.images.generate(prompt=tiny.labels[3], n=2, extra_body={"seed": 9, **STEPS})
    result = tiny.generate(2, 9, label=tiny.labels[3], **STEPS)
    assert all(same(one.b64_json, image) for one, image in zip(answer.data, result.images))
    assert (answer.size, answer.output_format, len(answer.data)) == ("64x64", "png", 2)
    assert answer.created > 1.7e9
    assert answer.usage.output_tokens == result.tokens.size
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert [one.seed for one in answer.data] == [9, 10]


def test_without_a_seed_each_picture_is_another_one_and_says_its_seed(ai, tiny):
    one, other = (ai.images.generate(prompt="", extra_body=STEPS).data[0] for _ in range(2))
    assert one.seed != other.seed
    assert same(one.b64_json, tiny.generate(seed=one.seed, **STEPS).images[0])


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ("auto", {}),
        ("256x256", {"resolution": 256}),
        ("1024x1024", {"resolution": 1024}),
    ],
)
def test_a_size_is_a_resolution(size, options, ai, avatars):
    answer = ai.images.generate(prompt="planets", model="avatars", size=size, extra_body={"seed": 1, "steps": 1})
    result = avatars.generate(seed=1, steps=1, label="planets", **options)
    assert same(answer.data[0].b64_json, result.images[0])
    assert answer.size == "{}x{}".format(*result.images[0].size)


def test_another_size_is_a_canvas(ai, tiny):
    answer = ai.images.generate(prompt="", size="96x64", extra_body={"seed": 1, **STEPS})
    assert same(answer.data[0].b64_json, tiny.generate(seed=1, size=(96, 64), **STEPS).images[0])
    assert answer.size == "96x64"


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_formats_and_their_compression(format, ai, tiny):
    sizes = []
    for compression in (100, 0):
        answer = ai.images.generate(
            prompt="", output_format=format, output_compression=compression, extra_body={"seed": 2, **STEPS}
        )
        content = answer.data[0].b64_json
        assert opened(content).format == format.upper()
        sizes.append(len(content))
    assert sizes[1] < sizes[0]


def test_fields_that_mean_nothing_here_are_ignored_and_unknown_ones_refused(ai):
    ai.images.generate(
        prompt="", quality="high", style="vivid", background="auto", moderation="low", user="me", extra_body=STEPS
    )
    error = refused(lambda: ai.images.generate(prompt="", extra_body={"cfg": 3}))
    assert isinstance(error, openai.BadRequestError)
    assert error.param == "cfg"


def test_a_prompt_names_its_label_in_large_letters_too(ai, tiny):
    answers = [ai.images.generate(prompt=prompt, extra_body={"seed": 2}) for prompt in ("lorelei", " Lorelei ")]
    assert answers[0].data[0].b64_json == answers[1].data[0].b64_json


@pytest.mark.parametrize(
    ("asked", "status", "code", "param", "told"),
    [
        ({"prompt": "a cat"}, 400, "unknown_label", "prompt", "lorelei"),
        ({"prompt": "", "model": "dall-e-3"}, 404, "model_not_found", "model", "tiny, avatars"),
        ({"prompt": "", "size": "100x100"}, 400, "invalid_size", "size", "64x64"),
        ({"prompt": "", "size": "999999x999999"}, 400, "invalid_size", "size", "64x64"),
        ({"prompt": "", "size": "4096x4096"}, 400, "invalid_size", "size", "4194304 pixels"),
        ({"prompt": "", "size": "big"}, 400, "invalid_value", "size", "256x256"),
        ({"prompt": "", "n": 17}, 400, "invalid_value", None, "16"),
        ({"prompt": "", "n": 0}, 400, "invalid_body", "n", "1"),
        ({"prompt": "", "response_format": "url"}, 400, "invalid_value", "response_format", "URL"),
        ({"prompt": "", "output_format": "gif"}, 400, "invalid_body", "output_format", "png"),
        ({"prompt": "", "extra_body": {"steps": 0}}, 400, "invalid_value", None, "steps"),
        ({"prompt": "", "extra_body": {"seed": -1}}, 400, "invalid_body", "seed", "0"),
    ],
)
def test_errors_have_openais_form(asked, status, code, param, told, ai):
    error = refused(lambda: ai.images.generate(**asked))
    assert (error.status_code, error.code, error.param) == (status, code, param), error
    assert error.type == "invalid_request_error"
    assert told in error.message
    assert "smalti.Limits" not in error.message


def test_a_mask_is_transparent_where_to_repaint_and_other_pixels_stay(ai, tiny, picture):
    mask = half_mask(picture.size, transparent=True)
    answer = ai.images.edit(
        image=png(picture), mask=png(mask, "mask.png"), prompt=tiny.labels[1], n=2, extra_body={"seed": 5, **STEPS}
    )
    result = tiny.inpaint(picture, half_mask(picture.size), 2, 5, label=tiny.labels[1], **STEPS)
    assert all(same(one.b64_json, image) for one, image in zip(answer.data, result.images))
    kept = np.asarray(mask.getchannel("A")) == 255
    assert np.array_equal(pixels(answer.data[0].b64_json)[kept], pixels(picture)[kept])


def test_an_image_may_be_transparent_itself(ai, tiny, picture):
    layer = picture.convert("RGBA")
    layer.putalpha(half_mask(picture.size, transparent=True).getchannel("A"))
    for image in (png(layer), [png(layer)]):
        answer = ai.images.edit(image=image, prompt="", extra_body={"seed": 5, **STEPS})
        result = tiny.inpaint(picture, half_mask(picture.size), 1, 5, **STEPS)
        assert same(answer.data[0].b64_json, result.images[0])


def test_an_image_without_a_mask_is_varied_where_strength_is_given(ai, tiny, picture):
    answer = ai.images.edit(image=png(picture), prompt="", extra_body={"seed": 5, "strength": 0.5, **STEPS})
    assert same(answer.data[0].b64_json, tiny.vary(picture, 1, 5, strength=0.5, **STEPS).images[0])


def test_an_image_keeps_its_resolution(ai, avatars):
    large = avatars.generate(seed=3, steps=2, resolution=512).images[0]
    mask = half_mask(large.size, transparent=True)
    asked = {"seed": 5, "steps": 1}
    answer = ai.images.edit(image=png(large), mask=png(mask), prompt="", model="avatars", extra_body=asked)
    result = avatars.inpaint(large, half_mask(large.size), resolution=512, **asked)
    assert same(answer.data[0].b64_json, result.images[0])


def test_edits_that_cannot_be_are_told_why(ai, picture):
    opaque, mask = half_mask(picture.size), half_mask(picture.size, transparent=True)
    cases = [
        ({"mask": png(opaque)}, "invalid_mask", "transparent"),
        ({}, "invalid_mask", "strength"),
        ({"mask": png(mask.resize((32, 32)))}, "invalid_value", "mask size"),
        ({"mask": png(mask), "size": "256x256"}, "invalid_size", "64x64"),
        ({"mask": png(mask), "extra_body": {"strength": 0.5}}, "invalid_value", "strength"),
        ({"image": [png(picture), png(picture)]}, "invalid_body", "one file"),
        ({"image": io.BytesIO(b"no picture"), "mask": png(mask)}, "invalid_value", "image"),
    ]
    for asked, code, told in cases:
        error = refused(lambda asked=asked: ai.images.edit(**{"image": png(picture), "prompt": "", **asked}))
        assert (error.status_code, error.code) == (400, code), error
        assert told in error.message


@pytest.mark.parametrize("most", [0, 1, 3])
def test_partial_images_come_before_the_completed_one(most, ai, tiny):
    stream = ai.images.generate(
        prompt=tiny.labels[0], stream=True, partial_images=most, extra_body={"seed": 6, "steps": 8}
    )
    *partial, completed = list(stream)
    assert [event.type for event in partial] == ["image_generation.partial_image"] * most
    assert [event.partial_image_index for event in partial] == list(range(most))
    assert all(opened(event.b64_json).format == "PNG" for event in partial)
    assert completed.type == "image_generation.completed"
    assert (completed.size, completed.output_format, completed.seed) == ("64x64", "png", 6)
    assert completed.usage.output_tokens == 16
    assert same(completed.b64_json, tiny.generate(seed=6, steps=8, label=tiny.labels[0]).images[0])


def test_edits_stream_too(ai, tiny, picture):
    mask = half_mask(picture.size, transparent=True)
    stream = ai.images.edit(
        image=png(picture), mask=png(mask), prompt="", stream=True, partial_images=2, n=2, extra_body={"seed": 5}
    )
    events = list(stream)
    kinds = [event.type.removeprefix("image_edit.") for event in events]
    assert kinds == ["partial_image"] * 2 + ["completed"] * 2
    result = tiny.inpaint(picture, half_mask(picture.size), 2, 5)
    assert all(same(event.b64_json, image) for event, image in zip(events[2:], result.images))


def test_an_error_of_a_stream_is_told_by_its_status(ai):
    error = refused(lambda: list(ai.images.generate(prompt="a cat", stream=True)))
    assert error.code == "unknown_label"


def test_models_are_bundles(ai):
    assert [model.id for model in ai.models.list()] == ["tiny", "avatars"]
    assert ai.models.retrieve("avatars").owned_by == "smalti"
    assert refused(lambda: ai.models.retrieve("gpt-image-1")).code == "model_not_found"


def test_the_asynchronous_client(server, tiny, picture):
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as ai:
            asked = [ai.images.generate(prompt="", extra_body={"seed": seed, **STEPS}) for seed in range(4)]
            answers = await asyncio.gather(*asked)
            mask = half_mask(picture.size, transparent=True)
            edit = await ai.images.edit(
                image=png(picture), mask=png(mask), prompt="", stream=True, partial_images=1, extra_body={"seed": 5}
            )
            return answers, [event async for event in edit]

    answers, events = asyncio.run(ask())
    for seed, answer in enumerate(answers):
        assert same(answer.data[0].b64_json, tiny.generate(seed=seed, **STEPS).images[0])
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]
