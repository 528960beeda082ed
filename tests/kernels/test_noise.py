"""Noise: known answers, the table, a scalar account of the specification, and the independence of neighbours."""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
import pytest

from smalti_kernels import STREAM_DRAW, SamplingError, random_words
from smalti_kernels.spec import noise as n

KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def noise_of(keys: np.ndarray, tokens: int) -> np.ndarray:
    out = np.empty((len(keys), tokens), np.uint32)
    n.token_noise(keys, n.token_words(tokens), out=out, scratch=np.empty_like(out))
    return out


def gumbel_of(noise: np.ndarray) -> np.ndarray:
    noise = noise.copy()
    out = np.empty(noise.shape, np.int32)
    n.gumbel(noise, out=out, scratch=np.empty_like(noise), index=np.empty(noise.shape, np.intp))
    return out


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_philox_gives_the_published_words(counter, key, words):
    x, y, step, stream = counter
    drawn = random_words(key[0] | key[1] << 32, stream=stream, step=step, y=y, x=x)
    assert drawn.dtype == np.uint32
    assert tuple(drawn.tolist()) == words


def test_random_words_broadcast_and_depend_on_every_coordinate():
    seeds = np.array([[3], [2**64 - 1]], np.uint64)
    y, x = np.arange(4), np.arange(4)[::-1]
    words = random_words(seeds, stream=1, step=2, y=y, x=x)
    assert words.shape == (2, 4, 4)
    for i, seed in enumerate([3, 2**64 - 1]):
        for j in range(4):
            alone = random_words(seed, stream=1, step=2, y=j, x=3 - j)
            assert np.array_equal(words[i, j], alone)
    base = {"stream": 1, "step": 2, "y": 3, "x": 4}
    changed = [{**base, name: value + 1} for name, value in base.items()]
    results = {tuple(random_words(7, **c).tolist()) for c in [base, *changed]}
    results.add(tuple(random_words(7 + 2**32, **base).tolist()))
    assert len(results) == 6


@pytest.mark.parametrize(
    ("seeds", "changes", "says"),
    [
        (-1, {}, "seeds"),
        (2**64, {}, "seeds"),
        (1.5, {}, "seeds"),
        (np.array([-3]), {}, "seeds"),
        (np.array([1.0]), {}, "seeds"),
        (1, {"step": -1}, "step must be"),
        (1, {"x": 2**32}, "x must be"),
        (1, {"y": 0.5}, "y must be integers"),
        ([1, 2], {"x": [1, 2, 3]}, "broadcast"),
    ],
)
def test_random_words_refuses_what_it_cannot_use(seeds, changes, says):
    with pytest.raises(SamplingError, match=says):
        random_words(seeds, **({"stream": 0, "step": 0, "y": 0, "x": 0} | changes))


def test_seeds_keep_all_64_bits_in_a_mixed_list():
    assert n.as_seeds([2**64 - 1, 1, 2**63 + 1]).tolist() == [2**64 - 1, 1, 2**63 + 1]


def test_table_is_the_specified_one():
    assert n.gumbel_table().sha256 == n.GUMBEL_SHA256


def test_table_does_not_hang_on_the_last_bits_of_libm():
    exact = n.exact_levels()
    to_half = np.abs(np.abs(exact - np.rint(exact)) - 0.5)
    assert to_half.min() > 1e-4
    # The same values by other formulas, whose rounding errors are unrelated, round to the same integers.
    w = np.ldexp(1 + np.arange(64) / 64, np.arange(32)[:, None])
    p = np.minimum(w, 2.0**31) / 2**32
    wide = np.longdouble if np.finfo(np.longdouble).nmant > 52 else np.float64
    other = np.stack(
        (2 * np.arctanh(p.astype(wide) / (2 - p.astype(wide))), np.log(2) * 32 - np.log(np.minimum(w, 2.0**31)))
    )
    assert np.array_equal(np.rint(-np.log(other) * 65536).astype(np.int32), n.gumbel_table().level)


