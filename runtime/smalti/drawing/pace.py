"""How many steps fit into a time: learned from what this machine took for the draws before."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Final, NamedTuple

import numpy as np

from smalti.families.base import Settings

KEPT: Final = 24
"""Newest draws of a kind that are looked at."""
KINDS: Final = 64
"""Kinds of draws that are remembered."""
MARGIN: Final = 0.04
"""Share of the time that is kept free, since no two draws take the same time."""
PROBES: Final = (1, 6)
"""Steps of the draws that a kind is learned from, where nothing is known of it."""


def kind_of_draw(settings: Settings) -> Hashable:
    """Return what decides the cost of a step, and that of decoding."""
    options = {name: value for name, value in settings.options.items() if name not in ("steps", "temperature")}
    return len(settings.seeds), repr(sorted(options.items()))


class Drawn(NamedTuple):
    """One draw."""

    steps: int
    seconds: float


class Pace:
    """Seconds of draws by their kind: everything that decides what a step costs."""

    def __init__(self) -> None:
        """Begin without knowing anything."""
        self._kinds: OrderedDict[Hashable, deque[Drawn]] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, kind: Hashable, steps: int, seconds: float) -> None:
        """Remember a draw."""
        with self._lock:
            self._kinds.setdefault(kind, deque(maxlen=KEPT)).append(Drawn(steps, seconds))
            self._kinds.move_to_end(kind)
            while len(self._kinds) > KINDS:
                self._kinds.popitem(last=False)

    def steps_within(self, kind: Hashable, seconds: float, most: int, draw: Callable[[int], float]) -> int:
        """Return the largest number of steps, 1 .. ``most``, of a draw that takes no longer than ``seconds``.

        Where the kind is not known, ``draw`` draws with a number of steps and returns the seconds. 1 is returned also
        where not even that fits.
        """
        with self._lock:
            known = list(self._kinds.get(kind, ()))
        if len({one.steps for one in known}) < 2:
            draw(1)  # what is opened and compiled at first counts for no later draw
            for steps in dict.fromkeys(min(probe, most) for probe in PROBES):
                for _ in range(2):
                    known.append(Drawn(steps, draw(steps)))
                    self.note(kind, *known[-1])
        fixed, each = fitted(known)
        return max(1, min(most, int((seconds * (1 - MARGIN) - fixed) / each)))


def fitted(known: list[Drawn]) -> tuple[float, float]:
    """Return seconds that every draw takes, and seconds of each of its steps, as a line through what was drawn.

    The line goes through the medians of the numbers of steps, weighted by how often they were drawn.
    """
    counts = sorted({one.steps for one in known})
    times = [float(np.median([one.seconds for one in known if one.steps == count])) for count in counts]
    if len(counts) == 1:
        return 0.0, max(times[0] / counts[0], 1e-9)
    weights = np.sqrt([sum(one.steps == count for one in known) for count in counts])
    each, fixed = np.polyfit(counts, times, 1, w=weights)
    if each <= 0:  # noise is larger than what a step takes
        return 0.0, max(times[-1] / counts[-1], 1e-9)
    if fixed < 0:
        return 0.0, max(float(np.sum(times) / np.sum(counts)), 1e-9)
    return float(fixed), float(each)
