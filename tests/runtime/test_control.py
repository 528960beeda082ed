"""Calls that are watched, cancelled, fitted into a time, streamed and varied."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest
from PIL import Image

import smalti
from helpers.device_cases import same
from helpers.stub_device import StubDevice
from helpers.table_denoiser import TableDenoiser, TimedTableDenoiser
from helpers.table_predictor import autoregressive_bundle
from smalti import Cancelled, UsageError
from smalti.drawing.pace import Drawn, Pace, fitted
from smalti.saving.recipe import read_recipe

pytestmark = pytest.mark.cases
FAMILIES = ("absorbing", "sundae", "multinomial", "autoregressive")
SHOWN = {"absorbing": {"steps": 4}, "sundae": {"steps": 22}, "multinomial": {}, "autoregressive": {}}


@pytest.fixture(scope="module")
def gens(tiny_bundle, tmp_path_factory):
    folder, labels = tmp_path_factory.mktemp("control"), ("a", "b")
    autoregressive_bundle(tiny_bundle, folder / "autoregressive")
    paths = {
        "absorbing": tiny_bundle,
        "sundae": TableDenoiser((3, 4), 6, 2).bundle(folder / "sundae", classes=labels),
        "multinomial": TimedTableDenoiser((3, 4), 6, 2, 30).bundle(folder / "noise", classes=labels, steps=5),
        "autoregressive": folder / "autoregressive",
    }
    return {name: smalti.load(path, "cpu", threads=1) for name, path in paths.items()}


@pytest.fixture(scope="module")
def pictures(gens):
    return {name: gen.generate(seed=3).images[0] for name, gen in gens.items()}


def half(picture: Image.Image) -> np.ndarray:
    mask = np.zeros((picture.height, picture.width), np.bool_)
    mask[:, picture.width // 2 :] = True
    return mask


@pytest.mark.parametrize("family", FAMILIES)
def test_each_step_is_told_and_the_last_is_the_result(family, gens):
    gen, told = gens[family], []
    found = gen.generate(2, 5, on_step=told.append, **SHOWN[family])
    same(found, gen.generate(2, 5, **SHOWN[family]))
    streamed = list(gen.stream(2, 5, **SHOWN[family]))
    assert [step.index for step in told] == list(range(len(told)))
    assert [step.tokens.tolist() for step in told] == [step.tokens.tolist() for step in streamed]
    same(told[-1].result(), found)
    spent = [step.timings.network + step.timings.draw for step in told]
    assert spent == sorted(spent)
    assert [step.timings.calls for step in told] == sorted(step.timings.calls for step in told)
    assert told[-1].timings.calls == found.timings.calls > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_is_cancelled_after_any_step(family, gens):
    gen = gens[family]
    total = len(list(gen.stream(seed=5, **SHOWN[family])))
    for stop in {0, 1, total - 1}:
        cancel, told = threading.Event(), []

        def on_step(step, cancel=cancel, told=told, stop=stop):
            told.append(step)
            if step.index >= stop:
                cancel.set()

        with pytest.raises(Cancelled, match="cancelled"):
            gen.generate(seed=5, cancel=cancel, on_step=on_step, **SHOWN[family])
        assert len(told) == stop + 1
    same(gen.generate(seed=5, **SHOWN[family]), gen.generate(seed=5, **SHOWN[family]))


def test_every_call_that_takes_time_can_be_cancelled(gens, pictures):
    gen, picture, cancel = gens["absorbing"], pictures["absorbing"], threading.Event()
    cancel.set()
    tokens = gen.encode([picture])
    calls = {
        "generate": lambda: gen.generate(cancel=cancel),
        "stream": lambda: next(gen.stream(cancel=cancel)),
        "inpaint": lambda: gen.inpaint(picture, half(picture), cancel=cancel),
        "stream_inpaint": lambda: next(gen.stream_inpaint(picture, half(picture), cancel=cancel)),
        "outpaint": lambda: gen.outpaint(picture, left=16, cancel=cancel),
        "stream_outpaint": lambda: next(gen.stream_outpaint(picture, left=16, cancel=cancel)),
        "vary": lambda: gen.vary(picture, cancel=cancel),
        "encode": lambda: gen.encode([picture], cancel=cancel),
        "decode": lambda: gen.decode(tokens, cancel=cancel),
        "embed": lambda: gen.embed([picture], cancel=cancel),
    }
    for name, call in calls.items():
        with pytest.raises(Cancelled):
            call()
        assert gen.encode([picture]).tolist() == tokens.tolist(), name


@pytest.mark.parametrize("wrong", [{"cancel": 1}, {"cancel": "now"}, {"on_step": 3}, {"on_step": "print"}])
def test_who_cannot_be_asked_or_told_is_refused(wrong, gens):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        gens["absorbing"].generate(**wrong)


def test_an_error_of_who_is_told_is_raised(gens):
    with pytest.raises(ZeroDivisionError):
        gens["absorbing"].generate(on_step=lambda step: 1 / 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_inpainting_is_shown_with_the_image_around_it(family, gens, pictures):
    gen, picture = gens[family], pictures[family]
    mask, own = half(picture), np.asarray(picture.convert("RGB"))
    *steps, last = gen.stream_inpaint(picture, mask, 2, 9, **SHOWN[family])
    for step in (*steps[:2], last):
        for image in (*step.images(), *step.preview()):
            assert image.size == picture.size
            assert np.array_equal(np.asarray(image)[~mask], own[~mask])
    same(last.result(), gen.inpaint(picture, mask, 2, 9, **SHOWN[family]))
    assert last.result().from_image


def test_an_outpainting_is_shown_too(gens, pictures):
    gen, picture = gens["absorbing"], pictures["absorbing"]
    *_, last = gen.stream_outpaint(picture, seed=4, right=32, steps=3)
    same(last.result(), gen.outpaint(picture, seed=4, right=32, steps=3))


@pytest.mark.parametrize("family", ["absorbing", "sundae", "multinomial"])
@pytest.mark.parametrize("strength", [0.01, 0.3, 1.0])
def test_a_variation_draws_its_share_of_the_tokens_anew(family, strength, gens, pictures):
    gen, picture = gens[family], pictures[family]
    tokens = gen.encode([picture])
    found = gen.vary(picture, 3, 7, strength=strength, **SHOWN[family])
    changed = (found.tokens != tokens).sum(axis=(1, 2))
    assert (changed <= max(1, round(strength * tokens.size))).all()
    alone = gen.vary(picture, 1, 8, strength=strength, **SHOWN[family])
    assert np.array_equal(alone.tokens[0], found.tokens[1])
    assert found.from_image
    assert found.images[0].size == picture.size
    if strength == 1.0:
        assert len({one.tobytes() for one in found.tokens}) > 1


@pytest.mark.parametrize("wrong", [0, -0.1, 1.1, "much", None, float("nan")])
def test_a_strength_out_of_range_is_refused(wrong, gens, pictures):
    with pytest.raises(UsageError, match="strength"):
        gens["absorbing"].vary(pictures["absorbing"], strength=wrong)


def test_a_streams_result_is_saved_with_its_recipe(gens, tmp_path):
    gen = gens["absorbing"]
    *_, last = gen.stream(2, 7, label="planets", steps=3)
    last.result().save(tmp_path / "a.png")
    assert read_recipe(tmp_path / "a.png").seeds == (7, 8)


def test_runs_on_a_device_are_told_and_cancelled_too(gens, sized_bundle, stub_library):
    gen = smalti.load(sized_bundle, backend=StubDevice(stub_library).backend())
    cancel, told = threading.Event(), []
    same(gen.generate(seed=2, steps=3, on_step=told.append), gen.generate(seed=2, steps=3))
    assert len(told) == 3
    expected = gen.generate(seed=2, steps=3)
    cancel.set()
    with pytest.raises(Cancelled):
        gen.generate(seed=2, steps=3, cancel=cancel)
    same(gen.generate(seed=2, steps=3), expected)


def test_steps_within_a_time_are_the_most_that_fit():
    fixed, each = 0.02, 0.003
    clock: list[int] = []

    def draw(steps: int) -> float:
        clock.append(steps)
        return fixed + each * steps

    pace = Pace()
    for budget in (0.03, 0.1, 0.5):
        steps = pace.steps_within("kind", budget, 1000, draw)
        assert draw(steps) <= budget < draw(steps + max(2, steps // 12))
        pace.note("kind", steps, draw(steps))
    assert pace.steps_within("kind", 100.0, 40, draw) == 40
    assert pace.steps_within("kind", 0.001, 40, draw) == 1
    known = len(clock)
    pace.steps_within("kind", 0.2, 40, draw)
    assert len(clock) == known  # nothing is drawn to find out again


def test_times_that_make_no_line_still_give_a_pace():
    for known in ([Drawn(4, 1.0)], [Drawn(1, 1.0), Drawn(6, 0.5)], [Drawn(1, 0.1), Drawn(6, 6.0)]):
        fixed, each = fitted(known)
        assert fixed >= 0
        assert each > 0


def test_a_budget_chooses_the_steps(gens):
    gen = gens["absorbing"]
    few, many = (gen.generate(budget_ms=budget).settings.value("steps") for budget in (1, 10_000))
    assert 1 <= few <= many == 16  # no more steps than tokens
    same(gen.generate(seed=3, budget_ms=10_000), gen.generate(seed=3, steps=16))
    with pytest.raises(UsageError, match="leave steps out"):
        gen.generate(budget_ms=100, steps=3)
    with pytest.raises(UsageError, match="no steps to choose"):
        gens["autoregressive"].generate(budget_ms=100)
    for wrong in (0, -1, "fast", float("inf")):
        with pytest.raises(UsageError, match="budget_ms"):
            gen.generate(budget_ms=wrong)


def test_warming_up_leaves_nothing_but_what_is_open(gens, tiny_bundle):
    gen = smalti.load(tiny_bundle, "cpu", threads=1)
    gen.warm_up(2, steps=1)
    same(gen.generate(seed=4), gens["absorbing"].generate(seed=4))


def test_calls_are_awaited_and_give_the_same(gens, pictures):
    gen, picture = gens["absorbing"], pictures["absorbing"]

    async def run():
        ours = smalti.aio.Generator(gen, at_once=2)
        results = await asyncio.gather(*(ours.generate(seed=seed, steps=2) for seed in range(4)))
        steps = [step.tokens.tolist() async for step in ours.stream(seed=1, steps=3)]
        shown = [step async for step in ours.stream_inpaint(picture, half(picture), seed=1, steps=2)]
        varied = await ours.vary(picture, seed=1, steps=2)
        tokens = await ours.encode([picture])
        return (
            results,
            steps,
            shown[-1].result(),
            varied,
            tokens,
            await ours.decode(tokens),
            await ours.embed([picture]),
        )

    results, steps, inpainted, varied, tokens, images, features = asyncio.run(run())
    for seed, result in enumerate(results):
        same(result, gen.generate(seed=seed, steps=2))
    assert steps == [step.tokens.tolist() for step in gen.stream(seed=1, steps=3)]
    same(inpainted, gen.inpaint(picture, half(picture), seed=1, steps=2))
    same(varied, gen.vary(picture, seed=1, steps=2))
    assert np.array_equal(tokens, gen.encode([picture]))
    assert images == gen.decode(tokens)
    assert np.array_equal(features, gen.embed([picture]))


def test_a_task_that_is_cancelled_ends_its_call(gens):
    gen = gens["absorbing"]

    async def run() -> float:
        ours = smalti.aio.Generator(gen)
        task = asyncio.create_task(ours.generate(16, steps=16, size=(256, 256)))
        await asyncio.sleep(0.2)
        started = time.perf_counter()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        took = time.perf_counter() - started
        same(await ours.generate(seed=1, steps=1), gen.generate(seed=1, steps=1))
        return took

    assert asyncio.run(run()) < 20


def test_a_stream_that_is_left_gives_its_turn_back(gens):
    async def run():
        ours = smalti.aio.Generator(gens["absorbing"])
        stream = ours.stream(seed=1, steps=8)
        await anext(stream)
        await stream.aclose()
        return await asyncio.wait_for(ours.generate(seed=1, steps=1), 60)

    same(asyncio.run(run()), gens["absorbing"].generate(seed=1, steps=1))


def test_loading_is_awaited_too(tiny_bundle):
    async def run():
        ours = await smalti.aio.load(tiny_bundle, "cpu", threads=1)
        return await ours.generate(seed=2, steps=1)

    assert asyncio.run(run()).tokens.shape == (1, 4, 4)
    with pytest.raises(UsageError, match="at_once"):
        asyncio.run(smalti.aio.load(tiny_bundle, at_once=0))
