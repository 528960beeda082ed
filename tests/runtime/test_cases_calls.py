"""Calls as people make them: steps that are saved or changed, margins that do not fit, loops, tensors, closed files."""

from __future__ import annotations

import asyncio
import gc
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import smalti
from smalti.codec.margins import fitted_margins
from smalti.codec.pictures import to_pixels

pytestmark = pytest.mark.cases
Calls = dict[str, Callable[[smalti.Generator, Any, Any], Any]]
MASK = np.pad(np.full((32, 32), 255, np.uint8), 16)
CALLS: Calls = {
    "generate": lambda gen, image, told: gen.generate(2, 7, steps=4, on_step=told),
    "inpaint": lambda gen, image, told: gen.inpaint(image, MASK, 1, 7, steps=4, on_step=told),
    "outpaint": lambda gen, image, told: gen.outpaint(image, 1, 7, right=16, steps=4, on_step=told),
    "vary": lambda gen, image, told: gen.vary(image, 1, 7, strength=0.7, steps=4, on_step=told),
}


@pytest.fixture(scope="module")
def image(gen: smalti.Generator) -> np.ndarray:
    return np.asarray(gen.generate(seed=3).images[0])


def same(one: smalti.Result, other: smalti.Result) -> bool:
    return len(one.images) == len(other.images) and all(
        np.array_equal(np.asarray(mine), np.asarray(its)) for mine, its in zip(one.images, other.images)
    )


@pytest.mark.parametrize("call", CALLS)
def test_cases_of_unfinished_steps_are_replayed_as_they_were(
    call: str, gen: smalti.Generator, image: np.ndarray, tiny_bundle: Path, tmp_path: Path
) -> None:
    taken: list[smalti.Result] = []
    whole = CALLS[call](gen, image, lambda step: taken.append(step.result()))
    assert len(taken) > 2
    assert same(taken[-1], whole)
    assert taken[-1].recipe() == whole.recipe()
    assert not same(taken[0], whole)
    given: dict[str, Any] = {"image": None if call == "generate" else image}
    given |= {"mask": MASK} if call == "inpaint" else {}
    for index in (0, 1):
        taken[index].save(tmp_path / "step.png")
        assert smalti.read_recipe(tmp_path / "step.png").step == index
        again = smalti.replay(tmp_path / "step.png", bundle=tiny_bundle, **given)
        assert same(again, taken[index])
        assert again.recipe() == taken[index].recipe()
    assert '"step"' not in str(whole.recipe())


def test_cases_of_steps_that_are_written_to_change_no_draw(gen: smalti.Generator) -> None:
    def spoil(step: smalti.Step) -> None:
        with pytest.raises(ValueError, match="read-only"):
            step.tokens[:] = 0

    seen = [step.tokens for step in gen.stream(seed=5, steps=4)]
    kept = [tokens.copy() for tokens in seen]
    assert all(map(np.array_equal, seen, kept))
    assert not np.array_equal(seen[0], seen[-1])
    plain, watched = gen.generate(seed=5, steps=4), gen.generate(seed=5, steps=4, on_step=spoil)
    assert same(plain, watched)
    for result in (plain, watched, next(iter(gen.stream(seed=5, steps=4))).result()):
        result.tokens[:] = 0  # they are the caller's


@pytest.mark.parametrize("error", [StopIteration, KeyError, KeyboardInterrupt])
def test_cases_of_errors_of_on_step_arrive_as_they_are(error: type[BaseException], gen: smalti.Generator) -> None:
    def fail(step: smalti.Step) -> None:
        raise error("mine")

    with pytest.raises(error, match="mine"):
        gen.generate(seed=5, steps=2, on_step=fail)


def test_cases_of_errors_of_on_step_reach_who_awaits(gen: smalti.Generator) -> None:
    def fail(step: smalti.Step) -> None:
        raise StopIteration

    with pytest.raises(RuntimeError, match="raised StopIteration"):
        asyncio.run(asyncio.wait_for(smalti.aio.Generator(gen).generate(seed=5, steps=2, on_step=fail), 60))


