"""Images to tokens and back: shapes, modes, sizes, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import smalti
from helpers.golden_bundle import plain_bundle
from smalti import BundleError, UsageError
from smalti.codec.pictures import to_pixels


@pytest.fixture(scope="module")
def picture(gen) -> Image.Image:
    """An image that the model itself made, so that its tokens are no accident of noise."""
    return gen.generate(1, 3, label="pixel-art").images[0]


def test_round_trips_keep_shapes_and_dtypes(gen):
    made = gen.generate(3, 1)
    tokens = gen.encode(made.images)
    assert tokens.dtype == np.int32
    assert tokens.shape == made.tokens.shape
    assert tokens.min() >= 0
    assert tokens.max() < gen.manifest.latent.codes
    again = gen.decode(tokens)
    assert [(image.mode, image.size) for image in again] == [("RGB", image.size) for image in made.images]


def test_decoding_drawn_tokens_gives_the_drawn_images(gen):
    made = gen.generate(5, 1)
    assert [image.tobytes() for image in gen.decode(made.tokens)] == [image.tobytes() for image in made.images]


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (100, 60, 301, 160), (600, 0, 640, 640), [0, 0, 640, 640]])
def test_cases_of_a_part_of_a_canvas_are_the_pixels_of_the_whole(box, gen):
    tokens = np.random.default_rng(0).integers(0, gen.manifest.latent.codes, (2, 40, 40))
    for whole, part in zip(gen.decode(tokens), gen.decode(tokens, box=box)):
        expected = np.asarray(whole.crop(tuple(box))).astype(int)
        assert np.abs(np.asarray(part) - expected).max() <= 1  # rounding


def test_cases_of_a_part_need_what_it_needs_alone(tiny_bundle):
    small = smalti.load(tiny_bundle, limits=smalti.Limits(pixels=64 * 64))
    tokens = np.zeros((1, 40, 40), np.int32)
    assert small.decode(tokens, box=(0, 0, 64, 64))[0].size == (64, 64)
    with pytest.raises(UsageError, match="pictures of 640x640"):
        small.decode(tokens)
    for wrong in ((0, 0, 641, 64), (10, 0, 10, 64), (0, 0, 64), "all"):
        with pytest.raises(UsageError, match=r"box .* within 640x640"):
            small.decode(tokens, box=wrong)


def test_cases_of_labels_are_known_before_anything_is_loaded(tiny_bundle, gen, python):
    code = "import smalti; print(*smalti.open_bundle(sys.argv[1]).labels)"
    assert python(code, tiny_bundle, blocked=("onnxruntime",)).stdout.split() == list(gen.labels)


def test_a_change_in_one_place_changes_tokens_there_and_nowhere_far(gen):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (160, 320, 3), np.uint8)
    changed = image.copy()
    changed[32:48, 240:256] = 255
    rows, columns = np.nonzero((gen.encode([image]) != gen.encode([changed]))[0])
    assert len(rows)
    assert np.abs(rows - 2).max() <= 5
    assert np.abs(columns - 15).max() <= 5


def test_images_of_a_batch_are_encoded_as_alone_whatever_its_size(gen):
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (300, 64, 64, 3), np.uint8))
    together = gen.encode(images)
    assert together.shape == (300, 4, 4)
    picked = [0, 1, 255, 256, 299]
    assert np.array_equal(np.concatenate([gen.encode([images[i]]) for i in picked]), together[picked])


@pytest.mark.parametrize(("width", "height"), [(16, 16), (96, 64), (32, 160), (640, 16)])
def test_any_multiple_of_the_factor_is_encoded_and_decoded(width, height, gen):
    rng = np.random.default_rng(0)
    tokens = gen.encode([rng.integers(0, 256, (height, width, 3), np.uint8)])
    assert tokens.shape == (1, height // 16, width // 16)
    assert [image.size for image in gen.decode(tokens)] == [(width, height)]


def test_modes_are_the_same_picture(gen, picture):
    expected = gen.encode([picture])
    opaque = picture.convert("RGBA")
    for same in (np.asarray(picture), opaque, picture.convert("RGBX")):
        assert np.array_equal(gen.encode([same]), expected)
    palette = picture.quantize(256)
    assert np.array_equal(gen.encode([palette]), gen.encode([palette.convert("RGB")]))
    grey = picture.convert("L")
    assert np.array_equal(gen.encode([grey]), gen.encode([Image.merge("RGB", [grey] * 3)]))
    assert gen.encode([picture.convert("1"), grey, palette, opaque]).shape[0] == 4


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 255), st.tuples(*[st.integers(0, 255)] * 3))
def test_transparency_is_laid_over_white(alpha, colour):
    image = Image.new("RGBA", (2, 3), (*colour, alpha))
    expected = [255 + (value - 255) * alpha / 255 for value in colour]
    assert np.abs(to_pixels(image).astype(float) - expected).max() <= 1
    palette = Image.new("P", (2, 3), 1)
    palette.putpalette([0, 0, 0, *colour])
    assert np.array_equal(to_pixels(palette)[0, 0], colour)
    palette.info["transparency"] = 1
    assert np.all(to_pixels(palette) == 255)


@pytest.mark.parametrize(("size", "near"), [((63, 64), "64x64"), ((100, 70), "96x64"), ((1, 1), "16x16")])
def test_sizes_that_do_not_fit_are_refused_with_the_nearest_that_does(size, near, gen):
    width, height = size
    says = f"image size {width}x{height}: sides must be multiples of 16; resize to {near}"
    with pytest.raises(UsageError, match=says):
        gen.encode([Image.new("RGB", size)])
    gen.encode([Image.new("RGB", tuple(map(int, near.split("x"))))])


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ([], "images is empty: one or more images are needed"),
        ([Image.new("RGB", (64, 64)), Image.new("RGB", (64, 32))], "one or more images are needed, all of one size"),
        (Image.new("RGB", (64, 64)), "a list of images is needed; put the one in brackets"),
        ([np.full((64, 64, 3), 2.0)], r"float64 values 2 \.\. 2; floats are 0 \.\. 1"),
        ([np.zeros((64, 64, 5), np.uint8)], r"PIL image or an array \[H, W, 3\]; got uint8 \[64, 64, 5\]"),
        ([np.zeros((0, 64, 3), np.uint8)], "size 64x0: it has no pixels"),
    ],
)
def test_what_cannot_be_encoded_is_refused(images, says, gen):
    with pytest.raises(UsageError, match=says):
        gen.encode(images)


def test_tokens_may_have_any_integer_type_and_one_grid_needs_no_batch(gen):
    tokens = gen.generate(1, 8).tokens
    expected = gen.decode(tokens)[0].tobytes()
    for other in (tokens[0], tokens.astype(np.uint8), tokens.astype(np.int64), tokens[0].tolist(), tokens[:, ::1]):
        assert gen.decode(other)[0].tobytes() == expected


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (np.full((1, 4, 4), 64), r"tokens must be 0 \.\. 63; got 64 \.\. 64"),
        (np.full((1, 4, 4), -1), r"tokens must be 0 \.\. 63; got -1"),
        (np.full((1, 4, 4), 2**40), "tokens must be"),
        (np.array([[[0, 2**64 - 1]]], np.uint64), "tokens must be"),
        (np.zeros((1, 4, 4)), r"integers \[N, h, w\].*got float64"),
        (np.zeros((1, 4, 4), bool), r"integers \[N, h, w\].*got bool"),
        (np.zeros(16, int), r"integers \[N, h, w\]"),
        (np.zeros((1, 1, 4, 4), int), r"integers \[N, h, w\]"),
        (np.zeros((0, 4, 4), int), r"integers \[N, h, w\]"),
        (np.zeros((1, 0, 4), int), r"integers \[N, h, w\]"),
    ],
)
def test_what_cannot_be_decoded_is_refused(tokens, says, gen):
    with pytest.raises(UsageError, match=says):
        gen.decode(tokens)


def test_a_bundle_without_encoder_generates_and_says_that_it_cannot_encode(copied, edit):
    edit(copied, lambda content: content["components"].pop("encoder"))
    generator = smalti.load(copied)
    assert len(generator.generate(2).images) == 2
    with pytest.raises(BundleError, match="has no encoder"):
        generator.encode([Image.new("RGB", (64, 64))])
    with pytest.raises(BundleError, match="no features"):
        generator.embed([Image.new("RGB", (64, 64))])


def test_an_embedding_has_length_one_and_is_that_of_the_image_alone(gen):
    images = list(np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), np.uint8))
    found = gen.embed(images)
    assert found.dtype == np.float32
    assert found.shape == (20, gen.manifest.components["encoder"].outputs[1].shape[1])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.ones(20), rtol=1e-5)
    np.testing.assert_allclose(gen.embed(images[7:8])[0], found[7], atol=1e-5)
    assert gen.embed([Image.fromarray(images[3]).resize((128, 96))]).shape == found[:1].shape


def test_images_that_are_alike_have_embeddings_that_are(gen):
    made = gen.generate(4, 1, label=["planets", "pixel-art", "lorelei", "landscape"]).images
    noise = np.random.default_rng(0).integers(-4, 5, (4, 64, 64, 3))
    again = [np.clip(np.asarray(image) + noise[i], 0, 255).astype(np.uint8) for i, image in enumerate(made)]
    alike = gen.embed(made) @ gen.embed(again).T
    assert np.array_equal(alike.argmax(1), np.arange(4))


@pytest.mark.parametrize("images", [[], [np.zeros((0, 64, 3), np.uint8)], np.zeros(3)])
def test_what_cannot_be_embedded_is_refused(images, gen):
    with pytest.raises(UsageError):
        gen.embed(images)


def test_an_encoder_that_gives_no_features_is_told(tmp_path):
    generator = smalti.load(plain_bundle(tmp_path / "plain"))
    image = generator.decode(np.zeros(generator.manifest.latent.grid, int))[0]
    assert generator.encode([image]).shape == (1, *generator.manifest.latent.grid)
    with pytest.raises(BundleError, match="export it again"):
        generator.embed([image])
