"""Decoding tile by tile: exactly the whole for a decoder of known reach, and the real decoder without seams."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import smalti
from smalti.backends.onnxruntime_cpu import OnnxSession
from smalti.codec.tiles import TILE, decode_tiled, encode_tiled, seen_by_box, spans, tile_of

SIDES = st.integers(1, 14)
TILES = st.integers(1, 7)
HALOS = st.integers(0, 3)


class Window:
    """A decoder whose pixels depend on all tokens at most ``reach`` away, each of them, and on nothing else."""

    def __init__(self, factor: int, reach: int) -> None:
        self.factor, self.reach = factor, reach
        self.parts: list[tuple[int, ...]] = []

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        self.parts.append(tokens.shape)
        _, height, width = tokens.shape
        reach = self.reach
        # Beyond the canvas there is nothing, as with a convolution's padding.
        padded = np.pad(tokens, ((0, 0), (reach, reach), (reach, reach)))
        near = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1, 2 * reach + 1), (1, 2)).sum((3, 4))
        cells = np.stack([tokens, near, np.zeros_like(tokens)], axis=-1)
        pixels = cells.repeat(self.factor, 1).repeat(self.factor, 2)
        inside = np.arange(self.factor)
        pixels[..., 2] = np.tile(inside[:, None] * self.factor + inside, (height, width))
        assert pixels.max() < 256
        return pixels.astype(np.uint8)


def grids(height: int, width: int, count: int = 2) -> np.ndarray:
    """Tokens 1 .. 4: none is 0, so that a missing neighbour always shows."""
    return np.random.default_rng(height * 100 + width).integers(1, 5, (count, height, width), np.int32)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, TILES, HALOS, st.integers(1, 3))
def test_tiled_equals_whole_exactly(height, width, tile, reach, factor):
    tokens, decoder = grids(height, width), Window(factor, reach)
    whole = decoder(tokens)
    assert np.array_equal(decode_tiled(decoder, tokens, factor, reach, tile), whole)
    # A halo wider than needed changes nothing.
    assert np.array_equal(decode_tiled(decoder, tokens, factor, reach + 2, tile), whole)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, TILES, st.integers(1, 3))
def test_a_halo_one_too_small_shows(height, width, tile, reach):
    halo = reach - 1
    assume(height > tile + halo or width > tile + halo)
    tokens, decoder = grids(height, width), Window(2, reach)
    assert not np.array_equal(decode_tiled(decoder, tokens, 2, halo, tile), decoder(tokens))


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, HALOS, st.integers(1, 3), st.data())
def test_cases_of_a_part_are_decoded_from_the_tokens_around_it(height, width, reach, factor, data):
    tokens, decoder = grids(height, width), Window(factor, reach)
    whole = decoder(tokens)
    left, top = data.draw(st.integers(0, width * factor - 1)), data.draw(st.integers(0, height * factor - 1))
    right, bottom = data.draw(st.integers(left + 1, width * factor)), data.draw(st.integers(top + 1, height * factor))
    for halo in (reach, reach + 1, None):
        seen, (x, y, end, low) = seen_by_box(tokens, (left, top, right, bottom), factor, halo)
        assert np.array_equal(decoder(seen)[:, y:low, x:end], whole[:, top:bottom, left:right])
        if halo is not None:
            assert seen.shape[1] <= (bottom - top) // factor + 2 + 2 * halo
            assert seen.shape[2] <= (right - left) // factor + 2 + 2 * halo


def test_a_decoder_whose_pixels_depend_on_everything_sees_the_whole_canvas():
    tokens = grids(11, 13)

    def decode(part):
        """Every pixel is the sum of all tokens."""
        pixels = np.broadcast_to(part.sum((1, 2))[:, None, None, None] % 256, (len(part), *part.shape[1:], 3))
        return pixels.astype(np.uint8)

    assert np.array_equal(decode_tiled(decode, tokens, 1, None, tile=3), decode(tokens))
    assert not np.array_equal(decode_tiled(decode, tokens, 1, 2, tile=3), decode(tokens))


@settings(max_examples=50, deadline=None)
@given(SIDES, SIDES, TILES, HALOS)
def test_no_part_is_larger_than_a_tile_with_its_halo(height, width, tile, halo):
    decoder = Window(1, halo)
    decode_tiled(decoder, grids(height, width), 1, halo, tile)
    if len(decoder.parts) > 1:
        assert all(count == 1 for count, _, _ in decoder.parts)
        assert all(max(tall, wide) <= tile + 2 * halo for _, tall, wide in decoder.parts)
    else:
        assert max(height, width) <= tile + halo


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 100), st.integers(1, 40), st.integers(0, 10))
def test_spans_cover_every_token_once_and_stay_inside(length, tile, halo):
    covered = []
    for own, wide, begins in spans(length, tile, halo):
        covered += range(own.start, own.stop)
        assert own.stop - own.start <= tile
        assert wide.start == max(0, own.start - halo)
        assert wide.stop == min(length, own.stop + halo)
        assert begins == own.start - wide.start
    assert covered == list(range(length))


@pytest.mark.parametrize(("factor", "tile"), [(1, 32), (16, 32), (32, 32), (64, 16), (256, 16)])
def test_tiles_of_larger_tokens_have_fewer_of_them(factor, tile):
    """Their pixels fill the memory, not their tokens."""
    assert tile_of(factor) == tile
    seen: list[tuple[int, ...]] = []

    def decode(part):
        seen.append(part.shape)
        return np.zeros((1, part.shape[1] * factor, part.shape[2] * factor, 3), np.uint8)

    decode_tiled(decode, np.zeros((1, 70, 40), np.int32), factor, halo=3)
    assert max(max(shape[1:]) for shape in seen) == tile + 6
    if factor <= 16:
        sizes: list[tuple[int, ...]] = []

        def encode(part):
            sizes.append(part.shape)
            return np.zeros((1, part.shape[1] // factor, part.shape[2] // factor), np.int32)

        encode_tiled(encode, np.zeros((1, 70 * factor, 40 * factor, 3), np.uint8), factor, halo=3)
        assert max(max(shape[1:3]) for shape in sizes) == (tile + 6) * factor


@pytest.fixture(scope="module")
def canvas() -> np.ndarray:
    """64x64 random tokens of the tiny bundle: the busiest picture it can decode, 1024x1024 pixels."""
    return np.random.default_rng(0).integers(0, 64, (1, 64, 64), np.int32)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_real_decoder_has_no_seams(precision, canvas, tiny_bundle):
    bundle = smalti.open_bundle(tiny_bundle)
    latent = bundle.manifest.latent
    session = OnnxSession(bundle, "decoder", precision, threads=2)

    def decode(tokens):
        return session({"tokens": tokens})[0]

    whole = decode(canvas).astype(int)
    tiled = decode_tiled(decode, canvas, latent.factor, latent.halo).astype(int)
    assert tiled.shape == whole.shape == (1, 1024, 1024, 3)
    difference = np.abs(tiled - whole)[0].mean(axis=2)
    assert np.abs(tiled - whole).max() <= 1
    # Rounding may fall the other way anywhere, but not more often where tiles meet.
    distance = np.abs(np.arange(1024) - TILE * latent.factor + 0.5)
    border = np.minimum(distance[:, None], distance) < 2
    assert 0 < border.sum() < 1e4
    assert difference[border].mean() <= difference[~border].mean() + 1e-3

    # That the test sees a seam where there is one: without a halo the same decoder shows it.
    seamed = np.abs(decode_tiled(decode, canvas, latent.factor, 0).astype(int) - whole)[0].mean(axis=2)
    assert seamed[border].mean() > 10 * seamed[~border].mean() + 1e-3


def test_the_generator_decodes_any_canvas_as_its_decoder_would(canvas, tiny_bundle):
    generator = smalti.load(tiny_bundle, precision="fp32")
    session = OnnxSession(smalti.open_bundle(tiny_bundle), "decoder", "fp32", threads=2)
    tokens = canvas[:, :50, :45]
    (image,) = generator.decode(tokens)
    assert image.size == (45 * 16, 50 * 16)
    assert np.abs(np.asarray(image).astype(int) - session({"tokens": np.ascontiguousarray(tokens)})[0][0]).max() <= 1
