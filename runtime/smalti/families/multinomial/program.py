"""Multinomial runs as programs for devices: all steps as tables, with the noise that kept tokens are shown with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from smalti.backends.device.plan import Noise, Put, Step
from smalti.families.batching import Bools, Int32
from smalti.families.canvas import Windowed
from smalti.families.multinomial.sampler import Strides, noised, posterior_weights
from smalti.families.programs import asked


def denoising_steps(
    table: Strides,
    tokens: Int32,
    free: Bools,
    temperature: float,
    *,
    seeds: Sequence[int],
    codes: int,
    width: int,
    windowed: Windowed | None,
) -> tuple[Step, ...]:
    """Lay out a run over ``tokens`` (int32 [N, L]), of which ``free`` (bool [N, L]) may change."""
    seed_array = np.asarray(seeds, np.uint64)
    owner, position = np.nonzero(free)
    held, place = np.nonzero(~free)
    cells = (held * free.shape[1] + place).astype(np.int32)
    steps: list[Step] = []
    for step in range(table.steps if len(owner) else 0):
        shown = noised(tokens, free, seed_array, step, float(table.seen[step]), codes, width)
        weights = posterior_weights(float(table.kept[step]), float(table.clean[step]), codes)
        steps.append(
            Step(
                asked(owner, position, np.full(len(free), step, np.int32), windowed, free.shape[1]),
                temperature,
                shown=Put(cells, shown[held, place]) if len(cells) else None,
                noise=Noise(int(table.times[step]), *weights),
            )
        )
    return tuple(steps)
