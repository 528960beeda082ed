"""Arrays that a thread keeps, because new memory for each step costs more than what is computed in it.

The C library gives large freed arrays back to the system, and a new one's pages are mapped when they are first touched:
as slow as several passes of NumPy over an array that stays.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

PART_ELEMENTS = 1 << 16
"""Elements of [rows, K] that are worked on at once: so many stay in a core's cache, with all that comes of them."""

_kept = threading.local()


class Scratch:
    """Arrays that stay from one call to the next, by their use."""

    def __init__(self) -> None:
        self._kept: dict[str, NDArray[Any]] = {}

    def array(self, use: str, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        """An array of one use, always of the same dtype; it holds anything, until it is asked for again."""
        size = math.prod(shape)
        if use not in self._kept or self._kept[use].size < size:
            self._kept[use] = np.empty(size, dtype)
        return self._kept[use][:size].reshape(shape)


def scratch_of_thread() -> Scratch:
    """Return this thread's arrays. Uses are named after the module that has them, and what a caller gets is new."""
    return vars(_kept).setdefault("arrays", Scratch())
