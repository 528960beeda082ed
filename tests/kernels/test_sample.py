"""The draw: the specification followed token by token, independence of batching, precisions, guidance."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import smalti_kernels
from helpers.draw_case import GRIDS, LENGTH, VOCABULARY, WIDTH, case
from smalti_kernels import STREAM_DRAW, SamplingError, random_words, sample
from smalti_kernels.impl import reference
from smalti_kernels.spec import noise as n
from smalti_kernels.spec.guidance import guide


def specified(c: dict[str, Any]) -> np.ndarray:
    """The draw, row by row, from the description alone; the Gumbels come from the tested table look-up."""
    result = c["tokens"].copy()
    for row, (grid, position) in enumerate(zip(c["sample"], c["position"], strict=True)):
        y, x = divmod(int(position), c["width"])
        key = random_words(
            c["seeds"][grid], stream=STREAM_DRAW, step=np.broadcast_to(c["step"], len(c["sample"]))[row], y=y, x=x
        )
        noise = np.empty((1, c["logits"].shape[1]), np.uint32)
        n.token_noise(key[None], n.token_words(noise.size), out=noise, scratch=np.empty_like(noise))
        score = np.empty(noise.shape, np.int32)
        n.gumbel(noise, out=score, scratch=np.empty_like(noise), index=np.empty(noise.shape, np.intp))
        scale = np.float32(65536) / np.float32(np.broadcast_to(c["temperature"], GRIDS)[grid])
        best, token = None, -1
        for index, value in enumerate(c["logits"][row].astype(np.float32)):
            if value == -np.inf:
                continue
            total = round(float(max(value * scale, np.float32(-(2**30))))) + int(score[0, index])
            if best is None or total > best:
                best, token = total, index
        result[grid, position] = token
    return result


def test_public_names():
    assert smalti_kernels.__all__ == sorted(smalti_kernels.__all__, key=lambda name: (not name.isupper(), name))
    for name in smalti_kernels.__all__:
        assert hasattr(smalti_kernels, name)
    constants = (smalti_kernels.STREAM_START, smalti_kernels.STREAM_ORDER, smalti_kernels.STREAM_SUBSET, STREAM_DRAW)
    assert constants == (0, 1, 2, 3)


@pytest.mark.parametrize("seed", range(3))
def test_draw_follows_the_specification(seed):
    c = case(seed)
    c["logits"][:, seed::5] = -np.inf
    c["step"] = np.arange(len(c["sample"])) % 7
    assert np.array_equal(sample(**c).tokens, specified(c))


def test_draws_are_pinned():
    # Logits made of integers, so that nothing but the draw decides the tokens.
    rows, vocabulary = 256, 1000
    index = np.arange(rows * vocabulary, dtype=np.uint64).reshape(rows, vocabulary)
    logits = ((index * np.uint64(2654435761) >> np.uint64(12)) % np.uint64(4096)).astype(np.float32) / np.float32(512)
    tokens = sample(
        logits,
        np.zeros((2, 128), np.int32),
        sample=np.arange(rows) // 128,
        position=np.arange(rows) % 128,
        seeds=[1, 2**63],
        step=9,
        width=16,
        temperature=[0.7, 1.3],
    ).tokens
    digest = hashlib.sha256(tokens.astype("<i4").tobytes()).hexdigest()
    assert digest == "aa62abc7acbc10a2427aff43f0be13895f3d4deeb73602e08f4dc43d3a62bb26"


def test_only_named_positions_change_and_the_input_stays():
    c = case()
    before = c["tokens"].copy()
    keep = slice(0, 10)
    few = c | {name: c[name][keep] for name in ("logits", "sample", "position")}
    result = sample(**few).tokens
    drawn = np.zeros(result.shape, bool)
    drawn[few["sample"], few["position"]] = True
    assert result.dtype == np.int32
    assert np.array_equal(c["tokens"], before)
    assert np.all(result[~drawn] == -1)
    assert np.all((result[drawn] >= 0) & (result[drawn] < VOCABULARY))


@settings(max_examples=40, deadline=None)
@given(
    st.permutations(range(GRIDS * LENGTH)),
    st.lists(st.integers(0, GRIDS * LENGTH), max_size=4),
    st.sampled_from([40, 900]),
)
def test_rows_do_not_depend_on_order_subset_or_batch(order, cuts, block):
    c = case()
    together = sample(**c).tokens
    pieces = np.split(np.array(order), sorted(cuts))
    result = c["tokens"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "_BLOCK_ELEMENTS", block)
        for piece in pieces:
            rows = {name: c[name][piece] for name in ("logits", "sample", "position")}
            result = sample(**(c | {"tokens": result} | rows)).tokens
    assert np.array_equal(result, together)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, GRIDS - 1), st.integers(0, LENGTH - 1))
def test_a_sample_made_alone_is_the_same(grid, position):
    c = case()
    row = int(np.flatnonzero((c["sample"] == grid) & (c["position"] == position))[0])
    alone = sample(
        c["logits"][row : row + 1],
        np.zeros((1, LENGTH), np.int32),
        sample=[0],
        position=[position],
        seeds=[c["seeds"][grid]],
        step=[c["step"]],
        width=WIDTH,
        temperature=float(c["temperature"][grid]),
    ).tokens
    assert alone[0, position] == sample(**c).tokens[grid, position]


def test_every_coordinate_changes_the_draw():
    c = case() | {"logits": np.zeros((GRIDS * LENGTH, VOCABULARY), np.float32), "temperature": 1.0}
    base = sample(**c).tokens
    for change in ({"step": 4}, {"seeds": [6, 7, 8]}, {"width": 6}):
        # Flat logits: a token stays with probability 1 / 70, so nearly all differ (with width 6 the first row stays).
        assert np.mean(sample(**(c | change)).tokens != base) > 0.5


def test_a_grid_of_more_tokens_than_a_block_holds():
    vocabulary = (1 << 16) + 5
    logits = np.zeros((2, vocabulary), np.float32)
    logits[:, -1] = 40
    tokens = sample(
        logits, np.zeros((1, 2), np.int32), sample=[0, 0], position=[0, 1], seeds=[1], step=0, width=1, temperature=1
    ).tokens
    assert tokens.tolist() == [[vocabulary - 1] * 2]


def test_no_rows_and_no_grids():
    c = case()
    none = {"logits": np.zeros((0, VOCABULARY), np.float32), "sample": [], "position": []}
    result = sample(**(c | none)).tokens
    assert np.array_equal(result, c["tokens"])
    assert result is not c["tokens"]
    empty = c | none | {"tokens": np.zeros((0, LENGTH), np.int32), "seeds": [], "temperature": 1.0}
    assert sample(**empty).tokens.shape == (0, LENGTH)


def test_half_precision_equals_the_same_values_in_single():
    c = case()
    half = c["logits"].astype(np.float16)
    assert np.array_equal(
        sample(**(c | {"logits": half})).tokens, sample(**(c | {"logits": half.astype(np.float32)})).tokens
    )


def test_bfloat16_equals_the_same_values_in_single():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    c = case()
    c["logits"][:, 3] = -np.inf
    short = c["logits"].astype(ml_dtypes.bfloat16)
    single = c | {"logits": short.astype(np.float32)}
    assert np.array_equal(sample(**(c | {"logits": short})).tokens, sample(**single).tokens)
    assert not np.array_equal(short.astype(np.float32), c["logits"])
    guided = {"uncond": short[::-1], "guidance": 1.5}
    expected = sample(**single, **(guided | {"uncond": short[::-1].astype(np.float32)})).tokens
    assert np.array_equal(sample(**(c | {"logits": short}), **guided).tokens, expected)
    bits = short.view(np.uint16)
    with pytest.raises(SamplingError, match="bfloat16"):
        sample(**(c | {"logits": bits}))


def test_half_precision_keeps_its_subnormal_and_infinite_values():
    c = case() | {"temperature": 1e-6}
    logits = np.full((36, VOCABULARY), -np.inf, np.float16)
    logits[:, 4:8] = np.float16([1e-7, -6e-8, 6e-8, 6.1e-5])
    expected = sample(**(c | {"logits": logits.astype(np.float32)})).tokens
    assert np.array_equal(sample(**(c | {"logits": logits})).tokens, expected)
    logits[np.isinf(logits)] = -6e4 * 1e-6
    expected = sample(**(c | {"logits": logits.astype(np.float32)})).tokens
    assert np.array_equal(sample(**(c | {"logits": logits})).tokens, expected)
    assert np.unique(expected).tolist() == [7]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_guidance_is_three_float32_operations(dtype):
    c = case()
    logits = c["logits"].astype(dtype)
    uncond = (np.random.default_rng(8).standard_normal(logits.shape) * 2).astype(dtype)
    single, other = logits.astype(np.float32), uncond.astype(np.float32)
    weight = np.float32(2.7)
    guided = other + weight * (single - other)
    expected = sample(**(c | {"logits": guided})).tokens
    assert np.array_equal(sample(**(c | {"logits": logits}), uncond=uncond, guidance=2.7).tokens, expected)
    assert not np.array_equal(expected, sample(**c).tokens)


def test_guidance_rounds_after_every_operation():
    rng = np.random.default_rng(1)
    cond, uncond = (rng.uniform(50, 200, 4096).astype(np.float32) for _ in range(2))
    weight = np.float32(3.3)
    # A fused multiply-add is the float64 result rounded once: the product of two float32 is exact in float64.
    fused = (uncond + np.float64(weight) * (cond - uncond).astype(np.float64)).astype(np.float32)
    separate = uncond + weight * (cond - uncond)
    guide(cond, uncond, weight)
    assert np.array_equal(cond, separate)
    assert not np.array_equal(cond, fused)
