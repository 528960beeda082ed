"""Multinomial diffusion so small that its chains can be followed exactly: three tokens of three codes each."""

from __future__ import annotations

import itertools

import numpy as np

from smalti.families.multinomial.sampler import Strides, posterior_weights, run
from smalti.families.sundae.sampler import start_tokens
from smalti_kernels.spec import mixtures

CODES, LENGTH = 3, 3
STATES = np.array(list(itertools.product(range(CODES), repeat=LENGTH)), np.int32)
DIGITS = CODES ** np.arange(LENGTH)[::-1]
ALPHAS = np.array([0.95, 0.7, 0.9, 0.4, 0.05])
"""Chances to keep a token of five uneven steps."""


class TimedTable:
    """Denoisers whose logits are random for every time, grid and label; they keep what they were asked."""

    def __init__(self, steps: int = len(ALPHAS), labels: int = 1) -> None:
        generator = np.random.default_rng(5)
        self.logits = generator.normal(0, 1.5, (steps, labels, len(STATES), LENGTH, CODES)).astype(np.float32)
        self.asked: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]] = []

    def __call__(self, time: int):
        def denoiser(tokens, labels, rows):
            self.asked.append((time, tokens.copy(), labels.copy(), rows.copy()))
            return self.logits[time, labels[:, None], (tokens @ DIGITS)[:, None], rows]

        return denoiser


def law(at, table: Strides) -> np.ndarray:
    """Chances of the final grids (float64 [27], in the order of STATES), all chains from uniform noise summed up."""
    found, rows = np.full(len(STATES), 1 / len(STATES)), np.tile(np.arange(LENGTH), (len(STATES), 1))
    for time, kept, clean in zip(table.times, table.kept, table.clean):
        logits = at(int(time))(STATES, np.zeros(len(STATES), np.int32), rows).reshape(-1, CODES)
        weights = posterior_weights(float(kept), float(clean), CODES)
        log = mixtures.posterior(mixtures.shares(logits), STATES.reshape(-1), *weights).astype(np.float64)
        chances = np.exp(log) / np.exp(log).sum(1, keepdims=True)
        each = chances.reshape(len(STATES), 1, LENGTH, CODES)
        found = found @ np.take_along_axis(each, STATES[None, :, :, None], 3)[..., 0].prod(2)
    return found


def likelihoods(shares: float) -> np.ndarray:
    """q(z | x0) of one token, float64 [x0, z], when it is still itself with chance ``shares``."""
    return shares * np.eye(CODES) + (1 - shares) / CODES


def best_denoiser(data: np.ndarray, alphas: np.ndarray):
    """Denoisers that say of each position what the other, noisy ones tell, for grids of the law ``data`` [27]."""

    def at(time: int):
        noise = likelihoods(float(alphas[: time + 1].prod()))

        def denoiser(tokens, labels, rows):
            told = noise[STATES[None], tokens[:, None]]  # [N, states, L]
            answer = np.zeros((*tokens.shape, CODES))
            for place in range(LENGTH):
                others = np.delete(told, place, axis=2).prod(2) * data
                for code in range(CODES):
                    answer[:, place, code] = others[:, STATES[:, place] == code].sum(1)
            return np.log(np.take_along_axis(answer, rows[..., None], axis=1)).astype(np.float32)

        return denoiser

    return at


def draw(at, table: Strides, seeds, labels=None, start=None, **options) -> list[np.ndarray]:
    """Every grid that `run` yields, on a grid of one row, from uniform noise."""
    labels = np.zeros(len(seeds), np.int32) if labels is None else np.asarray(labels, np.int32)
    start = start_tokens(seeds, (1, LENGTH), CODES) if start is None else start
    return list(run(at, start, table, codes=CODES, seeds=seeds, labels=labels, width=LENGTH, **options))
