"""Train heads that draw an autoencoder's tokens at twice and four times its pixels, on pictures drawn at those sizes.

Encoder, codes and decoder stay as they are, so that priors over the tokens and the decoder's own pictures stay good. A
step shows whole pictures: their borders are where a crop would have none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from smalti.errors import UsageError
from smalti.saving.formats import contact_sheet
from smalti_train.data import ImageSet
from smalti_train.data.config import DataConfig
from smalti_train.data.pixels import to_images, to_pixels
from smalti_train.data.tensors import from_numpy, seed_torch
from smalti_train.evaluation.metrics import edge_psnr, psnr
from smalti_train.models.size_heads import SCALES, SizedAutoencoder
from smalti_train.objectives.losses import reconstruction_loss
from smalti_train.runs.bundle_weights import initial_heads, initial_weights
from smalti_train.runs.config import AutoencoderRun, HeadsRun
from smalti_train.runs.token_cache import cached_tokens
from smalti_train.trainers.loop import channels_last
from smalti_train.trainers.trainer import Trainer, training

JUDGED = 64
"""Unseen images measured during training; at its end all of them are."""
SHOWN = 8
"""Images on a sheet."""
CROP = 192
"""Pixels per side that a sheet shows of each picture at the largest size, one to one."""


def train_heads(config: HeadsRun, path: Path, autoencoder: str | Path | None, init: str | Path | None = None) -> None:
    """Train until ``config.loop.steps``, continuing from the newest checkpoint below ``path`` when there is one.

    A new run takes its autoencoder from ``autoencoder`` (a run or a bundle), or autoencoder and heads from ``init`` (a
    run of heads, or a bundle of more than one size). Raises UsageError for parts that do not fit each other, the data
    or the machine; OutputError when a checkpoint cannot be written; TrainingError when the loss is no longer a number.
    """
    with training("heads", config, path) as trainer:
        _train(config, trainer, autoencoder, init)


def _train(config: HeadsRun, trainer: Trainer, source: str | Path | None, init: str | Path | None) -> None:
    accelerator, loop, path = trainer.accelerator, config.loop, trainer.folder.path
    seed_torch(loop.seed)
    model = SizedAutoencoder(config.model)
    if trainer.new:
        _begin(model, config, source, init)
    trainer.register("model", model)
    train, validation = zip(*(trainer.open_images(data) for data in _sizes(config.data)))
    trainer.keep_config()
    codec = model.autoencoder.eval()
    tokens = cached_tokens(path / "tokens/train.npy", codec, train[0], accelerator, False, "tokens")
    unseen = cached_tokens(
        path / "tokens/validation.npy", codec, validation[0], accelerator, False, "validation tokens"
    )
    model = channels_last(model).to(accelerator.device)
    model.autoencoder.requires_grad_(False)
    heads, optimizer = accelerator.prepare(model.heads, trainer.adam(model.heads))
    measure = reconstruction_loss
    if loop.compile:
        measure = torch.compile(measure)  # pyright: ignore[reportUnknownMemberType] - in part without types

    def step(number: int, noise: torch.Generator) -> dict[str, Tensor]:
        chosen = trainer.rows(number, len(tokens))
        ids = from_numpy(tokens[chosen].astype(np.int64)).to(accelerator.device)
        with torch.no_grad(), accelerator.autocast():
            seen = model.seen(ids)
        heads.train()
        made = heads(*seen, SCALES[1:])
        losses: dict[str, Tensor] = {}
        for scale, images in zip(SCALES[1:], train[1:]):
            target = to_images(images.images[chosen], accelerator.device)
            losses[f"x{scale}"] = measure(made[scale], target, config.loss)["loss"]
        accelerator.backward(torch.stack([*losses.values()]).sum())
        trainer.update(model.heads, optimizer)
        return losses

    trainer.run(
        step,
        evaluate=lambda whole: judge(model, unseen, validation, accelerator, None if whole else JUDGED),
        sheet=lambda: sheet(model, unseen, validation, accelerator),
        shown=tuple(f"x{scale}" for scale in SCALES[1:]),
    )


def _begin(model: SizedAutoencoder, config: HeadsRun, source: str | Path | None, init: str | Path | None) -> None:
    """Fill a new run's model from a run or bundle of heads, or its autoencoder alone from a run or a bundle."""
    if init is not None:
        model.load_state_dict(initial_heads(init, config))
    elif source is None:
        raise UsageError("new heads need a decoder: name its autoencoder's run or bundle with --autoencoder")
    else:
        like = AutoencoderRun(preset=config.preset, model=config.model.autoencoder)
        model.autoencoder.load_state_dict(initial_weights(source, like))


