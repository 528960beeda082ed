"""The draw at its limits: forbidden tokens, rows without an answer, extreme scores, ties, and every refusal."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.draw_case import VOCABULARY, WIDTH, case
from smalti_kernels import STREAM_DRAW, SamplingError, random_words, sample
from smalti_kernels.spec import noise as n


def test_forbidden_tokens_are_never_drawn_however_low_the_others_lie():
    c = case()
    rows = len(c["sample"])
    logits = np.full((rows, VOCABULARY), -np.inf, np.float32)
    logits[:, 41] = 0
    logits[:, 43] = -3e38
    for temperature in (0.05, 4.0):
        drawn = sample(**(c | {"logits": logits, "temperature": temperature})).tokens
        assert np.all(drawn == 41)
    # At the clamp itself a finite token still beats a forbidden one.
    logits[:] = -np.inf
    logits[:, 50] = -16384
    assert np.all(sample(**(c | {"logits": logits, "temperature": 1.0})).tokens == 50)


@pytest.mark.parametrize("guidance", [-2.0, 0.0, 1.0, 3.0])
def test_forbidden_tokens_stay_forbidden_under_guidance(guidance):
    c = case() | {"temperature": 1.0}
    logits, uncond = np.zeros_like(c["logits"]), np.zeros_like(c["logits"])
    logits[:, 1:] = -np.inf
    uncond[:, 20:] = -np.inf
    assert np.all(sample(**(c | {"logits": logits}), uncond=uncond, guidance=guidance).tokens == 0)


@pytest.mark.parametrize(
    ("fill", "says"), [(np.nan, "contain NaN"), (np.inf, r"contain \+inf"), (-np.inf, "are all -inf")]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_without_an_answer_are_named(fill, says, dtype):
    c = case()
    row = 29
    logits = c["logits"].astype(dtype)
    logits[row, slice(None) if fill == -np.inf else 17] = fill
    name = rf"row {row} \(sample {c['sample'][row]}, position {c['position'][row]}, step 3\): logits {says}"
    with pytest.raises(SamplingError, match=name):
        sample(**(c | {"logits": logits}))


def test_a_nan_beside_an_infinity_is_still_found():
    c = case()
    c["logits"][4, :2] = np.nan, np.inf
    with pytest.raises(SamplingError, match=r"row 4 .* NaN"):
        sample(**c)


def test_guided_rows_without_an_answer_are_named():
    c = case()
    uncond = c["logits"].copy()
    uncond[6, 2] = -np.inf
    with pytest.raises(SamplingError, match=r"row 6 .* guided logits contain NaN"):
        sample(**c, uncond=uncond, guidance=2.0)
    uncond[6, 2] = np.nan
    with pytest.raises(SamplingError, match=r"row 6 .* guided logits contain NaN"):
        sample(**c, uncond=uncond, guidance=2.0)
    with pytest.raises(SamplingError, match=r"guided logits contain \+inf"):
        sample(**c, uncond=-c["logits"], guidance=3e38)


@pytest.mark.parametrize("value", [16385.0, 1e38, -16385.0])
def test_a_best_logit_beyond_the_scores_range_is_an_error(value):
    c = case() | {"temperature": 1.0}
    c["logits"][11] = value
    with pytest.raises(SamplingError, match=r"row 11 .*within \+-16384"):
        sample(**c)


def test_best_logits_at_the_very_limit_are_drawn():
    c = case() | {"temperature": 1.0}
    logits = np.full_like(c["logits"], -16384)
    assert np.unique(sample(**(c | {"logits": logits})).tokens).size > 10
    logits[:, 30] = 16384
    assert np.all(sample(**(c | {"logits": logits})).tokens == 30)


def test_low_temperature_takes_the_best_token():
    c = case() | {"temperature": 0.001}
    c["logits"][:, 33] = c["logits"].max() + 1
    assert np.all(sample(**c).tokens == 33)


def test_lowest_index_wins_ties():
    # Logits that undo the Gumbels exactly: every token of a row has the same score.
    c = case() | {"temperature": 1.0}
    y, x = np.divmod(c["position"], WIDTH)
    keys = random_words(np.array(c["seeds"], np.uint64)[c["sample"]], stream=STREAM_DRAW, step=c["step"], y=y, x=x)
    noise = np.empty((len(keys), VOCABULARY), np.uint32)
    n.token_noise(keys, n.token_words(VOCABULARY), out=noise, scratch=np.empty_like(noise))
    score = np.empty(noise.shape, np.int32)
    n.gumbel(noise, out=score, scratch=np.empty_like(noise), index=np.empty(noise.shape, np.intp))
    logits = (-score / 65536).astype(np.float32)
    assert np.array_equal(logits * 65536, -score)
    assert np.all(sample(**(c | {"logits": logits})).tokens == 0)
    logits[:, :5] = -np.inf
    assert np.all(sample(**(c | {"logits": logits})).tokens == 5)
    # One unit in the last of 16 fractional bits decides.
    logits[:, 60] += np.float32(2**-16)
    assert np.all(sample(**(c | {"logits": logits})).tokens == 60)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"impl": "rust"}, "impl must be one of numpy, .*triton.*; got 'rust'"),
        ({"logits": np.zeros((36, 70))}, "logits must be float32, float16 or bfloat16"),
        ({"logits": np.zeros((36, 0), np.float32)}, "V >= 1"),
        ({"logits": np.zeros(36, np.float32)}, r"\[R, V\]"),
        ({"tokens": np.zeros((3, 12))}, r"tokens must be int32 \[N, L\]"),
        ({"tokens": np.zeros(36, np.int32)}, r"tokens must be int32 \[N, L\]"),
        ({"sample": np.zeros(35, int)}, r"sample must be integers \[36\]"),
        ({"sample": np.zeros(36)}, "sample must be integers"),
        ({"sample": np.full(36, 3)}, r"sample must be from 0 to 2; got 3 \.\. 3"),
        ({"sample": np.full(36, -1)}, "sample must be from 0 to 2"),
        ({"position": np.full(36, 12)}, "position must be from 0 to 11"),
        ({"position": np.full(36, -1)}, "position must be from 0 to 11"),
        ({"position": np.zeros(36, int)}, r"may be drawn once per call; sample \d, position 0 comes again in row"),
        ({"seeds": [1, 2]}, r"seeds must be \[3\]"),
        ({"seeds": 1}, r"seeds must be \[3\]"),
        ({"seeds": [1, 2, 2**64]}, "seeds must be integers from 0"),
        ({"step": -1}, "step must be from 0"),
        ({"step": 2**32}, "step must be from 0"),
        ({"step": 1.0}, "step must be integers"),
        ({"step": [1, 2]}, r"step must be one integer or \[36\]"),
        ({"width": 0}, "width must be at least 1"),
        ({"width": 5}, "divide the grid's 12 positions"),
        ({"temperature": 0.0}, "temperature must be finite and greater than 0"),
        ({"temperature": -1.0}, "temperature must be finite and greater than 0"),
        ({"temperature": np.nan}, "temperature must be finite and greater than 0"),
        ({"temperature": np.inf}, "temperature must be finite and greater than 0"),
        ({"temperature": 1e-40}, "temperature must be finite and greater than 0"),
        ({"temperature": [1.0, 0.0, 1.0]}, r"got 0\.0"),
        ({"temperature": [1.0, 1.0]}, r"temperature must be one number or \[3\]"),
        ({"uncond": np.zeros((36, 70), np.float16)}, r"uncond must be float32 \[36, 70\] like logits"),
        ({"uncond": np.zeros((36, 71), np.float32)}, r"uncond must be float32 \[36, 70\] like logits"),
        ({"uncond": np.zeros((36, 70), np.float32), "guidance": np.nan}, "guidance must be finite"),
        ({"uncond": np.zeros((36, 70), np.float32), "guidance": 1e39}, "guidance must be finite"),
    ],
)
def test_arguments_are_checked(change, says):
    with pytest.raises(SamplingError, match=says):
        sample(**(case() | change))
