"""Training of the published VQGANs: an autoencoder against a discriminator.

See Esser et al. 2021, and Bond-Taylor et al. 2021, section 3.4.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from smalti.errors import UsageError
from smalti_train.data.pixels import to_images
from smalti_train.data.tensors import distinct, seed_torch
from smalti_train.models.discriminator import Discriminator
from smalti_train.models.quantizer_gumbel import gumbel_temperature
from smalti_train.models.vqgan import VQGAN
from smalti_train.objectives.adversarial import discriminator_loss, vqgan_loss
from smalti_train.objectives.diff_augment import diff_augment
from smalti_train.objectives.losses import PerceptualLoss
from smalti_train.runs.config import EFFNET_LITE0, VQGANRun
from smalti_train.runs.folder import RunFolder
from smalti_train.runs.processes import share, whole_batch
from smalti_train.trainers.loop import batch_indices, channels_last
from smalti_train.trainers.perceptual import LPIPS, open_lpips
from smalti_train.trainers.reconstruction import JUDGED, evaluate, sheet
from smalti_train.trainers.trainer import Trainer, training


def train_vqgan(config: VQGANRun, path: Path, init: dict[str, Tensor] | None = None) -> None:
    """Train until ``config.loop.steps``, continuing from the newest checkpoint below ``path`` when there is one.

    ``init`` holds weights of a VQGAN to start a new run from; its discriminator starts anew. Raises UsageError for a
    configuration that does not fit the run, the data or the machine; OutputError when a checkpoint cannot be written;
    TrainingError when a loss is no longer a number.
    """
    if config.decoder_only and init is None and not RunFolder(path).checkpoints():
        raise UsageError("training the decoder alone needs a trained autoencoder: name its run or bundle with --init")
    if config.data.size % config.model.factor:
        raise UsageError(f"image size {config.data.size} is not a multiple of {config.model.factor}")
    if config.data.size < 3 * 2**config.discriminator.layers:
        raise UsageError(
            f"a discriminator of {config.discriminator.layers} layers judges images from "
            f"{3 * 2**config.discriminator.layers} pixels per side, not {config.data.size}"
        )
    if config.loop.compile:
        raise UsageError("a VQGAN does not train compiled, as lambda takes a gradient twice; leave --compile out")
    with training("vqgan", config, path) as trainer:
        _train(config, trainer, init)


def _train(config: VQGANRun, trainer: Trainer, init: dict[str, Tensor] | None) -> None:
    accelerator, loop, value_range = trainer.accelerator, config.loop, config.model.value_range
    perceptual = _perceptual(config, accelerator.device)
    train, validation = trainer.open_data()
    seed_torch(loop.seed)
    model, discriminator = channels_last(VQGAN(config.model)), Discriminator(config.discriminator)
    if model.decoder.logsigma is not None:
        model.decoder.logsigma.requires_grad_(False)  # it learns from a finished autoencoder's outputs alone
    if config.decoder_only:
        model.freeze_tokens()
    trainer.register("model", model, init)
    trainer.register("discriminator", discriminator.to(accelerator.device))
    average = trainer.average(model, config.ema, config.ema_every)
    optimizer, judging = trainer.adam(model), trainer.adam(discriminator, "discriminator_optimizer")
    wrapped, optimizer, judging = accelerator.prepare(model, optimizer, judging)
    part = accelerator.process_index, accelerator.num_processes

    def step(number: int, noise: torch.Generator) -> dict[str, Tensor]:
        temperature = gumbel_temperature(number, config.gumbel_steps)
        # Noise is drawn for the whole batch, so that the number of processes does not change it.
        indices = np.sort(batch_indices(number, loop.batch, len(train.images), loop.seed))
        mirrored = torch.rand(loop.batch, generator=noise) < 0.5 * config.flip
        images = to_images(train.images[share(accelerator, indices)], accelerator.device, value_range)
        mirrored = share(accelerator, mirrored)[:, None, None, None].to(accelerator.device)
        images = torch.where(mirrored, images.flip(3), images)

        # The autoencoder, with the discriminator's loss once that has begun.
        wrapped.train()
        reconstruction, _, quantized = wrapped(images, temperature, False, noise, part)
        reconstruction, distance, fake = reconstruction.float(), None, None
        judged = config.loss.judged(number)
        if perceptual is not None:
            distance = _distance(perceptual, reconstruction, images, value_range, noise, accelerator)
        if judged:
            discriminator.requires_grad_(False)
            fake = _verdict(discriminator, whole_batch(accelerator, reconstruction), config, noise, accelerator)
        terms = vqgan_loss(
            reconstruction, images, quantized, config.loss, distance, fake, model.last_layer, trainer.mean
        )
        accelerator.backward(terms["loss"])
        trainer.update(model, optimizer)

        # The discriminator, on every process for the whole batch: its norms need all images together.
        if judged:
            discriminator.requires_grad_(True)
            real, made = accelerator.gather((images.contiguous(), reconstruction.detach().contiguous()))
            verdicts = [_verdict(discriminator, seen, config, noise, accelerator) for seen in (real, made)]
            terms["discriminator"] = discriminator_loss(*verdicts)
            accelerator.backward(terms["discriminator"])
            trainer.mean_gradients(discriminator)  # equal up to rounding; the mean keeps the processes equal
            trainer.update(discriminator, judging)
        if trainer.reports(number):
            used = distinct(accelerator.gather(quantized.ids)).numel()
            terms |= trainer.scalars(codes_in_batch=used, gumbel_temperature=temperature)
        return terms

    trainer.run(
        step,
        evaluate=lambda whole: evaluate(average.model, validation, accelerator, None if whole else JUDGED, 8),
        sheet=lambda: sheet(average.model, validation, accelerator),
        shown=("loss", "l1", "perceptual", "lambda", "discriminator"),
    )


def _perceptual(config: VQGANRun, device: torch.device) -> PerceptualLoss | LPIPS | None:
    """The network of the perceptual term, or None where its weight is 0.

    Raises UsageError, naming the file, for other contents.
    """
    if not config.loss.perceptual:
        return None
    if config.perceptual == EFFNET_LITE0:
        return PerceptualLoss(crop=config.data.size).to(device)
    heads = None if config.perceptual_heads is None else Path(config.perceptual_heads)
    return open_lpips(Path(config.perceptual), heads).to(device)


def _distance(
    perceptual: PerceptualLoss | LPIPS,
    reconstruction: Tensor,
    images: Tensor,
    value_range: tuple[float, float],
    noise: torch.Generator,
    accelerator: Accelerator,
) -> Tensor:
    """Perceptual distance between reconstructions and images (float scalar or [B])."""
    with accelerator.autocast():
        if isinstance(perceptual, LPIPS):
            return perceptual(reconstruction, images, value_range)
        return perceptual(reconstruction, images, noise, value_range)


def _verdict(
    discriminator: Discriminator, images: Tensor, config: VQGANRun, noise: torch.Generator, accelerator: Accelerator
) -> Tensor:
    """The discriminator's logits (float [B, 1, h, w]) for a whole batch, as augmented by ``noise``."""
    with accelerator.autocast():
        return discriminator(diff_augment(images, noise) if config.loss.augment else images).float()
