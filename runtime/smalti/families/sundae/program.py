"""SUNDAE runs as programs for devices: all steps as tables, as if no sample were frozen before the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from smalti.backends.device.plan import Step
from smalti.families.batching import Bools, Integers
from smalti.families.canvas import Windowed
from smalti.families.programs import asked
from smalti.families.sundae.sampler import Annealing, redrawn


def annealed_steps(
    table: Annealing, free: Bools, seeds: Sequence[int], width: int, windowed: Windowed | None
) -> tuple[Step, ...]:
    """Lay out a run over grids of which ``free`` (bool [N, L]) may change."""
    some: Bools = np.asarray(free.any(axis=1))
    active, freezing = np.flatnonzero(some), _Freezing(some)
    seed_array = np.asarray(seeds, np.uint64)
    steps: list[Step] = []
    for step, (temperature, proportion) in enumerate(zip(table.temperatures, table.proportions)):
        if not len(active):
            break
        owner, position = redrawn(active, free, seed_array, step, float(proportion), width)
        calls = asked(owner, position, np.full(len(free), step, np.int32), windowed, free.shape[1])
        freeze = freezing.after(owner) if step >= table.min_steps else None
        steps.append(Step(calls, float(temperature), freeze=freeze))
    return tuple(steps)


class _Freezing:
    """Which samples go on: a sample is frozen when a step drew some of its tokens and changed none."""

    def __init__(self, going: Bools) -> None:
        self.going = going

    def after(self, owner: Integers) -> Callable[[Bools], Bools]:
        """Return what learns from a step whose rows belong to the samples ``owner`` [R] which samples go on."""

        def freeze(changed: Bools) -> Bools:
            drew, moved = np.zeros((2, len(self.going)), np.bool_)
            drew[owner] = True
            moved[owner[changed]] = True
            self.going = self.going & (~drew | moved)
            return self.going

        return freeze
