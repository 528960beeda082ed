"""The bound on the likelihood, where the exact likelihood is known."""

from __future__ import annotations

import numpy as np
import pytest

from smalti.bundle.manifest import Noise
from smalti_train.evaluation.likelihood import diffusion_bits, nll_bits

CODES, LENGTH, COUNT = 5, 12, 600


def independent(seed: int = 0):
    """Tokens drawn independently from known distributions, and a denoiser that knows them."""
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(CODES), (2, LENGTH))
    rng = np.random.default_rng(seed + 1)
    labels = rng.integers(0, 2, COUNT).astype(np.int32)
    tokens = np.stack(
        [[rng.choice(CODES, p=probabilities[label, i]) for i in range(LENGTH)] for label in labels]
    ).astype(np.int32)

    def denoiser(noisy, label, rows):
        assert np.all(np.take_along_axis(noisy, rows, 1)[:, 0] == CODES), "what is asked for first is masked"
        return np.log(probabilities[label[:, None], rows]).astype(np.float32)

    chosen = probabilities[labels[:, None], np.arange(LENGTH), tokens]
    return tokens, labels, denoiser, float(-np.log2(chosen).mean())


def test_the_bound_of_independent_tokens_is_their_exact_likelihood():
    tokens, labels, denoiser, exact = independent()
    # Each position is masked equally often on average; what is left is which.
    assert nll_bits(denoiser, tokens, labels, CODES) == pytest.approx(exact, rel=0.03)
    batches = [nll_bits(denoiser, tokens, labels, CODES, batch=batch) for batch in (7, 16)]
    assert batches[0] == pytest.approx(batches[1], rel=1e-12)


def test_knowing_nothing_costs_the_whole_code():
    tokens, labels, _, _ = independent()
    flat = lambda noisy, label, rows: np.zeros((*rows.shape, CODES), np.float32)  # noqa: E731
    assert nll_bits(flat, tokens, labels, CODES) == pytest.approx(np.log2(CODES))


def test_a_sure_denoiser_that_is_right_costs_nothing_and_every_number_of_masks_comes_equally_often():
    tokens, labels, _, _ = independent()
    seen = []

    def oracle(noisy, label, rows):
        seen.append((noisy == CODES).sum(1))
        return np.where(np.arange(CODES) == 0, 50.0, 0.0) * np.ones((*rows.shape, 1), np.float32)

    zeros = np.zeros_like(tokens)
    assert nll_bits(oracle, zeros, labels, CODES) == pytest.approx(0, abs=1e-6)
    counts = np.concatenate(seen)
    assert (counts.min(), counts.max()) == (1, LENGTH)
    assert abs(counts.mean() - (LENGTH + 1) / 2) < 0.05


def test_the_bound_of_multinomial_diffusion_on_independent_tokens_is_their_exact_likelihood():
    noise = Noise(steps=8, schedule="printed")
    tokens, labels, _, exact = independent()
    probabilities = np.random.default_rng(0).dirichlet(np.ones(CODES), (2, LENGTH))
    asked = []

    def at(time):
        def denoiser(noisy, label, rows):
            assert noisy.max() < CODES
            asked.append((time, len(noisy)))
            return np.log(probabilities[label[:, None], rows]).astype(np.float32)

        return denoiser

    # Only the start, which is not quite uniform noise, keeps the bound from the likelihood.
    assert diffusion_bits(at, tokens, labels, CODES, noise) == pytest.approx(exact, rel=0.05)
    assert {time for time, _ in asked} == set(range(8))
    assert max(count for _, count in asked) <= 16
    assert sum(count for _, count in asked) == COUNT


def test_knowing_nothing_costs_the_whole_code_there_too():
    tokens, labels, _, _ = independent()
    flat = lambda noisy, label, rows: np.zeros((*rows.shape, CODES), np.float32)  # noqa: E731
    noise = Noise(steps=8, schedule="released")
    assert diffusion_bits(lambda time: flat, tokens, labels, CODES, noise) == pytest.approx(np.log2(CODES), rel=0.05)
