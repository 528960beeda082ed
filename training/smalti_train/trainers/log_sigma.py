"""Training of a VQGAN's probabilistic head, which predicts each pixel's deviation from the decoder's mean.

See Bond-Taylor et al. 2021, section 4.1.1. Encoder, codebook and decoder stay fixed, and so do tokens and pictures.
With the head, the autoencoder and a prior over its tokens give a density of images, in bits per dimension
(``smalti_train.objectives.vqgan_likelihood``).
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from smalti.errors import UsageError
from smalti_train.data import ImageSet
from smalti_train.data.pixels import to_images
from smalti_train.data.tensors import seed_torch
from smalti_train.models.vqgan import VQGAN
from smalti_train.objectives.vqgan_likelihood import bits_per_dimension, dequantized, gaussian_nats
from smalti_train.runs.config import LoopConfig, OptimizerConfig, VQGANRun
from smalti_train.runs.loading import load_autoencoder
from smalti_train.runs.processes import share
from smalti_train.trainers.loop import batch_indices
from smalti_train.trainers.reconstruction import JUDGED
from smalti_train.trainers.trainer import Trainer, training

HEAD_OPTIMIZER = OptimizerConfig(lr=1e-3, warmup=20)
HEAD_LOOP = LoopConfig(steps=500, batch=16)
BITS = 5
"""Bits of the images' values, as in the paper."""


def head_run(trained: VQGANRun, bits: int = BITS) -> VQGANRun:
    """Configuration of a run that trains the head of a trained VQGAN on images of ``bits`` bits.

    A VQGAN without such a head gets one. Raises UsageError for bits that 8-bit images do not have.
    """
    if not 1 <= bits <= 8:
        raise UsageError(f"bits {bits}: images have 8 bits a value, so 1 .. 8 are allowed")
    return dataclasses.replace(
        trained,
        model=dataclasses.replace(trained.model, probabilistic=True),
        optimizer=HEAD_OPTIMIZER,
        loop=HEAD_LOOP,
        pixel_bits=bits,
    )


def train_log_sigma(config: VQGANRun, path: Path, autoencoder: Path) -> None:
    """Train the head of the VQGAN in the run ``autoencoder`` until ``config.loop.steps``; see :func:`head_run`.

    Continues from the newest checkpoint below ``path`` when there is one. Checkpoints hold the whole VQGAN. Raises
    UsageError for a configuration that does not fit the VQGAN, the data or the machine; OutputError when a checkpoint
    cannot be written; TrainingError when the loss is no longer a number.
    """
    bits = config.pixel_bits
    if bits is None or not config.model.probabilistic:
        raise UsageError("this configuration trains no probabilistic head: make it by head_run")
    with training("log sigma", config, path) as trainer:
        _train(config, bits, trainer, autoencoder)


def _train(config: VQGANRun, bits: int, trainer: Trainer, autoencoder: Path) -> None:
    accelerator, loop, value_range = trainer.accelerator, config.loop, config.model.value_range
    seed_torch(loop.seed)
    model = _with_head(config, autoencoder)
    train, validation = trainer.open_data()
    head = model.decoder.logsigma
    assert head is not None
    model.requires_grad_(False)
    head.requires_grad_(True)
    trainer.register("model", model)
    optimizer = accelerator.prepare(trainer.adam(model.to(accelerator.device)))

    def step(number: int, noise: torch.Generator) -> dict[str, Tensor]:
        indices = np.sort(batch_indices(number, loop.batch, len(train.images), loop.seed))
        # Noise is drawn for the whole batch, so that the number of processes does not change it.
        whole = to_images(train.images[indices], value_range=value_range)
        values = share(accelerator, dequantized(whole, bits, value_range, noise)).to(accelerator.device)
        images = share(accelerator, whole).to(accelerator.device)
        with accelerator.autocast():
            mean, logsigma = model.probabilistic(model.encode(images))
        loss = gaussian_nats(values, mean.float(), logsigma.float()).mean() / values[0].numel()
        accelerator.backward(loss)
        trainer.mean_gradients(head)
        trainer.update(head, optimizer)
        return {"loss": loss}

    def judge(whole: bool) -> dict[str, float]:
        found = pixel_nats(model, validation, bits, None if whole else JUDGED).mean(0, keepdim=True)
        found = bits_per_dimension(found, torch.zeros(1), 3 * config.data.size**2, bits, value_range)
        return {"pixel_bits_per_dim": found.item()}  # without the tokens' share

    trainer.run(step, judge)


@torch.no_grad()
def pixel_nats(model: VQGAN, data: ImageSet, bits: int, limit: int | None = None, batch: int = 16) -> Tensor:
    """Negative log-density of ``data``'s images given their own tokens, in nats per image (float [N], fp32).

    Images have ``bits`` bits; the noise that dequantises them is the same at every call.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    count = min(len(data.images), limit or len(data.images))
    found: list[Tensor] = []
    for first in range(0, count, batch):
        images = to_images(data.images[first : min(first + batch, count)], value_range=model.config.value_range)
        values = dequantized(images, bits, model.config.value_range, generator).to(device)
        mean, logsigma = model.probabilistic(model.encode(images.to(device)))
        found.append(gaussian_nats(values, mean, logsigma).cpu())
    return torch.cat(found)


def image_bits(pixel: float, tokens: float, length: int, dimensions: int, bits: int, black_to_white: float) -> float:
    """Bound on images in bits per dimension, from the means ``pixel`` (nats per image) and ``tokens`` (bits per token).

    An image has ``length`` tokens and ``dimensions`` values; ``black_to_white`` is the length of the value range.
    """
    parts = torch.tensor([pixel], dtype=torch.float64), torch.tensor([tokens * length * math.log(2)])
    return bits_per_dimension(*parts, dimensions, bits, (0.0, black_to_white)).item()


def _with_head(config: VQGANRun, autoencoder: Path) -> VQGAN:
    """The trained VQGAN in eval mode, with a new head if it had none. Raises UsageError unless it is ``config``'s."""
    trained, _ = load_autoencoder(autoencoder)
    if not isinstance(trained, VQGAN):
        raise UsageError(f"{autoencoder} is no VQGAN, and no other autoencoder has a probabilistic head")
    if dataclasses.replace(trained.config, probabilistic=True) != config.model:
        raise UsageError(f"{autoencoder} has other sizes than this run's configuration; name the run it was made for")
    model = VQGAN(config.model)
    missing, _ = cast("tuple[list[str], list[str]]", model.load_state_dict(trained.state_dict(), strict=False))
    assert all(name.startswith("decoder.logsigma.") for name in missing)
    return model.eval()
