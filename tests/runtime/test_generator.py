"""Generating: portable seeds, streams, threads, and what the report says."""

from __future__ import annotations

import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import numpy as np
import pytest

import smalti
from smalti import ProviderUnavailable, UsageError
from smalti.bundle.manifest import Precision
from smalti.drawing.generator import NETWORK_BATCH
from smalti.families.absorbing.sampler import fill_masked
from smalti_kernels.impl.cuda.driver import open_driver

PRECISIONS = get_args(Precision)
TOP = 2**64 - 1


@pytest.fixture(scope="module")
def loaded(tiny_bundle):
    """The tiny bundle in every precision."""
    return {precision: smalti.load(tiny_bundle, precision=precision) for precision in PRECISIONS}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("schedule", ["exact", "binomial"])
def test_an_image_of_a_batch_is_the_image_of_its_own_seed(precision, schedule, loaded):
    generator = loaded[precision]
    labels = [None, "critters", 3, "lorelei", None]
    batch = generator.generate(5, 40, label=labels, schedule=schedule)
    assert batch.tokens.shape == (5, *generator.manifest.latent.grid)
    assert batch.tokens.dtype == np.int32
    for i, label in enumerate(labels):
        alone = generator.generate(seed=40 + i, label=label, schedule=schedule)
        assert np.array_equal(alone.tokens[0], batch.tokens[i])
        assert alone.images[0].tobytes() == batch.images[i].tobytes()
    assert len({tokens.tobytes() for tokens in batch.tokens}) == 5


def test_a_batch_of_more_images_than_the_network_takes_at_once_is_no_different(loaded):
    count = 2 * NETWORK_BATCH + 3
    batch = loaded["fp32"].generate(count, 7, guidance=2.0)
    pieces = [loaded["fp32"].generate(5, 7 + first, guidance=2.0).tokens for first in range(0, count, 5)]
    assert np.array_equal(batch.tokens, np.concatenate(pieces)[:count])
    assert batch.timings.calls == batch.settings.value("steps")


def test_seeds_may_be_named_in_any_order_and_up_to_the_greatest(gen):
    named = gen.generate(seeds=[TOP, 3, 2**32, 3])
    assert named.settings.seeds == (TOP, 3, 2**32, 3)
    assert np.array_equal(named.tokens[1], named.tokens[3])
    assert np.array_equal(named.tokens[0], gen.generate(seed=TOP).tokens[0])
    assert np.array_equal(named.tokens[:2], gen.generate(seeds=np.array([TOP, 3], np.uint64)).tokens)
    # Neither half of a seed may be lost.
    assert not np.array_equal(named.tokens[2], gen.generate(seed=0).tokens[0])


def test_another_process_draws_the_same_tokens(python, tiny_bundle, loaded):
    code = """
import json, smalti
tokens = {p: smalti.load(sys.argv[1], precision=p).generate(3, 2**63, steps=5).tokens.tolist() for p in sys.argv[2:]}
print(json.dumps(tokens))
"""
    done = python(code, tiny_bundle, *PRECISIONS)
    assert done.returncode == 0, done.stderr
    here = {p: loaded[p].generate(3, 2**63, steps=5).tokens.tolist() for p in PRECISIONS}
    assert json.loads(done.stdout) == here


def test_precisions_agree_on_nearly_every_token(loaded):
    tokens = {precision: loaded[precision].generate(16).tokens for precision in PRECISIONS}
    assert np.mean(tokens["fp16"] == tokens["fp32"]) > 0.95
    assert np.mean(tokens["int8"] == tokens["fp32"]) > 0.8


def test_nothing_asked_takes_the_bundles_defaults(gen):
    result, default = gen.generate(), gen.manifest.sampler
    assert result.settings.seeds == (0,)
    assert (result.settings.value("steps"), result.settings.temperature) == (default.steps, default.temperature)
    assert (result.settings.guidance, result.settings.value("schedule")) == (default.guidance, default.schedule)
    assert result.timings.calls == default.steps
    side = gen.manifest.latent.grid[0] * gen.manifest.latent.factor
    assert [(image.size, image.mode) for image in result.images] == [((side, side), "RGB")]


