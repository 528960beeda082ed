"""Bundles of the family sundae: generated, streamed, repainted, on canvases of any size, from the command line."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import smalti
from helpers.table_denoiser import FACTOR, LEVEL, TableDenoiser
from smalti import UsageError
from smalti.cli.main import _run
from smalti.drawing.generator import NETWORK_BATCH
from smalti.families.canvas import canvas_denoiser
from smalti.families.registry import FAMILIES
from smalti.families.settings import resolve
from smalti.families.sundae import sampler as sundae
from smalti.saving.recipe import read_recipe

GRID, CODES, LABELS = (3, 4), 6, ("a", "b")
LENGTH = GRID[0] * GRID[1]
SIZE = (GRID[1] * FACTOR, GRID[0] * FACTOR)
OWN = {"steps": 24, "temperature": (1.0, 0.7), "proportion": (0.5, 0.5), "min_steps": 6}
"""The bundle's defaults, as the plain sampler has them."""


@pytest.fixture(scope="module")
def table() -> TableDenoiser:
    return TableDenoiser(GRID, CODES, len(LABELS))


@pytest.fixture(scope="module")
def bundle(table, tmp_path_factory) -> Path:
    return table.bundle(tmp_path_factory.mktemp("sundae") / "tiny", classes=LABELS)


@pytest.fixture(scope="module")
def gen(bundle) -> smalti.Generator:
    return smalti.load(bundle)


def reference(table, seeds, labels, grid=GRID, start=None, plan=OWN, **options) -> list[np.ndarray]:
    """Grids [N, h, w] after each step by the plain sampler and the table in NumPy; CODES in ``start``: to be drawn."""
    tokens = np.full((len(seeds), grid[0] * grid[1]), CODES) if start is None else start.reshape(len(seeds), -1)
    free = tokens == CODES
    tokens = np.where(free, sundae.start_tokens(seeds, grid, CODES), tokens).astype(np.int32)
    given = {"seeds": seeds, "labels": np.asarray(labels, np.int32), "width": grid[1], "free": free, "no_label": 2}
    grids = sundae.run(table, tokens, sundae.annealing(**plan), **given, **options)
    return [tokens.reshape(-1, *grid) for tokens in grids]


@pytest.mark.parametrize(
    ("options", "plan"),
    [
        ({}, OWN),
        ({"temperature": 0.8}, {**OWN, "temperature": (0.8, 0.7)}),
        ({"temperature": 0.5}, {**OWN, "temperature": (0.5, 0.5)}),  # the default does not heat what begins cooler
        ({"temperature": 0.5, "final_temperature": 2.0}, {**OWN, "temperature": (0.5, 2.0)}),
        ({"proportion": 0.9}, {**OWN, "proportion": (0.9, 0.9)}),
        ({"proportion": (0.9, 0.2), "min_steps": 0}, {**OWN, "proportion": (0.9, 0.2), "min_steps": 0}),
        ({"steps": 7, "min_steps": 7}, {**OWN, "steps": 7, "min_steps": 7}),
        ({"steps": 40, "top_k": 2, "guidance": 1.5}, {**OWN, "steps": 40}),
    ],
)
def test_generate_draws_what_the_reference_draws(gen, table, options, plan):
    count = NETWORK_BATCH + 3  # more than the graph is given at once
    labels = [i % 2 for i in range(count)]
    result = gen.generate(count, 7, label=labels, **options)
    rest = {name: options[name] for name in ("top_k", "guidance") if name in options}
    expected = reference(table, range(7, 7 + count), labels, plan=plan, **rest)
    assert np.array_equal(result.tokens, expected[-1])
    assert result.timings.calls == len(expected)
    used = result.settings
    assert (used.value("steps"), used.temperature) == (plan["steps"], plan["temperature"][0])
    assert used.value("final_temperature") == plan["temperature"][1]
    assert used.value("proportion") == (plan["proportion"] if plan["steps"] >= 20 else (1.0, 1.0))
    assert used.value("min_steps") == plan["min_steps"]
    assert not used.options.keys() & {"schedule", "order", "choice_temperature", "remask"}
    assert used.value("stride") is None
    assert all(
        np.array_equal(np.asarray(image)[::FACTOR, ::FACTOR, 0], LEVEL * tokens)
        for image, tokens in zip(result.images, result.tokens)
    )


def test_an_image_is_the_same_alone_and_in_a_batch(gen):
    batch = gen.generate(5, 40, guidance=1.5)
    for i in range(5):
        assert np.array_equal(gen.generate(seed=40 + i, guidance=1.5).tokens[0], batch.tokens[i])
    assert len({tokens.tobytes() for tokens in batch.tokens}) > 1


