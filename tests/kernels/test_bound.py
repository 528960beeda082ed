"""The bound that spares most tokens an exact score: never below the score, in either implementation."""

from __future__ import annotations

import numpy as np
import pytest

from smalti_kernels import sample
from smalti_kernels.impl import best
from smalti_kernels.spec import noise as n


def words() -> np.ndarray:
    """Noise words around every edge of the Gumbel table and of float32, and many others."""
    rng = np.random.default_rng(0)
    edges = np.concatenate([(64 + np.arange(64)) << k >> 6 for k in range(32)] + [np.array([0])])
    edges = (edges[:, None] + np.arange(-3, 4)).ravel()
    edges = np.concatenate((edges, -edges, (1 << 32) - (edges >> 1))) % (1 << 32)
    random = rng.integers(0, 2**32, 1 << 20)
    return np.concatenate((edges, random, random >> 12, random >> 22)).astype(np.uint32)


@pytest.mark.parametrize("halved", [True, False])
def test_the_bound_of_the_noise_is_above_the_gumbel(halved):
    h = words()
    gumbel = np.empty(h.shape, np.int32)
    n.gumbel(h.copy(), out=gumbel, scratch=np.empty_like(h), index=np.empty(h.shape, np.intp))
    # The reference halves the word to convert it as int32; the Triton kernel converts it whole.
    single = (h >> np.uint32(1)).view(np.int32).astype(np.float32) if halved else h.astype(np.float32)
    of_one = float((127 + 31 if halved else 127 + 32) << 23)
    bound = of_one - single.view(np.int32).astype(np.float32).astype(np.float64)
    # A small part of the slack covers the table and the conversions; the rest is for the rounding of the logits.
    assert np.all(bound + best.BOUND_SLACK / 64 >= gumbel * best.BOUND_UNITS)


@pytest.mark.parametrize("magnitude", [1e-3, 1.0, 100.0, 16000.0])
def test_the_slack_covers_the_rounding_of_scaled_logits(magnitude):
    rng = np.random.default_rng(1)
    logits = (rng.uniform(-1, 1, 1 << 16) * magnitude).astype(np.float32)
    lowered = rng.integers(127 << 23, 158 << 23, 1 << 16).astype(np.float32)
    for temperature in (1.0, 0.7, 1.3):
        scale = np.float32(65536) / np.float32(temperature)
        near = np.abs(logits * scale) <= best.SCORE_LIMIT
        bound = logits * (scale * np.float32(best.BOUND_UNITS)) - lowered
        exact = np.rint(logits * scale).astype(np.float64) * best.BOUND_UNITS - lowered
        assert np.abs(bound - exact)[near].max() < best.BOUND_SLACK / 2


@pytest.mark.parametrize("spread", [0.0, 1e-3, 1.0, 6.0, 60.0])
def test_the_draw_is_the_argmax_of_all_scores(spread):
    rng = np.random.default_rng(2)
    rows, vocabulary = 256, 700
    logits = (rng.standard_normal((rows, vocabulary)) * spread).astype(np.float32)
    drawn = sample(
        logits,
        np.zeros((1, rows), np.int32),
        sample=np.zeros(rows, int),
        position=np.arange(rows),
        seeds=[8],
        step=1,
        width=16,
        temperature=0.6,
    ).tokens[0]
    y, x = np.divmod(np.arange(rows), 16)
    keys = n.random_words(8, stream=n.STREAM_DRAW, step=1, y=y, x=x)
    noise = np.empty(logits.shape, np.uint32)
    n.token_noise(keys, n.token_words(vocabulary), out=noise, scratch=np.empty_like(noise))
    score = np.empty(noise.shape, np.int32)
    n.gumbel(noise, out=score, scratch=np.empty_like(noise), index=np.empty(noise.shape, np.intp))
    score += np.rint(logits * (np.float32(65536) / np.float32(0.6))).astype(np.int32)
    assert np.array_equal(drawn, score.argmax(axis=1))
