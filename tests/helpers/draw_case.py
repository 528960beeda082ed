"""Arguments of a draw that tests change one at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

WIDTH, LENGTH, GRIDS, VOCABULARY = 4, 12, 3, 70


def case(seed: int = 0, vocabulary: int = VOCABULARY) -> dict[str, Any]:
    """Every position of three grids once, in scrambled order."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(GRIDS * LENGTH)
    return {
        "logits": (rng.standard_normal((order.size, vocabulary)) * 2).astype(np.float32),
        "tokens": np.full((GRIDS, LENGTH), -1, np.int32),
        "sample": order // LENGTH,
        "position": order % LENGTH,
        "seeds": [5, 2**64 - 1, 6],
        "step": 3,
        "width": WIDTH,
        "temperature": np.array([0.9, 0.5, 2.0]),
    }
