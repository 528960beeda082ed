"""Sizes of the experiments, where their files lie, and rows of results that are made once."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from smalti.saving.formats import contact_sheet
from smalti_train.data import ImageSet, open_dataset
from smalti_train.evaluation.evaluate import per_label
from smalti_train.evaluation.features import FeatureNetwork, open_features
from smalti_train.presets.catalogue import AUTOENCODERS, PRIORS
from smalti_train.runs.config import PriorRun, VQGANRun

Row = dict[str, Any]
PAPER_STEPS = (50, 100, 150, 200, 256)
"""Of table 3, out of 256 tokens."""


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    vqgan: VQGANRun
    absorbing: PriorRun
    autoregressive: PriorRun
    warm_steps: tuple[int, int]
    """Steps without a discriminator, before and after the codebook is fitted anew."""
    judged_steps: int
    """Steps of each variant of table 5, with a discriminator from the first."""
    judged_images: int
    """Training images of table 5."""
    head_steps: int
    """Steps of the probabilistic head."""
    trainings: tuple[tuple[str, int], ...]
    """Objectives and seeds of figure 5."""
    seeds: tuple[int, ...]
    """Of the trainings that table 4 compares."""
    fractions: tuple[int, ...]
    """Steps of table 3, of 256."""
    temperatures: tuple[float, ...]
    """Of table 1."""
    per_label: int
    """Samples, and real images, of each of the eight labels."""

    @property
    def tokens(self) -> int:
        """Tokens of an image, which are the steps of a run that draws one after the other."""
        return self.absorbing.model.grid[0] * self.absorbing.model.grid[1]  # pyright: ignore[reportOptionalSubscript]

    def steps(self, fraction: int) -> int:
        """Steps that are to this grid what ``fraction`` is to 256 tokens."""
        return max(1, round(fraction * self.tokens / 256))


def _prior(config: PriorRun, **loop: Any) -> PriorRun:
    return dataclasses.replace(config, loop=dataclasses.replace(config.loop, **loop))


FULL = Scale(
    vqgan=AUTOENCODERS["avatars-64-vqgan"],  # pyright: ignore[reportArgumentType]
    absorbing=_prior(PRIORS["avatars-64-transformer"], steps=600, evaluate_every=50, sheet_every=600),
    autoregressive=_prior(PRIORS["avatars-64-autoregressive"], steps=600, evaluate_every=50, sheet_every=600),
    warm_steps=(800, 1000),
    judged_steps=600,
    judged_images=2000,
    head_steps=500,
    trainings=(("reweighted", 0), ("elbo", 0), ("reweighted", 1), ("elbo", 1), ("mlm", 0)),
    seeds=(0, 1),
    fractions=PAPER_STEPS,
    temperatures=(0.8, 0.9, 1.0, 1.1),
    per_label=80,
)


def _tiny(config: Any) -> Any:
    data = dataclasses.replace(config.data, train_count=64, validation_count=64)
    loop = dataclasses.replace(config.loop, steps=2, batch=4, precision="fp32", evaluate_every=1)
    return dataclasses.replace(config, data=data, loop=loop)


TINY = Scale(
    vqgan=_tiny(AUTOENCODERS["tiny-vqgan"]),
    absorbing=_tiny(PRIORS["tiny-transformer"]),
    autoregressive=_tiny(PRIORS["tiny-autoregressive"]),
    warm_steps=(1, 1),
    judged_steps=1,
    judged_images=32,
    head_steps=1,
    trainings=(("reweighted", 0), ("elbo", 0)),
    seeds=(0,),
    fractions=(50, 256),
    temperatures=(0.9, 1.0),
    per_label=2,
)
"""Sees every line run; says nothing."""


@dataclass(frozen=True)
class Bench:
    """One set of experiments: its sizes, the folder of its runs and the folder of its results."""

    scale: Scale
    work: Path
    results: Path

    def rows(self, name: str) -> list[Row]:
        """Rows measured so far."""
        path = self.results / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else []

    def row(self, name: str, setting: Row, measure: Callable[[], Row]) -> Row:
        """The row of ``setting``, measured unless it is there; with the seconds that took."""
        rows = self.rows(name)
        if found := next((row for row in rows if row["setting"] == setting), None):
            return found
        started = time.perf_counter()
        row = {"setting": setting, **measure(), "seconds": round(time.perf_counter() - started, 1)}
        self._write(name, [*rows, row])
        print(f"{name}: {json.dumps(_brief(row))}", flush=True)
        return row

    def _write(self, name: str, rows: list[Row]) -> None:
        self.results.mkdir(parents=True, exist_ok=True)
        partial = self.results / f".{name}.json"
        partial.write_text(json.dumps(rows, indent=1) + "\n")
        partial.replace(self.results / f"{name}.json")

    def train(self, run: Path, steps: int, training: Callable[[], None]) -> None:
        """Let ``training`` bring a run to its last checkpoint unless it is there, and note the seconds that took.

        They are those of the last part alone where a training was interrupted.
        """
        if (run / f"checkpoint-{steps:08d}").exists():
            return
        started = time.perf_counter()
        training()
        setting = {"run": run.name, "steps": steps}
        others = [row for row in self.rows("trainings") if row["setting"] != setting]
        self._write("trainings", [*others, {"setting": setting, "seconds": round(time.perf_counter() - started, 1)}])

    def unseen(self) -> ImageSet:
        """Images that no model here has learnt from, twice as many of each label as are compared."""
        size, count = self.scale.vqgan.data.size, 2 * self.scale.per_label * 8
        return open_dataset("avatars", size=size, split="test", count=count)

    def real(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int32]]:
        """Unseen images to compare with, as many others, and the labels of both."""
        unseen, count = self.unseen(), self.scale.per_label
        chosen, others = per_label(unseen, count), per_label(unseen, count, count)
        return unseen.images[chosen], unseen.images[others], unseen.labels[chosen]

    @cached_property
    def real_features(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Features of the images that :meth:`real` gives, and of the others."""
        real, again, _ = self.real()
        return features(real), features(again)

    def save_sheet(self, name: str, images: NDArray[np.uint8], columns: int, width: int = 1000) -> None:
        """Write a sheet of uint8 [N, H, W, 3] as a small WebP."""
        self.save_image(name, contact_sheet(images, columns), width)

    def save_image(self, name: str, image: Image.Image, width: int = 1000) -> None:
        """Write ``image``, of at most ``width`` pixels a row, as a small WebP."""
        self.results.mkdir(parents=True, exist_ok=True)
        image.thumbnail((width, 10 * width), Image.Resampling.LANCZOS)
        image.save(self.results / f"{name}.webp", quality=82, method=6)


def _brief(row: Row) -> Row:
    return {name: value for name, value in row.items() if not isinstance(value, list)}


def curve(run: Path, tag: str) -> list[tuple[int, float]]:
    """A figure that a run has logged, by step; where a run was continued, its last word on each step."""
    found: dict[int, float] = {}
    for events in sorted((run / "logs/tensorboard").glob("events*")):
        log = EventAccumulator(str(events)).Reload()
        if tag in log.Tags()["scalars"]:
            found |= {event.step: event.value for event in log.Scalars(tag)}
    return sorted(found.items())


_NETWORKS: list[FeatureNetwork] = []


def features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """EffNet-Lite0's features (float32 [N, 1280]) of uint8 [N, H, W, 3]."""
    if not _NETWORKS:
        _NETWORKS.append(open_features())
    return _NETWORKS[0](images)
