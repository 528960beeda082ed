"""A SUNDAE prior so small that its chain can be followed exactly: three tokens of three codes, every grid listed."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np

from smalti.families.sundae.sampler import Annealing, run, start_tokens
from smalti_kernels import STREAM_SUBSET, random_words

CODES, LENGTH = 3, 3
STATES = list(itertools.product(range(CODES), repeat=LENGTH))
DIGITS = CODES ** np.arange(LENGTH)[::-1]


class Table:
    """A denoiser whose logits are random for every grid and label, biased by ``stay`` to the token that is there.

    Keeps what it was asked.
    """

    def __init__(self, labels: int = 1, stay: float = 1.0) -> None:
        generator = np.random.default_rng(3)
        self.logits = generator.normal(0, 1.5, (labels, len(STATES), LENGTH, CODES)).astype(np.float32)
        self.logits += np.float32(stay) * (np.array(STATES)[:, :, None] == np.arange(CODES))
        self.asked: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def __call__(self, tokens, labels, rows):
        self.asked.append((tokens.copy(), labels.copy(), rows.copy()))
        return self.logits[labels[:, None], (tokens @ DIGITS)[:, None], rows]


def laws(table: Table, plan: Annealing) -> tuple[np.ndarray, np.ndarray]:
    """Chances of the final grids (float64 [27], in the order of STATES), and of being asked about at each step [S].

    Every subset of positions and every way to draw them is followed, for frozen and unfrozen grids apart.
    """
    law = {(state, False): 1 / len(STATES) for state in STATES}
    asked = []
    for step, (temperature, proportion) in enumerate(zip(plan.temperatures, plan.proportions)):
        scaled = np.exp(table.logits[0].astype(np.float64) / float(temperature))
        chances = scaled / scaled.sum(axis=2, keepdims=True)
        after: Counter[tuple[tuple[int, ...], bool]] = Counter()
        asked.append(0.0)
        for (state, frozen), weight in law.items():
            if frozen:
                after[state, True] += weight
                continue
            own = chances[STATES.index(state)]
            for subset in itertools.product([False, True], repeat=LENGTH):
                drawn = [place for place in range(LENGTH) if subset[place]]
                share = weight * float(np.prod([proportion if chosen else 1 - proportion for chosen in subset]))
                asked[-1] += share if drawn else 0.0
                for codes in itertools.product(range(CODES), repeat=len(drawn)):
                    reached = list(state)
                    for place, code in zip(drawn, codes):
                        reached[place] = code
                    freezes = step >= plan.min_steps and bool(drawn) and tuple(reached) == state
                    likely = float(np.prod([own[place, code] for place, code in zip(drawn, codes)]))
                    after[tuple(reached), freezes] += share * likely
        law = dict(after)
    found = np.zeros(len(STATES))
    for (state, _), weight in law.items():
        found[STATES.index(state)] += weight
    return found, np.array(asked)


def plan(steps, temperature=(1.0, 0.7), proportion=(0.5, 0.5), min_steps=10**6) -> Annealing:
    """A table with any proportion at any number of steps; nothing is ever frozen unless ``min_steps`` says so."""
    ends = (temperature, proportion)
    return Annealing(*(np.linspace(*pair, steps, dtype=np.float32) for pair in ends), min_steps)


def draw(denoiser, table, seeds, labels=None, start=None, **options) -> list[np.ndarray]:
    """Every grid that `run` yields, on a grid of one row, from uniform tokens."""
    labels = np.zeros(len(seeds), np.int32) if labels is None else np.asarray(labels, np.int32)
    start = start_tokens(seeds, (1, LENGTH), CODES) if start is None else start
    return list(run(denoiser, start, table, seeds=seeds, labels=labels, width=LENGTH, **options))


def redrawn(seeds, step: int, proportion: float) -> np.ndarray:
    """Which positions a step redraws (bool [N, 3]), by the specification of its noise."""
    words = random_words(np.asarray(seeds, np.uint64)[:, None], stream=STREAM_SUBSET, step=step, y=0, x=range(LENGTH))
    return words[..., 0] < proportion * 2**32
