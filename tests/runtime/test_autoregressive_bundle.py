"""Bundles that draw one token after the other: the graph's answers are kept, and everything else works as elsewhere."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import smalti
from helpers.table_predictor import TablePredictor, autoregressive_bundle
from smalti import BundleError, UsageError
from smalti.drawing.generator import NETWORK_BATCH
from smalti.families.autoregressive.past import next_logits, past_shape
from smalti.families.autoregressive.sampler import run as draw_plainly
from smalti.families.registry import FAMILIES
from smalti.saving.recipe import read_recipe

LENGTH, CODES = 16, 64


@pytest.fixture(scope="module")
def written(tiny_bundle, tmp_path_factory) -> tuple[Path, TablePredictor]:
    path = tmp_path_factory.mktemp("autoregressive") / "tiny-ar"
    return path, autoregressive_bundle(tiny_bundle, path)


@pytest.fixture(scope="module")
def table(written) -> TablePredictor:
    return written[1]


@pytest.fixture(scope="module")
def gen(written) -> smalti.Generator:
    return smalti.load(written[0])


def reference(table: TablePredictor, seeds, labels, start=None, **options) -> np.ndarray:
    """Grids [N, 4, 4] by the plain sampler and the table in NumPy, which keeps nothing between calls."""
    start = np.full((len(seeds), LENGTH), CODES, np.int32) if start is None else start
    options = {"mask": CODES, "seeds": seeds, "labels": np.asarray(labels, np.int32), "width": 4, **options}
    *_, final = draw_plainly(table, start, **options)
    return final.reshape(-1, 4, 4)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_k": 5}, {"top_p": 0.6}, {"guidance": 2.5}])
def test_generate_draws_what_the_reference_draws(gen, table, options):
    count = NETWORK_BATCH + 3  # more than the graph is given at once
    labels = [i % 8 for i in range(count)]
    result = gen.generate(count, 7, label=labels, **options)
    expected = reference(table, range(7, 7 + count), labels, no_label=8, **options)
    assert np.array_equal(result.tokens, expected)
    assert result.timings.calls == LENGTH
    assert [image.size for image in result.images] == [(64, 64)] * count
    settings = result.settings
    assert [settings.value(name) for name in ("steps", "schedule", "order", "remask", "stride")] == [None] * 5
    assert settings.size == (64, 64)


def test_an_image_is_the_same_alone_and_in_a_batch(gen):
    batch = gen.generate(5, 40, guidance=1.5)
    for i in range(5):
        assert np.array_equal(gen.generate(seed=40 + i, guidance=1.5).tokens[0], batch.tokens[i])


def test_a_stream_gives_one_token_of_each_grid_per_network_call(gen):
    steps = list(gen.stream(3, 21))
    assert [step.index for step in steps] == list(range(LENGTH))
    assert {step.total for step in steps} == {LENGTH}
    for index, step in enumerate(steps):
        assert np.array_equal(step.tokens.reshape(3, -1) == CODES, np.tile(np.arange(LENGTH) > index, (3, 1)))
    assert steps[4].preview()[0].size == (64, 64)
    assert np.array_equal(steps[-1].tokens, gen.generate(3, 21).tokens)


def test_inpainting_draws_what_is_masked_given_what_comes_before(gen, table):
    image = gen.generate(1, 5).images[0]
    kept = gen.encode([image])[0].reshape(-1)
    mask = np.zeros((64, 64), bool)
    mask[16:32, 32:] = True  # tokens 6 and 7
    result = gen.inpaint(image, mask, 4, 3)
    assert result.timings.calls == 2
    start = np.tile(kept, (4, 1))
    start[:, 6:8] = CODES
    assert np.array_equal(result.tokens, reference(table, range(3, 7), [8] * 4, start))
    assert all(np.array_equal(np.asarray(drawn)[~mask], np.asarray(image)[~mask]) for drawn in result.images)


def test_what_was_read_is_not_read_again(table):
    asked = []

    def graph(inputs):
        tokens, past = inputs["tokens"], inputs["past"]
        asked.append((tokens.shape, past.shape))
        rows = table.rows[past.shape[3] + np.arange(tokens.shape[1]), tokens][:, None]
        present = np.concatenate([past, np.stack([rows, -rows])], axis=3)
        return [table.labels[inputs["labels"]] + present[0].sum(axis=(1, 2)), present]

    ask = next_logits(graph, CODES, (2, 1, CODES), batch=2)
    grids = np.random.default_rng(1).integers(0, CODES, (3, LENGTH)).astype(np.int32)
    labels = np.array([0, 3, 8], np.int32)

    def check(tokens, labels, shapes):
        asked.clear()
        assert np.array_equal(ask(tokens, labels), table(tokens, labels))
        assert asked == [((n, k), (2, n, 1, p, CODES)) for n, k, p in shapes]

    check(grids[:, :0], labels, [(2, 1, 0), (1, 1, 0)])
    check(grids[:, :1], labels, [(2, 1, 1), (1, 1, 1)])
    check(grids[:, :6], labels, [(2, 5, 2), (1, 5, 2)])
    # What does not continue is read from the start: other tokens, other labels, no more tokens than before.
    check(grids[:, :6], labels, [(2, 7, 0), (1, 7, 0)])
    other = grids.copy()
    other[1, 2] = (other[1, 2] + 1) % CODES
    check(other[:, :7], labels, [(2, 8, 0), (1, 8, 0)])
    check(other[:, :8], labels[::-1].copy(), [(2, 9, 0), (1, 9, 0)])
    check(other[:2, :9], labels[1::-1].copy(), [(2, 10, 0)])


def test_a_call_that_fails_is_forgotten(table):
    works = True

    def graph(inputs):
        if not works:
            raise KeyboardInterrupt
        past, new = inputs["past"], inputs["tokens"].shape[1]
        return [np.zeros((len(past[0]), CODES), np.float32), np.pad(past, [(0, 0)] * 3 + [(0, new), (0, 0)])]

    ask = next_logits(graph, CODES, (2, 1, CODES), batch=2)
    tokens, labels = np.zeros((3, 4), np.int32), np.zeros(3, np.int32)
    ask(tokens[:, :1], labels)
    works = False
    with pytest.raises(KeyboardInterrupt):
        ask(tokens[:, :2], labels)
    works = True
    assert ask(tokens[:, :2], labels).shape == (3, CODES)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"steps": 8}, "steps: bundle tiny-ar draws one token after the other in raster order.*leave it out"),
        ({"schedule": "exact"}, "schedule: bundle tiny-ar"),
        ({"order": "random", "remask": 0.5}, "order, remask: bundle tiny-ar"),
        ({"choice_temperature": 1.0}, "choice_temperature: bundle"),
        ({"stride": 2}, "stride: bundle"),
        ({"size": (128, 64)}, "size: these are 8x4 tokens, and bundle tiny-ar draws images of 4x4 tokens only"),
        ({"size": (100, 64)}, "size 100x64: sides must be multiples of 16"),
        ({"top_k": -1}, "top_k -1: allowed are 0"),
        ({"top_p": 0}, "top_p 0: a number above 0"),
    ],
)
def test_what_such_a_bundle_cannot_do_is_refused(gen, option, says):
    with pytest.raises(UsageError, match=says):
        gen.generate(**option)


def test_each_family_answers_its_own_questions(gen, tiny_bundle, table):
    none = np.zeros((1, 0), np.int32), np.zeros(1, np.int32)
    with pytest.raises(UsageError, match="predicts one token after the other: use next_logits"):
        gen.logits(*none, np.zeros((1, 1), np.int32))
    with pytest.raises(UsageError, match="predicts many tokens at once: use logits"):
        smalti.load(tiny_bundle).next_logits()
    assert np.array_equal(gen.next_logits()(*none), table(*none))


def test_settings_of_one_family_do_not_lay_out_a_run_of_the_other(gen, table):
    start = np.full((1, 4, 4), CODES, np.int32)
    with pytest.raises(UsageError, match="settings are of an autoregressive run"):
        FAMILIES["absorbing"].lay_out(start, gen.generate().settings, gen.manifest)


def test_a_larger_image_is_not_repainted(gen):
    with pytest.raises(UsageError, match="these are 8x4 tokens, and bundle tiny-ar draws images of 4x4 tokens only"):
        gen.inpaint(Image.new("RGB", (128, 64)), np.ones((64, 128), bool))


def test_the_report_and_a_fp16_request_name_what_runs(written, gen):
    assert gen.report.precision["predictor"] == "fp32"
    assert smalti.load(written[0], precision="fp16").report.precision["decoder"] == "fp16"


def test_a_precision_that_the_predictor_alone_comes_in_may_be_asked_for(edit, tmp_path, tiny_bundle):
    autoregressive_bundle(tiny_bundle, tmp_path / "mixed")

    def part(content):
        parts = content["components"]
        parts["decoder"]["variants"] = [v for v in parts["decoder"]["variants"] if v["precision"] == "fp32"]
        (variant,) = [v for v in parts["predictor"]["variants"] if v["precision"] == "fp32"]
        copied = {**variant["graph"], "file": "predictor.fp16.onnx"}
        (tmp_path / "mixed" / copied["file"]).write_bytes((tmp_path / "mixed" / variant["graph"]["file"]).read_bytes())
        parts["predictor"]["variants"].append({**variant, "precision": "fp16", "graph": copied})

    edit(tmp_path / "mixed", part)
    report = smalti.load(tmp_path / "mixed", precision="fp16").report
    assert (report.precision["predictor"], report.precision["decoder"]) == ("fp16", "fp32")
    with pytest.raises(UsageError, match="has no int8 variant"):
        smalti.load(tmp_path / "mixed", precision="int8")


def test_a_predictor_without_a_fixed_past_is_a_bad_bundle(written, edit, tmp_path, tiny_bundle):
    autoregressive_bundle(tiny_bundle, tmp_path / "broken")

    def loosen(content):
        content["components"]["predictor"]["inputs"][2]["shape"][4] = "d"

    edit(tmp_path / "broken", loosen)
    broken = smalti.open_bundle(tmp_path / "broken")
    with pytest.raises(BundleError, match=r"input past is float32 .*, in the manifest float32 \[2, 'n', 1, 'p', 'd'\]"):
        smalti.load(broken)
    # Nor would it do if the graph itself left that side free.
    words = r"past must be \[2\*layers, n, heads, p, d\] with numbers.*it is \[2, 'n', 1"
    with pytest.raises(BundleError, match=words):
        past_shape(broken.manifest.components["predictor"], "here")


def test_the_command_line_draws_replays_and_measures(run, written, out):
    common = ["--bundle", written[0]]
    code, said, error = run("generate", "-o", out / "a.png", "--count", 2, "--top-k", 9, "--json", *common)
    assert code == 0, error
    assert json.loads(said)["network_calls"] == LENGTH
    assert read_recipe(out / "a.png").options["steps"] is None
    code, _, error = run("generate", "-o", out / "b.png", "--replay", out / "a.png", *common)
    assert code == 0, error
    one, two = (np.asarray(Image.open(out / name)) for name in ("a.png", "b.png"))
    assert np.array_equal(one, two)
    for option in (["--steps", 3], ["--order", "halton"], ["--remask", "mlm"], ["--size", "128x64"]):
        code, _, error = run("generate", "-o", out / "c.png", *option, *common)
        assert code == 2
        assert "bundle tiny-ar draws" in error
    code, said, error = run("bench", "--repeats", 1, *common)
    assert code == 0, error
    assert "fp32" in said
    assert sorted(file.name for file in out.iterdir()) == ["a.png", "b.png"]


def test_every_prefix_of_a_grid_gives_the_tables_logits(gen, table):
    tokens = gen.generate(2, 3).tokens.reshape(2, -1)
    ask, labels = gen.next_logits(), np.array([1, 8], np.int32)
    for before, after in itertools.pairwise([0, 1, 2, 7, 15]):
        for n in (before, after):
            assert np.array_equal(ask(tokens[:, :n], labels), table(tokens[:, :n], labels))
