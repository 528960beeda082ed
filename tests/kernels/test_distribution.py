"""How close the draw is to softmax: computed from the exact distribution of the fixed-point Gumbel, then drawn."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.statistics import chi_square_z
from smalti_kernels import sample
from smalti_kernels.spec import noise as n

WIDTH = n.GUMBEL_MAX - n.GUMBEL_MIN + 1


@pytest.fixture(scope="module")
def pmf() -> np.ndarray:
    """Exact probability of every value of the fixed-point Gumbel, float64 [GUMBEL_MAX - GUMBEL_MIN + 1].

    Every one of the 2^32 noise words is counted through the real code. The word is folded to an odd w below 2^31; from
    w = 2^26 on, the odd words of an interval of 2^(octave - 24) all round to one float32, so one stands for all.
    """
    counts = np.zeros(WIDTH, np.int64)
    block = 1 << 16
    out, scratch, index = np.empty(block, np.int32), np.empty(block, np.uint32), np.empty(block, np.intp)
    steps = 2 * np.arange(block, dtype=np.uint32)
    for first, last, stride in [(1, 1 << 26, 2)] + [(1 << o, 2 << o, 1 << (o - 24)) for o in range(26, 31)]:
        for start in range(first, last, stride * block):
            folded = steps // 2 * np.uint32(stride) + np.uint32(start) | np.uint32(1)
            for words in (folded, ~folded):
                n.gumbel(words, out=out, scratch=scratch, index=index)
                least = int(out.min())
                local = np.bincount(out - least)
                counts[least - n.GUMBEL_MIN :][: local.size] += local * stride
    # Two words (the lowest bit is forced) for every odd w, w in steps of 2.
    assert counts.sum() == 1 << 32
    return counts / 2.0**32


def softmax(scaled: np.ndarray) -> np.ndarray:
    weights = np.exp(scaled - scaled.max())
    return weights / weights.sum()


def scores(logits: np.ndarray, temperature: float) -> np.ndarray:
    scale = np.float32(65536) / np.float32(temperature)
    return np.rint(logits.astype(np.float32) * scale).astype(np.int64)


def variation_bound(pmf: np.ndarray, logits: np.ndarray, temperature: float) -> float:
    """An upper bound on the total variation between the draw and softmax(logits / temperature).

    P(i) = sum over k of pmf[k] * product over j of cdf[k + a_i - a_j]: the sums over j and over k are correlations,
    done by FFT. Counting every tie for i bounds P(i) from above, counting every tie against it bounds it from below.
    """
    offsets = scores(logits, temperature)
    offsets -= offsets.min()
    # A power of two times 4 .. 7: lengths that the FFT is fast at, and long enough that nothing wraps around.
    size = min(m << k for m in (4, 5, 6, 7) for k in range(16, 24) if m << k > WIDTH + offsets.max())
    histogram = np.bincount(offsets, minlength=size)
    floor = -60.0
    cdf = np.cumsum(pmf)
    with np.errstate(divide="ignore"):
        log_cdf = np.maximum(np.log(np.minimum(cdf, 1.0)), floor)
    sums = np.fft.irfft(np.fft.rfft(histogram, size) * np.fft.rfft(log_cdf, size), size)
    sums += floor * (offsets.size - np.cumsum(histogram))
    product = np.exp(np.minimum(sums, 0))
    high_weights = pmf / np.exp(log_cdf)
    below = np.concatenate(([0.0], cdf[:-1]))
    low_weights = np.where(below > 1e-6, pmf / np.maximum(below, 1e-6), 0.0)
    spectrum, shifted = np.fft.rfft(product), np.fft.rfft(np.concatenate(([0.0], product[:-1])))
    high = np.fft.irfft(spectrum * np.conj(np.fft.rfft(high_weights, size)), size)[offsets]
    low = np.fft.irfft(shifted * np.conj(np.fft.rfft(low_weights, size)), size)[offsets]
    exact = softmax(logits.astype(np.float64) / temperature)
    assert low.sum() < 1 + 1e-9 < high.sum() + 2e-9
    return float(np.maximum(np.abs(high - exact), np.abs(low - exact)).sum() / 2)


def test_total_variation_with_8192_tokens(pmf):
    rng = np.random.default_rng(0)
    spread = rng.standard_normal(8192).astype(np.float32)
    one_in_a_thousand_elsewhere = np.zeros(8192, np.float32)
    one_in_a_thousand_elsewhere[5] = np.log(8191 * 999)
    cases = {
        "sd 3": (spread * np.float32(3), 0.9),
        "flat": (np.zeros(8192, np.float32), 1.0),
        "peaked": (one_in_a_thousand_elsewhere, 1.0),
        "half": (np.where(np.arange(8192) % 2, np.float32(2), np.float32(0)), 1.0),
    }
    for name, (logits, temperature) in cases.items():
        bound = variation_bound(pmf, logits, temperature)
        print(f"total variation, {name}: at most {bound:.2e}")
        assert bound < 2e-5, name


def test_a_coarser_gumbel_would_be_caught(pmf):
    coarse = np.zeros_like(pmf)
    np.add.at(coarse, np.arange(WIDTH) // 64 * 64, pmf)
    logits = np.where(np.arange(8192) % 2, np.float32(2), np.float32(0))
    assert variation_bound(coarse, logits, 1.0) > 1e-4


@pytest.mark.parametrize("temperature", [0.05, 0.9, 4.0])
def test_exact_probabilities_of_a_few_tokens_ties_included(pmf, temperature):
    logits = np.array([0.3, 0.3, -0.1, 0.45], np.float32)
    offsets = scores(logits, temperature)
    cdf = np.concatenate(([0.0], np.cumsum(pmf)))
    probabilities = []
    for i, a in enumerate(offsets):
        product = pmf.copy()
        for j, b in enumerate(offsets):
            if j != i:
                # Token j loses if its Gumbel is at most k + a - b, or one less when its lower index would win the tie.
                reach = np.clip(np.arange(WIDTH) + (a - b) + (1 if j > i else 0), 0, WIDTH)
                product *= cdf[reach]
        probabilities.append(product.sum())
    assert sum(probabilities) == pytest.approx(1, abs=1e-12)
    exact = softmax(logits.astype(np.float64) / np.float64(np.float32(temperature)))
    assert np.abs(probabilities - exact).sum() / 2 < 3e-5


def test_rare_tokens_have_their_exact_probability(pmf):
    cdf = np.cumsum(pmf)
    for rare in (1e-4, 1e-5, 1e-6):
        offset = round(float(np.log((1 - rare) / rare)) * 65536)
        # The rare token (second) wins only with a strictly greater score.
        reach = np.arange(WIDTH) - offset - 1
        probability = (pmf * np.where(reach >= 0, cdf[np.maximum(reach, 0)], 0)).sum()
        print(f"token of probability {rare:g}: {probability:.6e}")
        assert probability == pytest.approx(rare, rel=2e-3)


def draws(logits: np.ndarray, rows: int, *, seed: int, step: int = 0, temperature: float = 1.0) -> np.ndarray:
    """`rows` draws from one row of logits, at the positions of one wide grid."""
    return sample(
        np.broadcast_to(logits, (rows, logits.size)),
        np.zeros((1, rows), np.int32),
        sample=np.zeros(rows, np.int64),
        position=np.arange(rows),
        seeds=[seed],
        step=step,
        width=64,
        temperature=temperature,
    ).tokens[0]


@pytest.mark.parametrize(("vocabulary", "rounds"), [(1024, 8), (64, 16)])
def test_a_million_draws_follow_softmax(vocabulary, rounds):
    logits = np.random.default_rng(3).standard_normal(vocabulary).astype(np.float32) * np.float32(1.5)
    counts = np.zeros(vocabulary, np.int64)
    for step in range(rounds):
        counts += np.bincount(draws(logits, 1 << 17, seed=step % 4, step=step), minlength=vocabulary)
    z = chi_square_z(counts, softmax(logits.astype(np.float64)))
    # Too good a fit is as suspect as a bad one.
    assert -4 < z < 4


@pytest.mark.parametrize("temperature", [0.05, 0.3, 4.0])
def test_draws_follow_softmax_at_extreme_temperatures(temperature):
    logits = (np.random.default_rng(4).standard_normal(32) * 1.5 * temperature).astype(np.float32)
    counts = np.bincount(draws(logits, 1 << 18, seed=9, temperature=temperature), minlength=32)
    assert -4 < chi_square_z(counts, softmax(logits / np.float64(temperature))) < 4


def test_tokens_of_one_in_a_million_are_drawn_at_their_rate():
    logits = np.zeros(1024, np.float32)
    logits[512] = np.log((1 - 1023e-6) / 1e-6)
    drawn = draws(logits, 1 << 18, seed=21)
    expected, found = 1023e-6 * drawn.size, int((drawn != 512).sum())
    print(f"1023 tokens of 1e-6: {found} of {drawn.size} draws, {expected:.1f} expected")
    assert abs(found - expected) < 4 * np.sqrt(expected)


@pytest.mark.parametrize("change", ["seed", "step"])
def test_neighbouring_draws_are_independent(change):
    logits = np.log(np.arange(1, 9, dtype=np.float32))
    probabilities = softmax(logits.astype(np.float64))
    a = draws(logits, 1 << 18, seed=30)
    b = draws(logits, 1 << 18, seed=31) if change == "seed" else draws(logits, 1 << 18, seed=30, step=1)
    for other in (b, np.roll(a, 1), np.roll(a, 64)):
        pairs = np.bincount(a * 8 + other, minlength=64)
        assert -4 < chi_square_z(pairs, np.outer(probabilities, probabilities).ravel()) < 4


@pytest.mark.parametrize(("vocabulary", "rows"), [(1024, 1 << 14), (8192, 1 << 12)])
def test_half_precision_changes_few_draws(vocabulary, rows):
    logits = np.random.default_rng(7).standard_normal((rows, vocabulary), dtype=np.float32) * np.float32(3)
    place = {"sample": np.zeros(rows, int), "position": np.arange(rows), "seeds": [1], "step": 0, "width": 64}
    single, half = (
        sample(values, np.zeros((1, rows), np.int32), temperature=0.9, **place).tokens
        for values in (logits, logits.astype(np.float16))
    )
    assert np.mean(single != half) <= 0.003
