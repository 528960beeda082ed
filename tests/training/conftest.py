from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smalti_train.config import AnyRun

Brief = Callable[..., AnyRun]


@pytest.fixture(scope="session")
def brief() -> Brief:
    """Shorten a preset to the images, steps and precision of ``tiny_runs``; keywords change more of its loop."""

    def shortened(config: AnyRun, **loop: object) -> AnyRun:
        data = dataclasses.replace(config.data, train_count=64, validation_count=64)
        changed = dataclasses.replace(config.loop, **{"steps": 20, "precision": "fp32", **loop})
        return dataclasses.replace(config, data=data, loop=changed)

    return shortened


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder of 40 pictures under two labels: coloured discs and bars."""
    root = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    for label in ("discs", "bars"):
        (root / label).mkdir()
        for index in range(20):
            place, size = generator.integers(16, 48, 2), generator.integers(6, 16)
            inside = (
                (y - place[0]) ** 2 + (x - place[1]) ** 2 < size**2 if label == "discs" else abs(x - place[0]) < size
            )
            ground, ink = generator.integers(0, 256, (2, 3))
            pixels = np.where(inside[..., None], ink, ground).astype(np.uint8)
            Image.fromarray(pixels).save(root / label / f"{index}.png")
    return root