async def three(wrapped: smalti.aio.Generator) -> list[smalti.Result]:
    return await asyncio.gather(*(wrapped.generate(seed=seed, steps=2) for seed in range(3)))


def test_cases_of_several_event_loops_share_a_generator(gen: smalti.Generator) -> None:
    wrapped = smalti.aio.Generator(gen)
    expected = [gen.generate(seed=seed, steps=2) for seed in range(3)]
    found = [asyncio.run(three(wrapped)) for _ in range(2)]  # one after the other
    threads = [threading.Thread(target=lambda: found.append(asyncio.run(three(wrapped)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(found) == 5
    assert all(same(one, other) for results in found for one, other in zip(results, expected))
    asyncio.run(three(wrapped))
    gc.collect()
    assert len(wrapped._turns) == 1  # those of loops that are closed are gone


@pytest.mark.parametrize("at_once", [True, 0, "2", 1.0, None])
def test_cases_of_at_once_that_is_no_number(at_once: Any) -> None:
    with pytest.raises(smalti.UsageError, match="at_once"):
        asyncio.run(smalti.aio.load(at_once=at_once))


@pytest.mark.parametrize(
    ("margins", "pad", "crop"),
    [
        ((0, 0, 20, 0), (0, 0, 32, 0), (0, 0, 16, 0)),
        ((20, 0, 0, 0), (32, 0, 0, 0), (16, 0, 0, 0)),
        ((10, 0, 10, 9), (10, 0, 22, 16), (10, 0, 6, 0)),
        ((20, 0, 2, 0), (20, 0, 12, 0), (16, 0, 0, 0)),
        ((16, 16, 16, 16), (16, 16, 16, 16), (16, 16, 16, 16)),
    ],
)
def test_cases_of_margins_that_do_not_fit_leave_the_picture_whole(
    margins: Any, pad: Any, crop: Any, gen: Any, image: np.ndarray
) -> None:
    named = dict(zip(("left", "top", "right", "bottom"), margins))
    for fit, (left, top, right, bottom) in (("pad", pad), ("crop", crop)):
        result = gen.outpaint(image, 1, 7, steps=2, fit=fit, **named)
        pixels = np.asarray(result.images[0])
        assert pixels.shape[:2] == (64 + top + bottom, 64 + left + right)
        assert np.array_equal(pixels[top : top + 64, left : left + 64], image)
        assert result.recipe().margins == margins
        assert result.recipe().fit == fit


def test_cases_of_margins_of_a_picture_that_does_not_fit() -> None:
    assert fitted_margins((75, 70), (0, 0, 20, 0), 16, "pad") == (0, 0, 21, 10)
    assert fitted_margins((75, 70), (0, 9, 0, 0), 16, "pad") == (0, 10, 5, 0)
    with pytest.raises(smalti.UsageError, match="too narrow"):
        fitted_margins((75, 70), (0, 0, 20, 0), 16, "crop")  # 70 rows cannot be cut without the picture
    with pytest.raises(smalti.UsageError, match="too narrow"):
        fitted_margins((64, 64), (0, 0, 8, 0), 16, "crop")
    with pytest.raises(smalti.UsageError, match="fit stretch: painting on keeps the image"):
        fitted_margins((64, 64), (0, 0, 8, 0), 16, "stretch")


def test_cases_of_margins_that_do_not_fit_are_told_by_name(gen: smalti.Generator, image: np.ndarray) -> None:
    with pytest.raises(smalti.UsageError) as told:
        gen.outpaint(image, left=3)
    message = str(told.value)
    assert message.startswith("left 3, top 0, right 0, bottom 0: with the image of 64x64 the whole is 67x64")
    assert "take left 16, top 0" in message
    assert "--fit" in message
    assert "mask" not in message


class Tensor:
    """As torch's: an array on the CPU, an error elsewhere."""

    def __init__(self, pixels: np.ndarray, where: str = "cpu") -> None:
        self.pixels, self.where = pixels, where

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        if self.where != "cpu":
            raise TypeError(f"can't convert {self.where}:0 device type tensor to numpy")
        return self.pixels


def test_cases_of_arrays_of_other_kinds_are_pictures(gen: Any, image: np.ndarray) -> None:
    expected = gen.encode([image])
    for given in ([Tensor(image)], Tensor(image[None]), [image.view(np.recarray)], np.asarray([image])):
        assert np.array_equal(gen.encode(given), expected)
    with pytest.warns(PendingDeprecationWarning):
        grey = np.matrix(image[..., 0])
    assert np.array_equal(to_pixels(grey), to_pixels(image[..., 0]))
    part: Any = np.array([0, 0, 32, 16])
    (whole,), (cut,) = gen.decode(expected), gen.decode(expected, box=part)
    assert np.array_equal(np.asarray(cut), np.asarray(whole)[:16, :32])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (Tensor(np.zeros((8, 8, 3)), "cuda"), r"type Tensor cannot be read .*detach\(\)\.cpu\(\)\.numpy\(\)"),
        ([[1, 2], [3, 4]], r"got list; np\.array"),
        (np.zeros((1, 64, 64, 3), np.uint8), r"\[1, 64, 64, 3\]; hand in one picture at a time"),
        (np.ma.masked_array(np.zeros((64, 64, 3), np.uint8), True), r"mask of its own.*filled"),
        ("a.png", "got str; open files first"),
        (np.zeros((3, 64, 64), np.float32), "channels come last"),
    ],
)
def test_cases_of_what_is_no_picture_say_what_helps(given: Any, told: str, gen: smalti.Generator) -> None:
    for work in (lambda: gen.vary(given), lambda: to_pixels(given)):
        with pytest.raises(smalti.UsageError, match=told):
            work()


@pytest.mark.parametrize("ending", ["png", "gif", "tiff", "jpg"])
def test_cases_of_pictures_whose_file_was_closed(ending: str, gen: smalti.Generator, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / f"a.{ending}")
    with Image.open(tmp_path / f"a.{ending}") as opened:
        pass
    with pytest.raises(smalti.UsageError, match=r"closed before its pixels were read; call load\(\)"):
        gen.encode([opened])
    with Image.open(tmp_path / f"a.{ending}") as opened:
        opened.load()
    assert gen.encode([opened]).shape == (1, 4, 4)
    plain = Image.new("RGB", (64, 64))
    plain.close()
    with pytest.raises(smalti.UsageError, match=r"cannot be read as an image: .*closed"):
        gen.encode([plain])


WRONG: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "an unknown option first": (lambda gen, image: gen.outpaint(5, margin=3), "^margin: no such option"),
    "text for a number": (lambda gen, image: gen.generate(temperature="1"), "^temperature '1': allowed"),
    "no steps": (lambda gen, image: gen.generate(steps=0), r"^steps 0: allowed are 1 \.\. 4096; for more, .*Limits"),
    "too many steps": (lambda gen, image: gen.generate(steps=5000), r"^steps 5000: allowed are 1 \.\. 4096;"),
    "strength": (lambda gen, image: gen.vary(image, strength=0), "^strength 0: a number above 0, at most 1"),
    "strength, text": (lambda gen, image: gen.vary(image, strength="1"), "^strength '1': a number above 0, at most 1"),
    "top_p": (lambda gen, image: gen.generate(top_p=0), "^top_p 0: a number above 0, at most 1"),
    "no bundle": (lambda gen, image: smalti.load(""), "^bundle is empty: a path or a name"),
    "no target": (lambda gen, image: gen.generate(steps=2).save(""), "^target is empty"),
    "an empty file": (lambda gen, image: smalti.read_recipe(io.BytesIO()), "^source open file: it is empty"),
    "a text file": (
        lambda gen, image: gen.generate(steps=2).save(io.StringIO(), format="png"),
        "^target open file: it is for text",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_cases_of_messages_say_what_is_wrong(wrong: str, gen: smalti.Generator, image: np.ndarray) -> None:
    call, told = WRONG[wrong]
    with pytest.raises(smalti.UsageError, match=told) as error:
        call(gen, image)
    assert " object at " not in str(error.value)
