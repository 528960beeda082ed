"""Bundles of the family multinomial: generated, streamed, repainted, on canvases, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

import smalti
from helpers.table_denoiser import FACTOR, LEVEL, TableDenoiser, TimedTableDenoiser
from smalti import BundleError, UsageError
from smalti.bundle.manifest_file import decode
from smalti.cli.main import _run
from smalti.drawing.generator import NETWORK_BATCH
from smalti.families.canvas import canvas_denoiser
from smalti.families.multinomial import sampler as multinomial
from smalti.families.registry import FAMILIES
from smalti.families.settings import resolve
from smalti.families.sundae import sampler as sundae
from smalti.saving.recipe import read_recipe

GRID, CODES, LABELS, TIMES = (3, 4), 6, ("a", "b"), 30
LENGTH = GRID[0] * GRID[1]
SIZE = (GRID[1] * FACTOR, GRID[0] * FACTOR)


@pytest.fixture(scope="module")
def table() -> TimedTableDenoiser:
    return TimedTableDenoiser(GRID, CODES, len(LABELS), TIMES)


@pytest.fixture(scope="module")
def bundle(table, tmp_path_factory) -> Path:
    return table.bundle(tmp_path_factory.mktemp("multinomial") / "tiny", classes=LABELS, steps=8)


@pytest.fixture(scope="module")
def gen(bundle) -> smalti.Generator:
    return smalti.load(bundle)


def reference(table, seeds, labels, grid=GRID, start=None, steps=8, stride=None, **options) -> list[np.ndarray]:
    """Grids [N, h, w] after each step by the plain sampler and the table in NumPy; CODES in ``start``: to be drawn."""
    tokens = np.full((len(seeds), grid[0] * grid[1]), CODES) if start is None else start.reshape(len(seeds), -1)
    free = tokens == CODES
    tokens = np.where(free, sundae.start_tokens(seeds, grid, CODES), tokens).astype(np.int32)

    def at(time):
        return table.at(time) if stride is None else canvas_denoiser(table.at(time), grid, GRID, stride=stride)

    plan = multinomial.strides(steps, multinomial.cosine_alphas(TIMES, "printed"))
    given = {"codes": CODES, "seeds": seeds, "labels": np.asarray(labels, np.int32), "width": grid[1], "no_label": 2}
    grids = multinomial.run(at, tokens, plan, free=free, **given, **options)
    return [tokens.reshape(-1, *grid) for tokens in grids]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"steps": TIMES},
        {"steps": 1, "temperature": 0.5},
        {"steps": 5, "top_k": 2, "guidance": 1.5, "top_p": 0.9},
    ],
)
def test_generate_draws_what_the_reference_draws(gen, table, options):
    count = NETWORK_BATCH + 3  # more than the graph is given at once
    labels = [i % 2 for i in range(count)]
    result = gen.generate(count, 7, label=labels, **options)
    expected = reference(table, range(7, 7 + count), labels, **options)
    assert np.array_equal(result.tokens, expected[-1])
    assert result.timings.calls == len(expected) == options.get("steps", 8)
    used = result.settings
    assert used.options.keys() == {
        "temperature",
        "top_k",
        "top_p",
        "guidance",
        "resolution",
        "size",
        "steps",
        "stride",
    }
    assert used.value("stride") is None
    assert all(
        np.array_equal(np.asarray(image)[::FACTOR, ::FACTOR, 0], LEVEL * tokens)
        for image, tokens in zip(result.images, result.tokens)
    )


def test_an_image_is_the_same_alone_and_in_a_batch_and_a_stream_is_the_history(gen, table):
    batch = gen.generate(5, 40, guidance=1.5)
    for i in range(5):
        assert np.array_equal(gen.generate(seed=40 + i, guidance=1.5).tokens[0], batch.tokens[i])
    steps = list(gen.stream(3, 21, label="b"))
    history = reference(table, range(21, 24), [1] * 3)
    assert {step.total for step in steps} == {8}
    assert all(np.array_equal(step.tokens, grids) for step, grids in zip(steps, history, strict=True))
    assert max(int(step.tokens.max()) for step in steps) < CODES
    assert steps[0].preview()[0].size == SIZE


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
    everything = gen.inpaint(image, np.ones_like(mask), 3, 9, label="a")
    assert np.array_equal(everything.tokens, gen.generate(3, 9, label="a").tokens)


@pytest.mark.parametrize("size", [(16, 6), (10, 12)])
def test_larger_canvases_are_drawn_by_the_mixture_of_windows(gen, table, size):
    grid = (size[1] // FACTOR, size[0] // FACTOR)
    result = gen.generate(2, 8, label="b", size=size, stride=2)
    assert np.array_equal(result.tokens, reference(table, [8, 9], [1, 1], grid, stride=2)[-1])


def test_a_smaller_canvas_is_the_middle_of_one_window(gen, table):
    result = gen.generate(3, 8, label="b", size=(4, 6))
    assert np.array_equal(result.tokens, reference(table, [8, 9, 10], [1] * 3)[-1][:, :, 1:3])


def test_the_prior_itself_can_be_asked_at_a_time(gen, table):
    tokens, rows = np.arange(2 * LENGTH, dtype=np.int32).reshape(2, -1) % CODES, np.array([[0, 11], [3, 3]], np.int32)
    labels = np.array([0, 2], np.int32)
    assert np.array_equal(gen.logits(tokens, labels, rows, time=17), table.at(17)(tokens, labels, rows))
    for time in (None, -1, TIMES):
        with pytest.raises(UsageError, match=f"time {time}: bundle tiny-multinomial takes 0 .. 29"):
            gen.logits(tokens, labels, rows, time=time)


def test_what_has_no_meaning_here_is_refused(gen):
    with pytest.raises(UsageError, match=r"starts from noise and takes it away.*it has steps, stride"):
        gen.generate(proportion=0.5)
    with pytest.raises(UsageError, match=r"steps 31: allowed are 1 .. 30, the steps that this prior was trained with"):
        gen.generate(steps=31)
    settings = resolve(gen.manifest, 1, 0, {})
    start = np.full((1, *GRID), CODES, np.int32)
    with pytest.raises(UsageError, match="settings are of a multinomial run"):
        FAMILIES["absorbing"].lay_out(start, settings, gen.manifest)


def test_noise_belongs_to_this_family_alone(table, bundle, tmp_path):
    plain = smalti.load(TableDenoiser(GRID, CODES, 2).bundle(tmp_path / "sundae", classes=LABELS))
    tokens = np.zeros((1, LENGTH), np.int32)
    with pytest.raises(UsageError, match="time 3: bundle tiny-sundae takes none, as its prior knows no times"):
        plain.logits(tokens, tokens[:, 0], tokens, time=3)
    settings = resolve(plain.manifest, 1, 0, {})
    with pytest.raises(UsageError, match="settings are of a SUNDAE run"):
        FAMILIES["multinomial"].lay_out(tokens.reshape(1, *GRID), settings, plain.manifest)
    content = msgspec.json.decode((bundle / "manifest.json").read_bytes())
    for change in ({"noise": None}, {"family": "sundae"}):
        with pytest.raises(
            BundleError, match="noise says how much there is at each time in bundles of the family mult"
        ):
            decode(msgspec.json.encode({**content, **change}), "here")
    with pytest.raises(BundleError, match=r"schedule"):
        decode(msgspec.json.encode({**content, "noise": {"steps": 3, "schedule": "linear"}}), "here")


def test_the_command_line_draws_replays_and_repaints(bundle, gen, out, capsys):
    def command(*arguments: object) -> tuple[int, str, str]:
        code = _run([*map(str, arguments), "--bundle", str(bundle)])
        return code, *capsys.readouterr()

    options = ["--steps", 12, "--temperature", 0.8, "--top-p", 0.9]
    code, said, error = command("generate", "-o", out / "a.png", "--count", 3, *options, "--json")
    assert code == 0, error
    expected = gen.generate(3, steps=12, temperature=0.8, top_p=0.9)
    assert json.loads(said)["network_calls"] == 12
    recipe = read_recipe(out / "a.png")
    assert recipe.options.items() >= {"steps": 12, "temperature": 0.8, "schedule": None, "proportion": None}.items()
    assert command("generate", "-o", out / "b.png", "--replay", out / "a.png")[0] == 0
    assert (out / "a.png").read_bytes() == (out / "b.png").read_bytes()
    assert np.array_equal(np.asarray(Image.open(out / "b.png"))[:, : SIZE[0]], np.asarray(expected.images[0]))
    expected.images[0].save(out / "image.png")
    Image.fromarray(np.eye(6, 8, dtype=np.uint8) * 255).save(out / "mask.png")
    code, _, error = command("inpaint", out / "image.png", out / "mask.png", "-o", out / "painted.png", "--steps", 4)
    assert code == 0, error
    assert command("generate", "-o", out / "c.png", "--order", "halton")[0] == 2
    code, said, error = command("bench", "--repeats", 1, "--steps", 3)
    assert code == 0, error
    assert "3 steps" in said


def test_defaults_that_its_prior_does_not_allow_are_the_bundles_fault(table, tmp_path, capsys):
    path = table.bundle(tmp_path / "tiny", classes=LABELS, steps=TIMES + 1)
    for command in (["bundle", "verify", path], ["generate", "--bundle", path, "-o", tmp_path / "a.png"]):
        assert _run([str(word) for word in command]) == 3
        assert f"manifest.json has defaults that its prior does not allow: steps {TIMES + 1}" in capsys.readouterr().err