def test_a_stream_is_the_history_of_the_run_and_may_end_before_its_total(gen, table):
    steps = list(gen.stream(3, 21, label="b", steps=200))
    history = reference(table, range(21, 24), [1] * 3, plan={**OWN, "steps": 200})
    assert 6 < len(steps) < 200  # all are frozen long before
    assert [step.index for step in steps] == list(range(len(steps)))
    assert {step.total for step in steps} == {200}
    assert all(np.array_equal(step.tokens, grids) for step, grids in zip(steps, history, strict=True))
    assert max(int(step.tokens.max()) for step in steps) < CODES  # there are no masks to be seen
    assert np.array_equal(steps[-1].tokens, gen.generate(3, 21, label="b", steps=200).tokens)
    preview = steps[0].preview()
    assert np.array_equal(np.asarray(preview[1])[::FACTOR, ::FACTOR, 0], LEVEL * steps[0].tokens[1])
    assert len(list(gen.stream(3, 21, min_steps=30, steps=30))) == 30


def test_a_stream_can_be_left_early(gen):
    first = next(iter(gen.stream(1, 4)))
    assert first.index == 0
    assert np.array_equal([*gen.stream(1, 4)][-1].tokens, gen.generate(1, 4).tokens)


def test_inpainting_keeps_what_is_kept_and_draws_the_rest_given_it(gen, table):
    image = gen.generate(1, 5).images[0]
    kept = gen.encode([image])[0]
    mask = np.zeros((SIZE[1], SIZE[0]), bool)
    mask[1, 2] = mask[5, 7] = mask[4, 1] = True  # one pixel each of tokens (0, 1), (2, 3) and (2, 0)
    result = gen.inpaint(image, mask, 4, 3)
    start = np.tile(kept, (4, 1, 1))
    start[:, [0, 2, 2], [1, 3, 0]] = CODES
    assert np.array_equal(result.tokens, reference(table, range(3, 7), [2] * 4, start=start)[-1])
    assert all(np.array_equal(np.asarray(drawn)[~mask], np.asarray(image)[~mask]) for drawn in result.images)
    assert result.settings.labels == (None,) * 4
    everything = gen.inpaint(image, np.ones_like(mask), 3, 9, label="a")
    assert np.array_equal(everything.tokens, gen.generate(3, 9, label="a").tokens)


def test_one_token_is_repainted_even_where_steps_may_draw_nothing(gen):
    image, mask = gen.generate(1, 5).images[0], np.zeros((SIZE[1], SIZE[0]), bool)
    mask[0, 0] = True
    for proportion in (0.5, 1e-6):  # with the latter no step ever draws it: it keeps its random start
        result = gen.inpaint(image, mask, 8, 1, proportion=proportion)
        assert result.tokens.max() < CODES
        assert np.array_equal(result.tokens[:, 1:], np.tile(gen.encode([image])[0][1:], (8, 1, 1)))
    assert result.timings.calls == 0


def test_a_batch_may_have_a_different_mask_for_each_image(gen, table):
    generator = np.random.default_rng(0)
    settings = resolve(gen.manifest, 6, 11, {"label": "a"})
    start = generator.integers(0, CODES, (6, *GRID)).astype(np.int32)
    wanted = generator.random(start.shape) < 0.4
    start[wanted] = CODES
    *_, final = FAMILIES["sundae"].lay_out(start, settings, gen.manifest).draw(gen)
    assert np.array_equal(final[~wanted], start[~wanted])
    assert np.array_equal(final, reference(table, range(11, 17), [0] * 6, start=start)[-1])


