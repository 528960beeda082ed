"""Images of any size through the public interface: generated, streamed, repainted, painted beyond their edge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import smalti
from smalti.bundle.manifest import Resolution
from smalti.codec.masks import seen_by_encoder
from smalti.errors import UsageError
from smalti.families.canvas import MAX_TOKENS, canvas_denoiser, canvas_size

WAYS = [
    {"order": "random"},
    {"order": "halton", "schedule": "cosine"},
    {"order": "confidence", "schedule": "cosine"},
    {"schedule": "binomial"},
    {"remask": 0.5},
    {"remask": "mlm", "schedule": "binomial"},
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())))
def test_every_way_to_draw_fills_a_canvas_and_a_seed_keeps_its_own(gen, way):
    options = {"size": (128, 80), "steps": 5, "label": "planets", "guidance": 1.5, **way}
    result = gen.generate(3, 8, **options)
    assert result.tokens.shape == (3, 5, 8)
    assert result.tokens.max() < gen.manifest.latent.codes
    assert [image.size for image in result.images] == [(128, 80)] * 3
    assert result.settings.size == (128, 80)
    assert result.settings.value("stride") == 2
    for i in range(3):
        assert np.array_equal(gen.generate(seed=8 + i, **options).tokens[0], result.tokens[i])
    *_, last = gen.stream(3, 8, **options)
    assert np.array_equal(last.tokens, result.tokens)
    assert last.index == last.total - 1
    assert last.total == result.timings.calls


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())))
def test_every_way_to_draw_is_the_same_alone_and_in_a_batch(gen, way):
    options = {"steps": 6, "guidance": 2.0, "top_k": 20, "top_p": 0.95, **way}
    batch = gen.generate(4, 90, **options)
    for i in range(4):
        assert np.array_equal(gen.generate(seed=90 + i, **options).tokens[0], batch.tokens[i])
    used = batch.settings
    again = gen.generate(seeds=used.seeds, label=used.labels, **used.options)
    assert np.array_equal(again.tokens, batch.tokens)
    assert len({tokens.tobytes() for tokens in batch.tokens}) == 4


def test_ways_and_strides_draw_differently(gen):
    drawn = [gen.generate(4, 90, label="planets", steps=6, **way).tokens.tobytes() for way in WAYS]
    drawn += [gen.generate(4, 90, steps=6, order="confidence", choice_temperature=0.0).tokens.tobytes()]
    assert len(set(drawn)) == len(WAYS) + 1
    strides = [gen.generate(8, 90, steps=6, size=(144, 112), stride=stride).tokens for stride in (1, 4)]
    assert not np.array_equal(*strides)


def test_a_canvas_of_the_bundles_own_size_is_the_plain_image(gen):
    plain = gen.generate(2, 5)
    same = gen.generate(2, 5, size=(64, 64), stride=1)
    assert np.array_equal(same.tokens, plain.tokens)
    assert same.settings == plain.settings
    assert plain.settings.value("stride") is None


@pytest.mark.parametrize("size", [(16, 16), (32, 64), (16, 144), (80, 48)])
def test_sizes_smaller_than_the_bundles_own_work_too(gen, size):
    result = gen.generate(2, 5, size=size, steps=3, stride=3)
    assert result.tokens.shape == (2, size[1] // 16, size[0] // 16)
    assert result.images[1].size == size


def test_the_canvas_is_drawn_by_the_mixture_of_windows(gen):
    """One step without choice: the likeliest token of the mixture at every position."""
    result = gen.generate(1, 3, label="critters", size=(96, 64), stride=1, steps=1, top_k=1)
    label = np.array([gen.labels.index("critters")], np.int32)
    mixture = canvas_denoiser(gen.logits, (4, 6), (4, 4), stride=1, mask=64)
    everywhere = np.arange(24, dtype=np.int32)[None]
    logits = mixture(np.full((1, 24), 64, np.int32), label, everywhere)
    assert np.array_equal(result.tokens.reshape(-1), logits[0].argmax(axis=1))


def test_painting_beyond_the_edge_keeps_the_image(gen):
    image = gen.generate(1, 5, label="planets").images[0]
    wide, beyond = Image.new("RGB", (160, 96)), np.ones((96, 160), bool)
    wide.paste(image, (48, 16))
    beyond[16:80, 48:112] = False
    result = gen.inpaint(wide, beyond, 3, 7, steps=6, order="confidence", stride=3)
    assert result.settings.size == (160, 96)
    for drawn in result.images:
        assert np.array_equal(np.asarray(drawn)[16:80, 48:112], np.asarray(image))
    kept = gen.encode([seen_by_encoder(np.asarray(wide), beyond, 1)])[0][1:5, 3:7]
    assert np.array_equal(result.tokens[:, 1:5, 3:7], np.broadcast_to(kept, (3, 4, 4)))
    assert len({tokens.tobytes() for tokens in result.tokens}) == 3
    assert np.array_equal(
        gen.inpaint(wide, beyond, 1, 9, steps=6, order="confidence", stride=3).tokens[0], result.tokens[2]
    )


@pytest.mark.parametrize("remask", [1.0, "mlm"])
def test_repainting_never_draws_again_what_is_kept(gen, remask):
    image = gen.generate(1, 5).images[0]
    mask = np.zeros((64, 64), bool)
    mask[:, 32:] = True
    result = gen.inpaint(image, mask, 6, 3, remask=remask, steps=12, temperature=1.5)
    kept = gen.encode([image])[0][:, :2]
    assert np.array_equal(result.tokens[:, :, :2], np.broadcast_to(kept, (6, *kept.shape)))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"size": (100, 64)}, "size 100x64: sides must be multiples of 16; the nearest is 96x64"),
        ({"size": (0, 64)}, "size 0x64: sides must be multiples of 16; the nearest is 16x64"),
        ({"size": (-64, 64)}, "size -64x64: .*; the nearest is 16x64"),
        ({"size": 64}, r"size 64: width and height in pixels are needed, such as \(512, 256\)"),
        ({"size": (64.0, 64)}, "width and height in pixels are needed"),
        ({"size": (64, 64, 64)}, "width and height in pixels are needed"),
        ({"size": (16 * 2048, 16 * 513)}, f"at most {MAX_TOKENS} patches of 16x16 pixels"),
        ({"stride": 0}, "stride 0: allowed are 1 .. 4 tokens; more would leave gaps"),
        ({"stride": 5, "size": (128, 64)}, "stride 5: allowed are 1 .. 4"),
        ({"stride": 1.5}, "stride 1.5: a whole number is needed"),
        ({"remask": 2}, "remask 2: allowed are 0 .. 1 and mlm"),
        ({"remask": 0.5, "order": "confidence"}, "order confidence decides itself what stays masked"),
        ({"order": "confidence", "schedule": "binomial"}, "schedule binomial draws its own order"),
        ({"order": "raster"}, "order 'raster': allowed are random, halton and confidence"),
        (
            {"choice_temperature": 1.0},
            "choice_temperature 1.0: it belongs to order confidence, and this order is random",
        ),
        ({"choice_temperature": -1.0, "order": "confidence"}, r"choice_temperature -1.0: allowed are 0 .. 1e\+06"),
        ({"top_k": -1}, "top_k -1: allowed are 0"),
        ({"top_k": 1.5}, "top_k 1.5: a whole number is needed"),
        ({"top_p": 0.0}, "top_p 0.0: a number above 0, at most 1, is needed"),
        ({"top_p": 1.5}, "top_p 1.5: a number above 0, at most 1, is needed"),
        ({"top_p": float("nan")}, "top_p nan: a number above 0, at most 1, is needed"),
    ],
)
@pytest.mark.parametrize("method", ["generate", "stream"])
def test_what_is_not_allowed_is_refused_with_what_is(gen, method, wrong, says):
    with pytest.raises(UsageError, match=says):
        getattr(gen, method)(**wrong)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 32), st.integers(-10, 900), st.integers(-10, 900))
def test_a_size_is_taken_or_the_nearest_possible_one_is_named(factor, width, height):
    resolution = Resolution(pixels=4 * factor, factor=factor, decoder="decoder", halo=1)
    try:
        taken = canvas_size((width, height), (4, 4), resolution)
    except UsageError as error:
        if "at most" not in str(error):
            near = tuple(int(side) for side in str(error).rpartition(" ")[2].split("x"))
            assert canvas_size(near, (4, 4), resolution) == near
            best = [
                max(factor, min(range(0, 1000, factor), key=lambda side: abs(side - own))) for own in (width, height)
            ]
            assert [abs(a - b) for a, b in zip(near, (width, height))] == [
                abs(a - b) for a, b in zip(best, (width, height))
            ]
    else:
        assert taken == (width, height)
        assert width % factor == height % factor == 0
        assert min(width, height) > 0


def test_defaults_of_a_bundle_give_way_to_what_was_asked(copied, edit):
    edit(copied, lambda content: content["sampler"].update(order="confidence", choice_temperature=2.0, top_k=7))
    generator = smalti.load(copied)
    plain = generator.generate(steps=2).settings.options
    assert plain.items() >= {"order": "confidence", "choice_temperature": 2.0, "top_k": 7, "remask": 0.0}.items()
    assert generator.generate(steps=2, remask=0.5).settings.value("order") == "random"
    assert generator.generate(steps=2, schedule="binomial").settings.value("order") == "random"
    assert generator.generate(steps=2, order="halton").settings.value("choice_temperature") is None
    edit(copied, lambda content: content["sampler"].update(order="random", remask="mlm"))
    generator = smalti.load(copied)
    assert generator.generate(steps=2).settings.value("remask") == "mlm"
    assert generator.generate(steps=2, order="confidence").settings.value("remask") == 0.0