def test_every_setting_changes_the_tokens(gen):
    base = gen.generate(8, label="planets").tokens
    for change in ({"seed": 8}, {"label": "lorelei"}, {"steps": 3}, {"temperature": 0.2}, {"guidance": 4.0}):
        assert not np.array_equal(gen.generate(8, **{"label": "planets", **change}).tokens, base), change
    assert not np.array_equal(gen.generate(8, label="planets", schedule="binomial").tokens, base)


def test_the_settings_of_a_result_make_it_again(gen):
    first = gen.generate(6, 90, steps=5, temperature=0.7, guidance=2.0, schedule="binomial")
    again = gen.generate(seeds=first.settings.seeds, label=first.settings.labels, **first.settings.options)
    assert np.array_equal(again.tokens, first.tokens)


def test_labels_go_by_name_and_by_index_of_any_integer_type(gen):
    for index, name in enumerate(gen.labels):
        by_name = gen.generate(1, 5, label=name)
        assert by_name.settings.labels == (name,)
        for other in (index, np.int64(index), [np.uint8(index)]):
            assert np.array_equal(gen.generate(1, 5, label=other).tokens, by_name.tokens)


def test_a_label_nobody_chose_is_drawn_by_the_seed_and_reported(gen):
    result = gen.generate(400, 11, steps=1)
    counts = [result.settings.labels.count(name) for name in gen.labels]
    assert sum(counts) == 400
    assert min(counts) > 400 / len(gen.labels) / 2
    chosen = gen.generate(20, 11, steps=1, label=result.settings.labels[:20])
    assert np.array_equal(chosen.tokens, result.tokens[:20])


def test_a_bundle_without_labels_generates_and_says_that_it_has_none(copied, edit):
    edit(copied, lambda content: content.update(classes=[], canvases={}))
    generator = smalti.load(copied)
    assert generator.generate(2).settings.labels == (None, None)
    with pytest.raises(UsageError, match="label 'cat': this bundle knows no labels"):
        generator.generate(label="cat")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"count": 0}, "count 0: at least 1 image"),
        ({"count": -3}, "count -3: at least 1 image"),
        ({"count": 1.5}, r"count 1\.5: a whole number is needed"),
        ({"count": 2, "seeds": [1, 2, 3]}, "count 2 does not fit the 3 seeds given; leave one of them out"),
        ({"seeds": []}, "seeds is empty"),
        ({"seeds": np.array([], int)}, "seeds is empty"),
        ({"seeds": [1, 2.5]}, r"seed 2\.5: a whole number is needed"),
        ({"seeds": [1, -2]}, rf"seed -2: allowed are 0 \.\. {TOP}"),
        ({"seed": -1}, rf"seed -1: allowed are 0 \.\. {TOP}"),
        ({"seed": 2**64}, rf"seed {2**64}: allowed are 0 \.\. {TOP}"),
        ({"seed": TOP, "count": 2}, rf"seed {2**64}: allowed are"),
        ({"seed": "7"}, "seed '7': a whole number is needed"),
        ({"label": "unicorns"}, "label 'unicorns': this bundle knows lorelei, notionists, .*pixel-art"),
        ({"label": 8}, "label 8: this bundle knows lorelei"),
        ({"label": -1}, "label -1: this bundle knows lorelei"),
        ({"label": ["lorelei", "critters"]}, "2 labels for 1 images: give one for all, or one each"),
        ({"label": [None, "x"], "count": 2}, "label 'x': this bundle knows"),
        ({"steps": 0}, "steps 0: allowed are 1"),
        ({"steps": 10**12}, r"steps 1000000000000: allowed are 1 \.\. "),
        ({"steps": 2.5}, r"steps 2\.5: a whole number is needed"),
        ({"temperature": 0}, r"temperature 0: allowed are 0\.01 \.\. 100"),
        ({"temperature": -1.0}, "temperature -1.0: allowed are"),
        ({"temperature": float("nan")}, "temperature nan: allowed are"),
        ({"temperature": float("inf")}, "temperature inf: allowed are"),
        ({"guidance": -0.5}, r"guidance -0\.5: allowed are 0 \.\. 100"),
        ({"guidance": float("nan")}, "guidance nan: allowed are"),
        ({"schedule": "linear"}, "schedule 'linear': allowed are exact, cosine and binomial"),
    ],
)
@pytest.mark.parametrize("method", ["generate", "stream"])
def test_what_is_not_allowed_is_refused_with_what_is(method, wrong, says, gen):
    # A stream refuses when it is asked for, not when its first step is taken.
    with pytest.raises(UsageError, match=says):
        getattr(gen, method)(**wrong)


