"""Recipes of every kind of draw, and their replay to the same pixels."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

import smalti
from smalti.codec.masks import to_repaint
from smalti.codec.pictures import to_pixels
from smalti.saving.chunks import KEY
from smalti.saving.formats import FORMATS, save_png
from smalti.saving.recipe import digest, encode_recipe

MASK = np.arange(64)[:, None].repeat(64, axis=1) > 31


@pytest.fixture(scope="module")
def image(gen: smalti.Generator) -> Image.Image:
    return gen.generate(1, 5, label="planets").images[0]


def odd(image: Image.Image) -> Image.Image:
    """The picture at a size that does not fit, with transparency and a turn."""
    picture = image.resize((70, 75)).convert("RGBA")
    picture.getexif()[0x0112] = 6
    return picture


Call = Callable[[smalti.Generator, Image.Image], tuple[smalti.Result, dict[str, Any]]]
CALLS: dict[str, Call] = {
    "generate": lambda gen, image: (gen.generate(3, 7, steps=4, top_k=9), {}),
    "inpaint": lambda gen, image: (gen.inpaint(image, MASK, 3, 7, steps=3), {"image": image, "mask": MASK}),
    "inpaint, feathered": lambda gen, image: (
        gen.inpaint(image, MASK, 2, 7, feather=5, label="lorelei"),
        {"image": np.asarray(image), "mask": Image.fromarray(MASK)},
    ),
    "inpaint, fitted": lambda gen, image: (
        gen.inpaint(odd(image), np.ones((70, 75), bool), 1, 7, fit="pad"),
        {"image": odd(image), "mask": np.full((70, 75), 255, np.uint8)},
    ),
    "outpaint": lambda gen, image: (gen.outpaint(image, 2, 7, left=16, bottom=32, feather=2), {"image": image}),
    "outpaint, fitted": lambda gen, image: (
        gen.outpaint(odd(image), 1, 7, right=20, bottom=20, fit="crop"),
        {"image": odd(image)},
    ),
    "vary, fitted": lambda gen, image: (gen.vary(odd(image), 1, 7, fit="stretch"), {"image": odd(image)}),
    "vary": lambda gen, image: (gen.vary(image, 2, 7, strength=0.5, temperature=1.5), {"image": image}),
}


def same(one: smalti.Result, other: smalti.Result) -> bool:
    return [image.tobytes() for image in one.images] == [image.tobytes() for image in other.images]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("format", FORMATS)
def test_cases_of_every_call_are_replayed_from_its_file(
    name: str, format: Any, gen: smalti.Generator, image: Image.Image, tiny_bundle: Path, tmp_path: Path
) -> None:
    result, given = CALLS[name](gen, image)
    result.save(tmp_path / "a", 2, format=format)
    again = smalti.replay(tmp_path / "a", bundle=tiny_bundle, **given)
    assert same(again, result)
    assert np.array_equal(again.tokens, result.tokens)
    assert again.recipe() == result.recipe(None, 2)
    again.save(tmp_path / "b", format=format)
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()


@pytest.mark.parametrize("name", ["inpaint", "outpaint", "vary"])
def test_cases_of_one_picture_of_several_are_replayed_alone(
    name: str, gen: smalti.Generator, image: Image.Image, tiny_bundle: Path
) -> None:
    result, given = CALLS[name](gen, image)
    file = io.BytesIO()
    result.save(file, which=1, format="png")
    again = smalti.replay(file, bundle=tiny_bundle, **given)
    assert [one.tobytes() for one in again.images] == [result.images[1].tobytes()]


def test_cases_of_streamed_repaintings_carry_their_recipe(gen, image, tiny_bundle, tmp_path) -> None:
    for call, given in (
        (lambda: gen.stream_inpaint(image, MASK, 2, 4), {"image": image, "mask": MASK}),
        (lambda: gen.stream_outpaint(image, 2, 4, right=16), {"image": image}),
    ):
        *_, last = call()
        last.result().save(tmp_path / "a.png")
        assert same(smalti.replay(tmp_path / "a.png", bundle=tiny_bundle, **given), last.result())


def test_what_a_recipe_says_of_an_image_is_the_digest_of_its_pixels(gen, image) -> None:
    recipe = gen.inpaint(image, MASK, feather=np.int64(3)).recipe()
    assert (recipe.call, recipe.feather, recipe.fit, recipe.margins) == ("inpaint", 3, None, None)
    assert recipe.image == digest(np.asarray(image)) == digest(to_pixels(image))
    assert recipe.mask == digest(MASK) == digest(np.where(MASK, 255, 0).astype(np.uint8)) == digest(to_repaint(MASK))
    assert digest(np.zeros((2, 3), np.uint8)) != digest(np.zeros((3, 2), np.uint8))
    assert gen.vary(image, strength=1).recipe().strength == 1.0
    assert gen.outpaint(image, left=np.int8(16), feather=2).recipe().margins == (16, 0, 0, 0)


def test_an_image_of_the_same_pixels_is_taken_from_any_file(gen, image, tiny_bundle, tmp_path) -> None:
    result = gen.inpaint(image, MASK, 2, 9)
    result.save(tmp_path / "a.jpg")
    image.save(tmp_path / "image.webp", lossless=True)
    Image.fromarray(MASK).save(tmp_path / "mask.bmp")
    with Image.open(tmp_path / "image.webp") as first, Image.open(tmp_path / "mask.bmp") as second:
        again = smalti.replay(tmp_path / "a.jpg", image=first, mask=second, bundle=tiny_bundle)
    assert same(again, result)


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("inpaint", {}, "image None: the recipe is of inpaint; give the image"),
        ("inpaint", {"image": "same"}, "mask None: the recipe is of inpaint; give the mask"),
        ("inpaint", {"image": "other", "mask": MASK}, "image: it is not the one that the recipe is about"),
        ("inpaint", {"image": "same", "mask": ~MASK}, "mask: it is not the one that the recipe is about"),
        ("outpaint", {"image": "other"}, "image: it is not the one"),
        ("outpaint", {"image": "same", "mask": MASK}, "mask: a recipe of outpaint begins from no mask; leave it out"),
        ("vary", {}, "image None: the recipe is of vary"),
        ("generate", {"image": "same"}, "image: a recipe of generate begins from no image; leave it out"),
        ("generate", {"image": 5}, "image: a recipe of generate"),
        ("vary", {"image": 5}, "an image must be"),
    ],
)
def test_cases_of_images_that_are_missing_or_others_are_refused(
    name: str, given: dict[str, Any], says: str, gen: smalti.Generator, image: Image.Image, tiny_bundle: Path
) -> None:
    result, _ = CALLS[name](gen, image)
    pictures = {"same": image, "other": Image.new("RGB", (64, 64))}
    asked = {name: pictures[one] if isinstance(one, str) else one for name, one in given.items()}
    with pytest.raises(smalti.UsageError, match=says):
        smalti.replay(result.recipe(), bundle=tiny_bundle, **asked)


def test_a_bundle_that_is_another_or_not_embedded_is_refused(gen, tiny_bundle) -> None:
    recipe = gen.generate().recipe()
    with pytest.raises(smalti.BundleError, match="bundle tiny, which is not embedded; name it: bundle=PATH"):
        smalti.replay(recipe)
    with pytest.raises(smalti.BundleError, match="another version of bundle tiny"):
        smalti.replay(recipe, bundle="avatars")
    other = msgspec.structs.replace(recipe, precision={**recipe.precision, "decoder": "fp16"})
    with pytest.raises(smalti.BundleError, match=r"the picture was made in .* name another provider"):
        smalti.replay(other, bundle=tiny_bundle, provider="cpu")
    opened = smalti.open_bundle(tiny_bundle)
    assert same(smalti.replay(recipe, bundle=opened, provider="cpu", threads=1), gen.generate())


def test_cases_of_older_recipes_are_replayed(gen, tiny_bundle, tmp_path) -> None:
    result = gen.generate(2, 11)
    content = msgspec.json.decode(encode_recipe(result.recipe()))
    for name in ("top_k", "top_p", "order", "remask", "choice_temperature", "resolution"):
        del content[name]
    save_png(Image.new("RGB", (8, 8)), tmp_path / "a.png", {KEY: msgspec.json.encode(content).decode()})
    assert same(smalti.replay(tmp_path / "a.png", bundle=tiny_bundle), result)


@pytest.mark.parametrize(
    ("field", "value"),
    [("call", "imagine"), ("columns", 0), ("seeds", []), ("margins", [1, 2]), ("fit", "shrink"), ("strength", "much")],
)
def test_recipes_that_no_smalti_wrote_are_refused(field: str, value: Any, gen, tmp_path) -> None:
    content = {**msgspec.json.decode(encode_recipe(gen.generate().recipe())), field: value}
    save_png(Image.new("RGB", (8, 8)), tmp_path / "a.png", {KEY: msgspec.json.encode(content).decode()})
    with pytest.raises(smalti.UsageError, match=rf"a\.png: its recipe cannot be read: .*{field}"):
        smalti.replay(tmp_path / "a.png")


def test_a_replay_is_watched_and_cancelled(gen, image, tiny_bundle) -> None:
    recipe = gen.inpaint(image, MASK, steps=5).recipe()
    given: dict[str, Any] = {"image": image, "mask": MASK, "bundle": tiny_bundle}
    seen: list[smalti.Step] = []
    smalti.replay(recipe, on_step=seen.append, **given)
    assert [step.index for step in seen] == list(range(seen[0].total))
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(smalti.Cancelled):
        smalti.replay(recipe, cancel=cancel, **given)


def test_a_replay_is_awaited(gen, tiny_bundle) -> None:
    result = gen.generate(2, 3)
    assert same(asyncio.run(smalti.aio.replay(result.recipe(), bundle=tiny_bundle)), result)
