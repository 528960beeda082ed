"""The Triton kernel, interpreted, against the reference. `test_triton.py` runs this file with TRITON_INTERPRET=1.

Triton reads that variable when it is first imported, so these tests need a process of their own.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smalti_kernels import STREAM_DRAW, SamplingError, random_words, sample
from smalti_kernels.checks import Draw, as_request
from smalti_kernels.errors import KernelError
from smalti_kernels.impl.abi import VARIANTS, Variant
from smalti_kernels.impl.reference import draw
from smalti_kernels.impl.triton.launch import interpret
from smalti_kernels.spec import noise as n

DTYPES: dict[str, Any] = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}


def case(seed: int, rows: int, vocabulary: int, kind: str = "fp32", spread: float = 3.0) -> dict[str, Any]:
    """Ragged selections of three grids of different temperatures, an eighth of the tokens forbidden."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(3 * rows, rows, replace=False)
    logits = rng.standard_normal((rows, vocabulary)) * spread
    logits[:, 1:][rng.random((rows, vocabulary - 1)) < 0.125] = -np.inf
    return {
        "logits": logits.astype(DTYPES[kind]),
        "tokens": rng.integers(0, vocabulary, (3, rows)).astype(np.int32),
        "sample": chosen // rows,
        "position": chosen % rows,
        "seeds": [5, 2**64 - 1, seed],
        "step": rng.integers(0, 2**32, rows),
        "width": 1,
        "temperature": [0.05, 0.9, 2.0],
    }


def both(c: dict[str, Any], variant: Variant | None = None, programs: int = 1) -> tuple[Draw | str, Draw | str]:
    """What the reference and the kernel make of it; an error is its message."""
    defaults = {"uncond": None, "guidance": 1.0, "top_k": 0, "top_p": 1.0, "logprob": False, "threads": 1}
    request = as_request(**(defaults | c))
    results: list[Draw | str] = []
    for implementation in (draw, lambda request: interpret(request, variant, programs)):
        try:
            results.append(implementation(request))
        except SamplingError as error:
            results.append(str(error))
    return results[0], results[1]


def assert_equal(expected: Draw | str, found: Draw | str) -> None:
    if isinstance(expected, str) or isinstance(found, str):
        assert expected == found
        return
    assert np.array_equal(expected.tokens, found.tokens)
    assert np.array_equal(expected.changed, found.changed)
    assert (expected.logprob is None) == (found.logprob is None)
    assert expected.logprob is None or np.array_equal(expected.logprob, found.logprob)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_request_gives_the_same_result(data):
    vocabulary = data.draw(st.sampled_from([1, 2, 17, 64, 70, 256, 1000, 1024]))
    c = case(
        data.draw(st.integers(0, 2**32)),
        data.draw(st.integers(1, 40)),
        vocabulary,
        data.draw(st.sampled_from(list(DTYPES))),
        data.draw(st.sampled_from([0.0, 0.01, 1.0, 5.0, 60.0])),
    )
    if data.draw(st.booleans()):
        c["uncond"] = np.roll(c["logits"], 1, axis=0)
        c["guidance"] = data.draw(st.sampled_from([-1.0, 0.0, 1.5, 4.0]))
    if data.draw(st.booleans()):
        c["top_k"] = data.draw(st.lists(st.integers(0, vocabulary + 1), min_size=3, max_size=3))
    if data.draw(st.booleans()):
        c["top_p"] = data.draw(st.lists(st.floats(0.01, 1), min_size=3, max_size=3))
    c["logprob"] = data.draw(st.booleans())
    assert_equal(*both(c))


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.logits == "fp16"], ids=lambda v: v.name)
def test_every_shape_that_is_built_gives_the_same_result(variant):
    # Ragged at the end of the last chunk, rows that do not fill the last group, programs that share them unevenly.
    c = case(1, 7, min(variant.vocabulary, 2 * variant.chunk) - 9, "fp16")
    c |= {"logprob": True} | ({"top_k": [3, 0, 40], "top_p": [0.5, 0.9, 1.0]} if variant.held else {})
    assert_equal(*both(c, variant, programs=3))


def test_narrow_lanes_whose_second_bound_matters_are_searched_again():
    # 16 lanes of 20 tokens with little between them: now and then the two best bounds share a lane.
    c = case(2, 300, 320, "fp16", spread=0.5)
    assert_equal(*both(c, Variant("fp16", 1024, 512, 16, 0, 1)))