@pytest.mark.parametrize("schedule", ["exact", "binomial"])
def test_a_stream_ends_with_the_tokens_that_generate_returns(schedule, gen):
    options = {"count": 3, "seed": 21, "steps": 6, "schedule": schedule}
    steps, whole = list(gen.stream(**options)), gen.generate(**options)
    assert [step.index for step in steps] == list(range(len(steps)))
    assert {step.total for step in steps} == {len(steps)} == {whole.timings.calls}
    if schedule == "exact":
        assert len(steps) == 6
    assert np.array_equal(steps[-1].tokens, whole.tokens)
    assert steps[0].settings == whole.settings
    mask = gen.manifest.latent.codes
    masked = [int((step.tokens == mask).sum()) for step in steps]
    assert masked == sorted(set(masked), reverse=True)
    assert masked[-1] == 0
    for before, after in itertools.pairwise(steps):
        kept = before.tokens != mask
        assert np.array_equal(before.tokens[kept], after.tokens[kept])


def test_every_step_of_a_stream_can_be_previewed(gen):
    steps, whole = list(gen.stream(2, 4)), gen.generate(2, 4)
    for step in steps:
        before = step.tokens.copy()
        for shown in (step.preview(), step.images()):
            assert [image.size for image in shown] == [image.size for image in whole.images]
        assert np.array_equal(step.tokens, before)
    assert [image.tobytes() for image in steps[-1].images()] == [image.tobytes() for image in whole.images]
    assert steps[0].images()[0].tobytes() != whole.images[0].tobytes()


def test_previews_come_from_the_preview_decoder_where_there_is_one(gen, copied, edit):
    edit(copied, lambda content: content["components"].pop("preview"))
    (rough, sharp), without = zip(*((step.preview(), step.images()) for step in gen.stream(2, 4))), smalti.load(copied)
    assert [[image.tobytes() for image in step.preview()] for step in without.stream(2, 4)] == [
        [image.tobytes() for image in images] for images in sharp
    ]
    difference = np.asarray(rough[-1][0]).astype(int) - np.asarray(sharp[-1][0])
    assert 0 < np.abs(difference).mean() < 60


def test_a_canvas_is_previewed_whole(gen):
    *_, last = gen.stream(1, 4, size=(320, 128))
    assert last.preview()[0].size == (320, 128)


def test_a_stream_can_be_left_early_and_another_begun(gen):
    for step in gen.stream(1, 4):
        if step.index == 1:
            break
    assert np.array_equal([*gen.stream(1, 4)][-1].tokens, gen.generate(1, 4).tokens)


def test_masked_tokens_are_shown_as_their_nearest_neighbour():
    mask = 9
    tokens = np.array([[[9, 9, 9, 9], [1, 9, 9, 2], [9, 9, 9, 9]], [[9] * 4] * 3, [[3] * 4] * 3], np.int32)
    filled = fill_masked(tokens, mask)
    assert filled.tolist() == [[[1, 1, 2, 2]] * 3, [[0] * 4] * 3, [[3] * 4] * 3]
    assert tokens[0, 0, 0] == mask


def test_threads_that_generate_at_once_get_what_they_would_get_one_by_one(gen):
    seeds = list(range(100, 116))
    one_by_one = [gen.generate(2, seed, guidance=1.5).tokens for seed in seeds]
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda seed: gen.generate(2, seed, guidance=1.5).tokens, seeds))
    assert np.array_equal(at_once, one_by_one)