@pytest.mark.parametrize("size", [(16, 6), (10, 12), (8, 8), (22, 14)])
def test_larger_canvases_are_drawn_by_the_mixture_of_windows(gen, table, size):
    grid = (size[1] // FACTOR, size[0] // FACTOR)
    result = gen.generate(2, 8, label="b", size=size, stride=2)
    mixture = canvas_denoiser(table, grid, GRID, stride=2)
    expected = reference(mixture, [8, 9], [1, 1], grid)
    assert np.array_equal(result.tokens, expected[-1])
    assert result.images[0].size == size
    assert (result.settings.size, result.settings.value("stride")) == (size, 2)
    assert np.array_equal(gen.generate(seed=9, label="b", size=size, stride=2).tokens[0], result.tokens[1])


def test_a_smaller_canvas_is_the_middle_of_one_window(gen, table):
    for size, rows, columns in (((4, 6), slice(0, 3), slice(1, 3)), ((2, 2), slice(1, 2), slice(1, 2))):
        result = gen.generate(3, 8, label="b", size=size)
        whole = reference(table, [8, 9, 10], [1] * 3)[-1]
        assert np.array_equal(result.tokens, whole[:, rows, columns])
        assert result.images[0].size == size
    tall = gen.generate(1, 8, label="b", size=(4, 16), stride=1)  # larger than the window down, smaller across
    mixture = canvas_denoiser(table, (8, 4), GRID, stride=1)
    assert np.array_equal(tall.tokens, reference(mixture, [8], [1], (8, 4))[-1][:, :, 1:3])


def test_painting_beyond_the_edge_keeps_the_image(gen):
    image = gen.generate(1, 5, label="a").images[0]
    wide, beyond = Image.new("RGB", (16, 10)), np.ones((10, 16), bool)
    wide.paste(image, (4, 2))
    beyond[2:8, 4:12] = False
    result = gen.inpaint(wide, beyond, 3, 7)
    for drawn in result.images:
        assert np.array_equal(np.asarray(drawn)[2:8, 4:12], np.asarray(image))
    small = image.crop((0, 0, 4, 4))
    narrow = np.zeros((4, 4), bool)
    narrow[:, 2:] = True
    result = gen.inpaint(small, narrow, 2, 7)
    assert np.array_equal(result.tokens[:, :, 0], np.tile(gen.encode([small])[0][:, 0], (2, 1)))


def test_the_prior_itself_can_be_asked(gen, table):
    tokens, rows = np.arange(2 * LENGTH, dtype=np.int32).reshape(2, -1) % CODES, np.array([[0, 11], [3, 3]], np.int32)
    labels = np.array([0, 2], np.int32)
    assert np.array_equal(gen.logits(tokens, labels, rows), table(tokens, labels, rows))
    with pytest.raises(UsageError, match="predicts many tokens at once: use logits"):
        gen.next_logits()


@pytest.fixture
def command(bundle, capsys):
    """Run a verb with the bundle in this process; (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = _run([*map(str, arguments), "--bundle", str(bundle)])
        return code, *capsys.readouterr()

    return run


def test_the_command_line_draws_and_replays(command, gen, out):
    options = ["--steps", 30, "--temperature", 1.2, "--final-temperature", 0.6, "--proportion", "0.8:0.3"]
    code, said, error = command("generate", "-o", out / "a.png", "--count", 3, *options, "--min-steps", 4, "--json")
    assert code == 0, error
    expected = gen.generate(3, steps=30, temperature=1.2, final_temperature=0.6, proportion=(0.8, 0.3), min_steps=4)
    assert json.loads(said)["network_calls"] == expected.timings.calls
    assert json.loads(said)["settings"]["proportion"] == [0.8, 0.3]
    recipe = read_recipe(out / "a.png")
    known = {name: value for name, value in recipe.options.items() if value is not None}
    assert known.items() >= {"temperature": 1.2, "final_temperature": 0.6, "min_steps": 4}.items()
    assert known["proportion"] == (0.8, 0.3)
    assert not known.keys() & {"schedule", "order", "remask"}
    code, _, error = command("generate", "-o", out / "b.png", "--replay", out / "a.png")
    assert code == 0, error
    one, two = (np.asarray(Image.open(out / name)) for name in ("a.png", "b.png"))
    assert np.array_equal(one, two)
    assert np.array_equal(one[:, : SIZE[0]], np.asarray(expected.images[0]))
    code, _, error = command("generate", "-o", out / "c.png", "--replay", out / "a.png", "--proportion", "1")
    assert code == 2
    assert "leave out --proportion" in error


def test_a_run_of_few_steps_is_replayed_as_well(command, out):
    assert command("generate", "-o", out / "a.png", "--steps", 5, "--size", "12x10")[0] == 0
    assert command("generate", "-o", out / "b.png", "--replay", out / "a.png")[0] == 0
    assert (out / "a.png").read_bytes() == (out / "b.png").read_bytes()


def test_the_command_line_repaints_encodes_decodes_and_measures(command, gen, out):
    gen.generate(1, 2).images[0].save(out / "image.png")
    Image.fromarray(np.eye(6, 8, dtype=np.uint8) * 255).save(out / "mask.png")
    pair = [out / "image.png", out / "mask.png"]
    code, _, error = command("inpaint", *pair, "-o", out / "painted.png", "--proportion", 0.9, "--min-steps", 2)
    assert code == 0, error
    drawn, image = (np.asarray(Image.open(out / name)) for name in ("painted.png", "image.png"))
    assert np.array_equal(drawn[~np.eye(6, 8, dtype=bool)], image[~np.eye(6, 8, dtype=bool)])
    assert command("encode", out / "image.png", "-o", out / "tokens.npy")[0] == 0
    assert command("decode", out / "tokens.npy", "-o", out / "again.png")[0] == 0
    assert np.array_equal(np.asarray(Image.open(out / "again.png")), image)
    code, said, error = command("bench", "--repeats", 1, "--steps", 20)
    assert code == 0, error
    assert "20 steps" in said


def test_steps_of_a_stream_differ_from_one_another(gen):
    grids = [step.tokens for step in gen.stream(4, 3, min_steps=24)]
    assert sum(not np.array_equal(a, b) for a, b in itertools.pairwise(grids)) > 5
