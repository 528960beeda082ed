"""Pictures larger than those learnt from (figure 4) and repainted ones (figure 7), by the runtime from a bundle."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import smalti
from claims.common import Bench, Row
from smalti.bundle.manifest import SamplerDefaults
from smalti.saving.formats import contact_sheet
from smalti_export.export import export_bundle

LABEL = "landscape"
"""The one style that is a scene and not a figure in the middle."""
SIDES = ((2, 1), (3, 1), (2, 2))
"""Canvases by the sides learnt from; the paper's widest is three times one."""
TEMPERATURE = 0.8
"""The paper's for canvases."""
MOST_STEPS = 128
COUNT = 4
"""Canvases of each size, or variants of each repainted picture."""


def bundle(bench: Bench, run: Callable[[], Path]) -> Path:
    """The bundle of a prior's run, exported unless it is there."""
    path = bench.work / "bundle"
    if not path.exists():
        defaults = SamplerDefaults(steps=16, temperature=1.0)  # even steps in random order, as published
        say = partial(print, flush=True)
        for failure in export_bundle(run(), path, name="unleashing", defaults=defaults, say=say):
            print(f"left out of the bundle: {failure}", flush=True)
    return path


def figure4(bench: Bench, run: Callable[[], Path]) -> None:
    """Draw canvases by eq. 8 and repaint unseen images, and say how long it took."""
    generator = smalti.load(bundle(bench, run), precision="fp32")
    grid, factor = generator.manifest.latent.grid, generator.manifest.latent.factor
    for wide, tall in SIDES:
        size = wide * grid[1] * factor, tall * grid[0] * factor
        name = f"figure4-{size[0]}x{size[1]}"
        options: dict[str, Any] = {
            "steps": min(MOST_STEPS, wide * tall * grid[0] * grid[1]),
            "stride": max(1, min(grid) // 4),
            "temperature": TEMPERATURE,
        }

        def canvas(name: str = name, size: tuple[int, int] = size, options: dict[str, Any] = options) -> Row:
            result = generator.generate(COUNT, 0, label=LABEL, size=size, **options)
            images = np.stack([np.asarray(image) for image in result.images])
            bench.save_image(name, contact_sheet(images, 2), 800)
            return {"seconds_per_image": result.timings.total / COUNT, "calls": result.timings.calls}

        bench.row("figure4", {"picture": name, "label": LABEL, **options}, canvas)
    bench.row("figure4", {"picture": "inpainting"}, lambda: inpainting(bench, generator))


def inpainting(bench: Bench, generator: smalti.Generator) -> Row:
    """Unseen pictures, one of each label, with their middle and with their lower half repainted."""
    unseen = bench.unseen()
    pictures = [unseen.images[int(np.flatnonzero(unseen.labels == label)[0])] for label in range(8)]
    factor = generator.manifest.latent.factor
    side = generator.manifest.latent.grid[0] * factor
    middle, lower = np.zeros((side, side), bool), np.zeros((side, side), bool)
    middle[side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = True
    lower[side // 2 :] = True
    rows: list[NDArray[np.uint8]] = []
    total = 0.0
    for mask in (middle, lower):
        for picture in pictures:
            result = generator.inpaint(
                picture, mask, COUNT, 0, steps=int(mask.sum()) // factor**2, temperature=TEMPERATURE
            )
            hidden = np.where(mask[..., None], np.uint8(128), picture)
            rows += [picture, hidden, *(np.asarray(image) for image in result.images)]
            total += result.timings.total
    bench.save_sheet("inpainting", np.stack(rows), 2 * (2 + COUNT))
    return {"pictures": len(rows) // (2 + COUNT) * COUNT, "seconds_per_image": total / (16 * COUNT)}