def test_table_is_continuous_and_monotone():
    level, rise = n.gumbel_table()
    assert np.all(np.diff(level[0].ravel()) <= 0)
    assert np.all(np.diff(level[1].ravel()) >= 0)
    assert np.array_equal(level.reshape(2, -1)[:, :-1] + rise.reshape(2, -1)[:, :-1], level.reshape(2, -1)[:, 1:])
    assert level[0, 31, 0] == level[1, 31, 0]
    assert np.abs(rise).max() * 2**17 < 2**31


def specified_noise(key: list[int], token: int) -> int:
    """The mixer in Python integers, written from the module's description alone."""

    def mix(h: int) -> int:
        h ^= h >> 16
        h = h * 0x21F0AAAD % 2**32
        h ^= h >> 15
        h = h * 0xD35A2D97 % 2**32
        return h ^ h >> 15

    return mix(mix((token * 0x9E3779B9 + key[0]) % 2**32) ^ key[1])


def specified_gumbel(h: int) -> int:
    """The table look-up in Python integers: fold the word, round it to 24 bits, interpolate."""
    folded = (h ^ 0xFFFFFFFF if h >> 31 else h) & 0x7FFFFFFF | 1
    (bits,) = struct.unpack("<I", struct.pack("<f", float(folded)))
    octave, part, rest = (bits >> 23) - 127, bits >> 17 & 63, bits & 0x1FFFF
    level, rise = n.gumbel_table()
    return int(level[h >> 31, octave, part]) + (int(rise[h >> 31, octave, part]) * rest >> 17)


def test_noise_follows_the_specification():
    keys = random_words(np.arange(3, dtype=np.uint64), stream=STREAM_DRAW, step=1, y=2, x=3)
    noise = noise_of(keys, 200)
    assert noise.tolist() == [[specified_noise(key, token) for token in range(200)] for key in keys.tolist()]


def test_gumbel_follows_the_specification_at_every_edge():
    edges = {0, 1, 2, 3, 2**31, 2**31 - 1, 2**32 - 1}
    for octave in range(32):
        for part in range(0, 64, 7):
            centre = (64 + part) * 2**octave // 64
            edges |= {(centre + d) % 2**32 for d in range(-3, 4)} | {(-centre + d) % 2**32 for d in range(-3, 4)}
    words = sorted(edges)
    assert gumbel_of(np.array(words, np.uint32)).tolist() == [specified_gumbel(word) for word in words]


def test_gumbel_is_close_to_the_real_one_in_both_tails():
    words = np.random.default_rng(0).integers(0, 2**32, 1 << 16, dtype=np.uint32)
    words = np.concatenate((words, words >> np.uint32(16), ~(words >> np.uint32(16)), words >> np.uint32(26)))
    odd = np.where(words >> 31, ~words, words) & np.uint32(0x7FFFFFFF) | np.uint32(1)
    p = odd / 2**32
    exact = -np.log(np.where(words >> 31, -np.log(p), -np.log1p(-p)))
    assert np.abs(gumbel_of(words) / 65536 - exact).max() < 6e-5
    assert gumbel_of(words).min() >= n.GUMBEL_MIN
    assert gumbel_of(np.array([0], np.uint32))[0] == n.GUMBEL_MAX == round(32 * np.log(2) * 65536)