def test_threads_that_use_a_component_for_the_first_time_at_once_all_succeed(tiny_bundle, gen):
    images = gen.generate(4).images
    tokens = gen.encode(images)
    for _ in range(3):
        fresh = smalti.load(tiny_bundle)
        with ThreadPoolExecutor(4) as pool:
            assert all(np.array_equal(found, tokens) for found in pool.map(fresh.encode, [images] * 4))


def test_the_report_says_what_was_asked_what_runs_and_why(tiny_bundle, gen):
    report = gen.report
    assert (report.requested, report.actual, report.requested_precision) == ("auto", "cpu", "auto")
    assert report.precision == {"denoiser": "int8", "decoder": "int8", "encoder": "fp32", "preview": "int8"}
    assert "int8 is certified for" in report.why
    assert "; encoder in fp32" in report.why
    assert report.runtime.startswith("onnxruntime")
    assert report.threads >= 1
    assert json.loads(json.dumps(report.to_dict()))["precision"]["denoiser"] == "int8"
    asked = smalti.load(tiny_bundle, provider="cpu", precision="fp16", threads=1).report
    assert (asked.requested, asked.requested_precision, asked.threads) == ("cpu", "fp16", 1)
    assert set(asked.precision.values()) == {"fp16"}
    assert "cpu was asked for" in asked.why


def test_auto_precision_takes_only_what_the_bundle_holds(copied, edit):
    def drop(content):
        part = content["components"]["denoiser"]
        part["variants"] = [variant for variant in part["variants"] if variant["precision"] != "int8"]

    edit(copied, drop)
    report = smalti.load(copied).report
    assert report.precision == {"denoiser": "fp32", "decoder": "int8", "encoder": "fp32", "preview": "int8"}


def test_a_precision_that_the_bundle_lacks_is_refused_with_those_it_has(copied, edit):
    def drop(content):
        for part in content["components"].values():
            part["variants"] = [variant for variant in part["variants"] if variant["precision"] == "fp32"]

    edit(copied, drop)
    assert smalti.load(copied).report.precision["denoiser"] == "fp32"
    with pytest.raises(UsageError, match="has no fp16 variant; it comes in fp32"):
        smalti.load(copied, precision="fp16")


@pytest.mark.parametrize("provider", ["cuda", "rtx", "trt"])
def test_a_gpu_that_is_not_there_is_unavailable_not_replaced(provider, tiny_bundle, monkeypatch):
    monkeypatch.setattr("smalti_kernels.impl.cuda.launch.driver", lambda: open_driver("no-such-library.so"))
    says = rf"provider {provider} cannot run here: there is no NVIDIA driver .*use provider cpu"
    with pytest.raises(ProviderUnavailable, match=says):
        smalti.load(tiny_bundle, provider=provider)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"provider": "nonsense"}, "provider 'nonsense': allowed are auto, cpu, cuda, rtx, trt and webgpu"),
        ({"precision": "fp4"}, "precision 'fp4': allowed are auto, fp32, fp16, int8"),
        ({"threads": 0}, "threads 0: a whole number, at least 1"),
    ],
)
def test_what_load_does_not_know_is_refused(wrong, says, tiny_bundle):
    with pytest.raises(UsageError, match=says):
        smalti.load(tiny_bundle, **wrong)


def test_timings_add_up_to_the_time_it_took(gen):
    unaccounted = []
    for _ in range(5):
        started = time.perf_counter()
        timings = gen.generate(16, steps=4).timings
        unaccounted.append(time.perf_counter() - started - timings.total)
        assert min(timings.network, timings.draw, timings.decoder, timings.host) > 0
        assert timings.calls == 4
        assert timings.total == pytest.approx(timings.network + timings.draw + timings.decoder + timings.host)
    # The least of several, for a busy machine may stop the process between two looks at the clock.
    assert 0 <= min(unaccounted) < 0.01
