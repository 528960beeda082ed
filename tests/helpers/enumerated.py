"""A model so small that every grid can be listed: 2x2 tokens of 3 codes, a joint distribution, all conditionals."""

from __future__ import annotations

import itertools

import numpy as np

HEIGHT, WIDTH, CODES = 2, 2, 3
LENGTH = HEIGHT * WIDTH
MASK = CODES
STATES = np.array(list(itertools.product(range(CODES), repeat=LENGTH)))
"""Every grid, in the order of its digits in base CODES."""
PATTERNS = np.array(list(itertools.product(range(CODES + 1), repeat=LENGTH)))
"""Every grid with every choice of masks, in the order of its digits in base CODES + 1."""
DIGITS = (CODES + 1) ** np.arange(LENGTH)[::-1]


def joint(seed: int, power: int = 1) -> np.ndarray:
    """A joint distribution over all grids in which every token depends on every other; float64 [81].

    A greater ``power`` makes them depend more.
    """
    weights = np.random.default_rng(seed).uniform(0.2, 1.8, len(STATES)) ** power
    return weights / weights.sum()


def conditionals(probabilities: np.ndarray) -> np.ndarray:
    """Logits of each position given the tokens that are not masked, by enumeration; float32 [256, 4, 3]."""
    fits = ((PATTERNS[:, None] == STATES) | (PATTERNS[:, None] == MASK)).all(axis=2)
    is_token = STATES[:, :, None] == np.arange(CODES)
    weights = np.einsum("ps,slk,s->plk", fits.astype(float), is_token.astype(float), probabilities)
    return np.log(np.maximum(weights, 1e-30)).astype(np.float32)


class Table:
    """A denoiser that knows the exact conditionals of one joint distribution per label, and keeps what it was asked."""

    def __init__(self, labels: int = 1, power: int = 1) -> None:
        self.logits = np.stack([conditionals(joint(seed, power)) for seed in range(labels)])
        self.asked: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def __call__(self, tokens, labels, rows):
        self.asked.append((tokens, labels, rows))
        return self.logits[labels[:, None], (tokens @ DIGITS)[:, None], rows]


def chances(power: int = 1) -> np.ndarray:
    """What each position is, given a pattern, by `joint(0, power)`; float64 [256, 4, 3]."""
    weights = np.exp(conditionals(joint(0, power)).astype(np.float64))
    return weights / weights.sum(axis=2, keepdims=True)


def filled(pattern: tuple[int, ...], positions: tuple[int, ...], table: np.ndarray) -> dict[tuple[int, ...], float]:
    """Every way to draw ``positions`` of a pattern independently of one another by `chances`, and how likely it is."""
    own, found = table[int(np.array(pattern) @ DIGITS)], {}
    for codes in itertools.product(range(CODES), repeat=len(positions)):
        grid = list(pattern)
        for position, code in zip(positions, codes):
            grid[position] = code
        found[tuple(grid)] = float(np.prod([own[position, code] for position, code in zip(positions, codes)]))
    return found


def frequencies(law: dict[tuple[int, ...], float]) -> np.ndarray:
    """Chances (float64 [81], in the order of STATES) of a law of grids without masks."""
    return np.array([law.get(tuple(state.tolist()), 0.0) for state in STATES])


def counts_of(grids: np.ndarray) -> np.ndarray:
    """How often each of STATES comes up among grids int [N, 4]; int64 [81]."""
    assert grids.max() < CODES
    return np.bincount(grids @ CODES ** np.arange(LENGTH)[::-1], minlength=len(STATES))
