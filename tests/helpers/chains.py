"""Laws of the final grids of samplers that mask again, by following every pattern of the enumerated model."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np

from helpers.enumerated import CODES, DIGITS, LENGTH, MASK, chances, filled, frequencies
from smalti.families.absorbing.schedule import unmasked_after

EMPTY = (MASK,) * LENGTH
POWER = 4
"""Of the joint distribution: with so much dependence between tokens, samplers differ clearly."""


def mixed(law: dict[tuple[int, ...], float], step) -> dict[tuple[int, ...], float]:
    """One step of a chain: ``step`` gives what follows a grid, and how likely."""
    after: dict[tuple[int, ...], float] = Counter()
    for grid, chance in law.items():
        for reached, own in step(grid):
            after[reached] += chance * own
    return after


def law_by_chance(steps: int, remask: float) -> np.ndarray:
    """Final grids of ReMDM as the paper writes it, every token by itself (its reverse process), enumerated."""
    table = chances(POWER)
    law: dict[tuple[int, ...], float] = {EMPTY: 1.0}
    for index in range(steps):
        t, s = index / steps, (index + 1) / steps
        sigma = remask * min(1.0, (1 - s) / t if t else 1.0)
        unmask = (s - (1 - sigma) * t) / (1 - t)

        def follow(grid, sigma=sigma, unmask=unmask):
            own = table[int(np.array(grid) @ DIGITS)]
            options = [
                [(MASK, 1 - unmask), *((k, unmask * own[p, k]) for k in range(CODES))]
                if token == MASK
                else [(MASK, sigma), (token, 1 - sigma)]
                for p, token in enumerate(grid)
            ]
            for choice in itertools.product(*options):
                yield tuple(token for token, _ in choice), float(np.prod([chance for _, chance in choice]))

        law = mixed(law, follow)
    return frequencies(law)


def law_by_count(steps: int, remask: float) -> np.ndarray:
    """Final grids of the same with exact counts, where the number masked again is a whole one."""
    table = chances(POWER)
    done = unmasked_after(LENGTH, steps, "exact")
    law: dict[tuple[int, ...], float] = {EMPTY: 1.0}
    for index in range(steps):
        again = remask * min(done[index], LENGTH - done[index + 1])
        assert again == int(again)

        def follow(grid, index=index, again=int(again)):
            masked = [p for p in range(LENGTH) if grid[p] == MASK]
            hides = list(itertools.combinations(sorted(set(range(LENGTH)) - set(masked)), again))
            draws = list(itertools.combinations(masked, int(done[index + 1] - done[index]) + again))
            for hidden, drawn in itertools.product(hides, draws):
                for reached, chance in filled(grid, drawn, table).items():
                    left = tuple(MASK if p in hidden else token for p, token in enumerate(reached))
                    yield left, chance / len(hides) / len(draws)

        law = mixed(law, follow)
    return frequencies(law)


def law_of_released_code(steps: int) -> np.ndarray:
    """Final grids of the released masked-language-model sampler: mask a grid anew with t/T, draw what is masked."""
    table = chances(POWER)
    law: dict[tuple[int, ...], float] = {EMPTY: 1.0}
    for t in range(steps, 0, -1):

        def follow(grid, share=t / steps):
            for hidden in itertools.product([False, True], repeat=LENGTH):
                chance = float(np.prod([share if hide else 1 - share for hide in hidden]))
                seen = tuple(MASK if hide else token for hide, token in zip(hidden, grid))
                if not chance:
                    continue
                drawn = tuple(p for p in range(LENGTH) if seen[p] == MASK)
                for reached, own in filled(seen, drawn, table).items():
                    yield reached, chance * own

        law = mixed(law, follow)
    return frequencies(law)
