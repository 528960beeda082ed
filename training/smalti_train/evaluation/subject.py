"""What is evaluated: a bundle through the runtime, or a run's torch models, behind the same few functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import smalti
from smalti.absorbing import Denoiser
from smalti.errors import UsageError
from smalti.settings import Options, resolve
from smalti_train.config import AutoencoderRun, read_run
from smalti_train.data import ImageSet, open_dataset
from smalti_train.loop import open_split, to_images, to_pixels
from smalti_train.tokens import load_autoencoder
from smalti_train.train_prior import SHEET_STEPS, draw, load_prior, torch_denoiser

Int32 = NDArray[np.int32]
Pixels = NDArray[np.uint8]
BATCH = 16
SETTINGS = ("steps", "temperature", "guidance", "schedule", "order")


@dataclass(frozen=True)
class Subject:
    """A model under evaluation. Pixels are uint8 [N, H, W, 3], tokens int32 [N, h, w]."""

    name: str
    kind: str
    """``bundle``, ``prior run`` or ``autoencoder run``."""
    settings: dict[str, Any]
    """How samples are drawn; empty where none are."""
    size: int
    """Pixels per side."""
    codes: int
    classes: tuple[str, ...]
    encode: Callable[[Pixels], Int32]
    decode: Callable[[Int32], Pixels]
    draw: Callable[[Sequence[int], Sequence[str | None]], Int32] | None = None
    """Tokens for seeds and labels, one each."""
    denoiser: Denoiser | None = None


def open_subject(
    source: str,
    *,
    steps: int | None = None,
    temperature: float | None = None,
    guidance: float | None = None,
    schedule: str | None = None,
    order: str | None = None,
    precision: str = "auto",
) -> Subject:
    """Open a run's folder, or else a bundle by path or name; the options say how samples are drawn."""
    options = {"steps": steps, "temperature": temperature, "guidance": guidance, "schedule": schedule, "order": order}
    given = {name: value for name, value in options.items() if value is not None}
    if not (Path(source) / "config.json").exists():
        return _bundle(source, given, precision)
    if precision != "auto":
        raise UsageError(f"precision {precision!r}: only a bundle comes in several; leave it out for a run")
    config = read_run(Path(source) / "config.json")
    if isinstance(config, AutoencoderRun):
        return _autoencoder_run(Path(source))
    return _prior_run(Path(source), given)


def _bundle(source: str, options: dict[str, Any], precision: str) -> Subject:
    generator = smalti.load(source, precision=precision)
    manifest = generator.manifest
    rows, _ = manifest.latent.grid

    def draw_tokens(seeds: Sequence[int], labels: Sequence[str | None]) -> Int32:
        *_, last = generator.stream(seeds=seeds, label=labels, **options)
        return last.tokens

    used = resolve(manifest, 1, 0, Options(**options))
    return Subject(
        name=manifest.name,
        kind="bundle",
        settings={
            **{name: getattr(used, name) for name in SETTINGS},
            "precision": dict(generator.report.precision),
        },
        size=rows * manifest.latent.factor,
        codes=manifest.latent.codes,
        classes=manifest.classes,
        encode=lambda pixels: _batched(generator.encode, pixels),
        decode=lambda tokens: np.stack([np.asarray(image) for image in generator.decode(tokens)]),
        draw=draw_tokens,
        denoiser=generator.logits,
    )


def _autoencoder_run(path: Path) -> Subject:
    model, config = load_autoencoder(path)
    return _with_autoencoder(path.name, "autoencoder run", model, config.data.size, ())


def _with_autoencoder(name: str, kind: str, model: Any, size: int, classes: tuple[str, ...], **rest: Any) -> Subject:
    @torch.no_grad()
    def encode(pixels: Pixels) -> Int32:
        return _batched(lambda part: model.encode(to_images(part)).int().numpy(), pixels)

    @torch.no_grad()
    def decode(tokens: Int32) -> Pixels:
        return _batched(lambda part: to_pixels(model.decode(torch.from_numpy(part.astype(np.int64)))), tokens)

    rest = {"settings": {}, **rest}
    return Subject(
        name=name, kind=kind, size=size, codes=model.config.codes, classes=classes, encode=encode, decode=decode, **rest
    )


def _prior_run(path: Path, options: dict[str, Any]) -> Subject:
    prior, config = load_prior(path)
    model, _ = load_autoencoder(path / "autoencoder")
    classes = open_split(config.data, "validation").label_names if prior.config.classes else ()
    defaults = {"steps": SHEET_STEPS, "temperature": 1.0, "guidance": 1.0, "schedule": "exact", "order": "random"}
    settings = {**defaults, **options}
    denoiser = torch_denoiser(prior)

    def draw_tokens(seeds: Sequence[int], labels: Sequence[str | None]) -> Int32:
        indices = [len(classes) if label is None else classes.index(label) for label in labels]
        parts = [
            draw(denoiser, prior.config, seeds[first : first + BATCH], indices[first : first + BATCH], **settings)
            for first in range(0, len(seeds), BATCH)
        ]
        return np.concatenate(parts)

    return _with_autoencoder(
        path.name,
        "prior run",
        model,
        config.data.size,
        classes,
        settings=settings,
        draw=draw_tokens,
        denoiser=denoiser,
    )


def data_of(name: str, size: int, count: int | None, root: str | None, split: str = "test") -> ImageSet:
    """Open images to evaluate on."""
    return open_dataset(name, size=size, split=split, count=count, root=None if root is None else Path(root))


def _batched(function: Callable[[Any], Any], items: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([np.asarray(function(items[i : i + BATCH])) for i in range(0, len(items), BATCH)])