def _sizes(data: DataConfig) -> list[DataConfig]:
    """The same images at each of ``SCALES``."""
    return [dataclasses.replace(data, size=data.size * scale) for scale in SCALES]


@torch.no_grad()
def drawn(
    model: SizedAutoencoder, tokens: NDArray[np.int16], accelerator: Accelerator, batch: int = 4
) -> dict[int, NDArray[np.uint8]]:
    """Decode tokens int16 [N, h, w] to pictures uint8 [N, H, W, 3], by scale."""
    model.eval()
    parts: dict[int, list[NDArray[np.uint8]]] = {scale: [] for scale in SCALES}
    for first in range(0, len(tokens), batch):
        ids = from_numpy(tokens[first : first + batch].astype(np.int64)).to(accelerator.device)
        with accelerator.autocast():
            made = model(ids)
        for scale, images in made.items():
            parts[scale].append(to_pixels(images))
    return {scale: np.concatenate(images) for scale, images in parts.items()}


def enlarged(pixels: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Lanczos enlargement of uint8 [N, H, W, 3], the baseline for the heads."""
    size = (pixels.shape[2] * scale, pixels.shape[1] * scale)
    return np.stack([np.asarray(Image.fromarray(one).resize(size, Image.Resampling.LANCZOS)) for one in pixels])


def decibels_by_size(
    pictures: Mapping[int, NDArray[np.uint8]], real: Sequence[NDArray[np.uint8]]
) -> dict[tuple[int, str], NDArray[np.floating[Any]]]:
    """PSNR and edge PSNR in dB (float64 [N]) of each of N pictures, by scale and by "psnr" or "edge psnr".

    ``pictures`` are uint8 [N, H, W, 3] by scale; at scales that are missing, those of scale 1 are enlarged. ``real``
    are the originals at each of ``SCALES``.
    """
    found: dict[tuple[int, str], NDArray[np.floating[Any]]] = {}
    for scale, images in zip(SCALES, real, strict=True):
        pixels = pictures[scale] if scale in pictures else enlarged(pictures[1], scale)
        found[scale, "psnr"], found[scale, "edge psnr"] = psnr(pixels, images), edge_psnr(pixels, images)
    return found


def judge(
    model: SizedAutoencoder,
    tokens: NDArray[np.int16],
    images: Sequence[ImageSet],
    accelerator: Accelerator,
    limit: int | None = None,
) -> dict[str, float]:
    """PSNR and edge PSNR in dB over unseen images, by scale; beside them those of the decoder's picture enlarged.

    ``images`` are the originals of ``tokens`` at each of ``SCALES``.
    """
    rows: dict[str, list[float]] = {}
    count = len(tokens) if limit is None else min(limit, len(tokens))
    for first in range(0, count, SHOWN):
        part = slice(first, min(first + SHOWN, count))
        made, real = drawn(model, tokens[part], accelerator), [np.asarray(one.images[part]) for one in images]
        for name, pictures in (("", made), (" enlarged", {1: made[1]})):
            for (scale, kind), values in decibels_by_size(pictures, real).items():
                if pictures is made or scale > 1:
                    rows.setdefault(f"x{scale}{name} {kind}", []).extend(values.tolist())
    return {name: float(np.mean(values)) for name, values in rows.items()}


@torch.no_grad()
def sheet(
    model: SizedAutoencoder, tokens: NDArray[np.int16], images: Sequence[ImageSet], accelerator: Accelerator
) -> Image.Image:
    """Centres of unseen images at the largest size, one to one: real, drawn by the head, decoder's picture enlarged."""
    made = drawn(model, tokens[:SHOWN], accelerator)
    largest = SCALES[-1]
    rows = (np.asarray(images[-1].images[:SHOWN]), made[largest], enlarged(made[1], largest))
    side = rows[0].shape[1]
    crop = min(CROP, side)
    middle = slice((side - crop) // 2, (side + crop) // 2)
    return contact_sheet(np.concatenate([row[:, middle, middle] for row in rows]), SHOWN)