@pytest.mark.parametrize(
    ("changes", "row"),
    [
        ([(4, 9, np.nan)], 4),
        ([(4, 9, np.copysign(np.nan, -1))], 4),
        ([(4, 9, np.inf), (2, 1, np.inf)], 2),
        ([(4, 9, np.inf), (4, 10, np.nan), (5, 0, np.nan)], 4),
        ([(3, slice(None), -np.inf)], 3),
        ([(3, 7, 40_000.0)], 3),
        ([(3, slice(None), -40_000.0)], 3),
    ],
)
@pytest.mark.parametrize("options", [{}, {"top_k": 4}, {"uncond": True}])
def test_rows_without_an_answer_are_reported_alike(changes, row, options):
    c = case(3, 8, 50) | {"temperature": 1.0} | options
    if options.get("uncond"):
        c |= {"uncond": np.zeros_like(c["logits"]), "guidance": 2.0}
    for at, column, value in changes:
        c["logits"][at, column] = value
    expected, found = both(c)
    assert isinstance(expected, str)
    assert f"row {row} " in expected
    assert expected == found


def test_guided_rows_without_an_answer_are_reported_alike():
    c = case(4, 8, 50) | {"guidance": -2.0}
    # Guidance would make -inf of it.
    c["uncond"], c["logits"][5, 3] = np.zeros_like(c["logits"]), np.inf
    expected, found = both(c)
    assert isinstance(expected, str)
    assert ": logits contain +inf" in expected
    assert expected == found
    c = case(4, 8, 50) | {"guidance": 2.0}
    for value in (np.nan, np.inf, -np.inf):
        c["uncond"] = np.zeros_like(c["logits"])
        c["uncond"][6, 0] = value
        expected, found = both(c)
        assert isinstance(expected, str)
        assert "guided logits" in expected
        assert expected == found


@pytest.mark.parametrize("options", [{}, {"top_k": 20}, {"top_p": 0.5}])
def test_scores_at_the_limits_are_the_same(options):
    c = case(5, 8, 90) | {"temperature": 1.0, "logprob": True} | options
    c["logits"][:4] = -16384
    c["logits"][1, 5] = -16383.5
    c["logits"][2, ::2] = -3e38
    c["logits"][3, ::3] = -np.inf
    c["logits"][4, 30] = 16384
    c["logits"][5, 30:33] = 16383.999
    c["logits"][6, 1:] = -3e38
    c["logits"][7] = 16384
    assert_equal(*both(c))


def test_lowest_index_wins_ties():
    rows, vocabulary = 12, 40
    keys = random_words(5, stream=STREAM_DRAW, step=0, y=np.arange(rows), x=0)
    noise = np.empty((rows, vocabulary), np.uint32)
    n.token_noise(keys, n.token_words(vocabulary), out=noise, scratch=np.empty_like(noise))
    score = np.empty(noise.shape, np.int32)
    n.gumbel(noise, out=score, scratch=np.empty_like(noise), index=np.empty(noise.shape, np.intp))
    logits = (-score / 65536).astype(np.float32)
    logits[6:, :7] = -np.inf
    place = {"sample": np.zeros(rows, int), "position": np.arange(rows), "seeds": [5], "step": 0, "width": 1}
    drawn = sample(logits, np.zeros((1, rows), np.int32), **place, temperature=1.0, impl="triton").tokens[0]
    assert drawn.tolist() == [0] * 6 + [7] * 6


def test_no_rows_are_no_work():
    c = case(6, 4, 30) | {"sample": [], "position": [], "step": [], "impl": "triton", "logprob": True}
    c["logits"] = c["logits"][:0]
    result = sample(**c)
    assert np.array_equal(result.tokens, c["tokens"])
    assert result.tokens is not c["tokens"]
    assert result.logprob is not None
    assert result.logprob.shape == result.changed.shape == (0,)


def test_more_tokens_than_a_kernel_holds_are_refused():
    c = case(7, 1, 16385) | {"impl": "triton"}
    with pytest.raises(SamplingError, match="at most 16384 tokens; got 16385"):
        sample(**c)


def test_tensors_are_refused_while_interpreting():
    class Tensor:
        shape, dtype = (4, 30), "torch.float32"

        def data_ptr(self) -> int:
            return 0

    c = case(8, 4, 30) | {"logits": Tensor(), "impl": "triton"}
    with pytest.raises(KernelError, match="must be NumPy arrays while Triton interprets"):
        sample(**c)