def bit_scores(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How far bit i of `a` and bit j of `b` are from agreeing half the time, in standard errors: float64 [32, 32]."""
    signs = [np.unpackbits(v.ravel().view(np.uint8).reshape(-1, 4), axis=1).astype(np.float32) * 2 - 1 for v in (a, b)]
    return (signs[0].T @ signs[1]) / np.sqrt(a.size)


def neighbours() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rows, tokens = 1 << 12, 64
    here = np.arange(rows)
    at = {"stream": STREAM_DRAW, "step": 5, "y": here // 64, "x": here % 64}
    base = noise_of(random_words(11, **at), tokens)

    def moved(seed: int = 11, **changes: object) -> np.ndarray:
        return noise_of(random_words(seed, **(at | changes)), tokens)

    return {
        "seed": (base, moved(seed=12)),
        "seed, high half": (base, moved(seed=11 + 2**32)),
        "stream": (base, moved(stream=2)),
        "step": (base, moved(step=6)),
        "y": (base, moved(y=here // 64 + 1)),
        "x": (base, moved(x=here % 64 + 1)),
        "token": (base[:, :-1].copy(), base[:, 1:].copy()),
        "two tokens on": (base[:, :-2].copy(), base[:, 2:].copy()),
        "half the tokens on": (base[:, :32].copy(), base[:, 32:].copy()),
        "seed and token": (base[:, :-1].copy(), moved(seed=12)[:, 1:].copy()),
    }


def test_neighbours_are_not_correlated():
    # 10 pairs x 1024 bit pairs: a normal variable beyond 5.5 comes up in 4 of 10,000 such tests.
    for name, (a, b) in neighbours().items():
        assert np.abs(bit_scores(a, b)).max() < 5.5, name
        x, y = gumbel_of(a).astype(np.float64).ravel(), gumbel_of(b).astype(np.float64).ravel()
        # Under independence a correlation of n pairs has standard error 1 / sqrt(n).
        assert abs(np.corrcoef(x, y)[0, 1]) < 4.5 / np.sqrt(x.size), name
        # The large Gumbels decide the draw: both above their 1 - 1/64 quantile should happen n / 64^2 times.
        high = np.quantile(x, 1 - 1 / 64)
        both, expected = int(((x > high) & (y > high)).sum()), x.size / 64**2
        assert abs(both - expected) < 5 * np.sqrt(expected), name


def test_a_weaker_mixer_would_be_caught():
    rows = np.arange(1 << 12, dtype=np.uint32)[:, None]
    half_a_round = (n.token_words(64) + rows) * np.uint32(0x21F0AAAD)
    half_a_round ^= half_a_round >> np.uint32(15)
    assert np.abs(bit_scores(half_a_round[:-1], half_a_round[1:])).max() > 5.5


def test_rows_whose_keys_lie_one_token_apart_are_independent():
    # Their first rounds hold the same words, one token apart: the second key word must separate them.
    keys = random_words(5, stream=STREAM_DRAW, step=0, y=0, x=np.arange(1 << 12))
    shifted = random_words(6, stream=STREAM_DRAW, step=0, y=0, x=np.arange(1 << 12))
    shifted[:, 0] = keys[:, 0] - np.uint32(0x9E3779B9)
    a, b = noise_of(keys, 65)[:, :-1].copy(), noise_of(shifted, 65)[:, 1:].copy()
    assert np.abs(bit_scores(a, b)).max() < 5.5
    shifted[:, 1] = keys[:, 1]
    assert np.array_equal(a, noise_of(shifted, 65)[:, 1:])


def test_noise_words_fill_every_byte_evenly():
    noise = noise_of(random_words(2, stream=3, step=0, y=0, x=np.arange(1 << 11)), 512)
    for byte in noise.view(np.uint8).reshape(-1, 4).T:
        counts = np.bincount(byte, minlength=256)
        expected = byte.size / 256
        chi2 = ((counts - expected) ** 2 / expected).sum()
        # 255 degrees of freedom: mean 255, standard deviation 22.6.
        assert abs(chi2 - 255) < 4.5 * 22.6


def test_a_row_never_repeats_a_word():
    noise = noise_of(random_words(2, stream=3, step=0, y=0, x=np.arange(8)), 8192)
    assert all(np.unique(row).size == row.size for row in noise)
    assert all(not np.array_equal(a, b) for a, b in pairwise(noise))
