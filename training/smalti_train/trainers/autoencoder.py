"""Training of edge autoencoders: reconstruction of images, and a codebook whose idle codes are reseeded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smalti.errors import UsageError
from smalti_train.data.pixels import to_images
from smalti_train.data.tensors import seed_torch
from smalti_train.models.edge_autoencoder import EdgeAutoencoder
from smalti_train.models.quantizer import CosineQuantizer
from smalti_train.objectives.losses import PerceptualLoss, autoencoder_loss
from smalti_train.runs.config import AutoencoderRun
from smalti_train.runs.folder import RunFolder
from smalti_train.trainers.loop import channels_last, step_generator
from smalti_train.trainers.reconstruction import JUDGED, evaluate, sheet
from smalti_train.trainers.trainer import Trainer, training


def train_autoencoder(config: AutoencoderRun, path: Path, init: dict[str, Tensor] | None = None) -> None:
    """Train until ``config.loop.steps``, continuing from the newest checkpoint below ``path`` when there is one.

    ``init`` holds weights to start a new run from (see ``smalti_train.runs.bundle_weights``). Raises UsageError for a
    configuration that does not fit the run, the data or the machine; OutputError when a checkpoint cannot be written;
    TrainingError when the loss is no longer a number.
    """
    if config.decoder_only and init is None and not RunFolder(path).checkpoints():
        raise UsageError("training the decoder alone needs a trained autoencoder: name its run or bundle with --init")
    if config.data.size % config.model.factor:
        raise UsageError(f"image size {config.data.size} is not a multiple of {config.model.factor}")
    if config.crop is not None and not 1 <= config.crop <= config.data.size // config.model.factor:
        raise UsageError(f"crop {config.crop}: allowed are 1 .. {config.data.size // config.model.factor} tokens")
    with training("autoencoder", config, path) as trainer:
        _train(config, trainer, init)


def crops(images: NDArray[np.uint8], side: int, step: int, seed: int, number: int) -> NDArray[np.uint8]:
    """Crop uint8 [B, H, W, 3] to [B, side, side, 3], all images at one place on a grid of ``step`` pixels.

    The place depends only on ``seed`` and the training step's ``number``.
    """
    generator = np.random.default_rng([seed, number])
    top, left = (int(generator.integers((int(size) - side) // step + 1)) * step for size in images.shape[1:3])
    return images[:, top : top + side, left : left + side]


class IdleSteps:
    """The steps for which each code of a quantiser stayed unused, as part of a checkpoint."""

    def __init__(self, quantizer: CosineQuantizer) -> None:
        self.quantizer = quantizer

    def state_dict(self) -> dict[str, Tensor]:
        """The counts, float [K]."""
        return {"idle": self.quantizer.idle}

    def load_state_dict(self, state_dict: dict[str, Tensor], /) -> None:
        """Undo :meth:`state_dict`."""
        self.quantizer.idle.copy_(state_dict["idle"])


def _train(config: AutoencoderRun, trainer: Trainer, init: dict[str, Tensor] | None) -> None:
    accelerator, loop = trainer.accelerator, config.loop
    train, validation = trainer.open_data()
    seed_torch(loop.seed)
    model = channels_last(EdgeAutoencoder(config.model))
    model.quantizer.measures_crowding = config.loss.even > 0
    if config.decoder_only:
        model.freeze_tokens()
    perceptual = None
    if config.loss.perceptual:
        perceptual = channels_last(PerceptualLoss(config.loss.perceptual_crop)).to(accelerator.device)
    trainer.register("model", model, init)
    trainer.register("idle", IdleSteps(model.quantizer))
    wrapped, optimizer = accelerator.prepare(model, trainer.adam(model))

    def step(number: int, noise: torch.Generator) -> dict[str, Tensor]:
        pixels = train.images[trainer.rows(number, len(train.images))]
        if config.crop is not None:
            pixels = crops(pixels, config.crop * config.model.factor, config.model.factor, loop.seed, number)
        images = to_images(pixels, accelerator.device)

        wrapped.train()
        model.encoder.train(not config.decoder_only)  # a frozen encoder keeps its norms' statistics too
        reconstruction, features, quantized = wrapped(images)
        terms = autoencoder_loss(reconstruction.float(), images, quantized, config.loss)
        if perceptual is not None:
            with accelerator.autocast():
                terms["perceptual"] = perceptual(reconstruction, images, noise)
            terms["loss"] = terms["loss"] + config.loss.perceptual * terms["perceptual"]
        accelerator.backward(terms["loss"])
        trainer.update(model, optimizer)
        if number < config.reseed_until * loop.steps and not config.decoder_only:
            # Uses the whole batch, so that every process moves the same codes to the same places.
            seen, ids = accelerator.gather((features.detach(), quantized.ids))
            model.quantizer.reseed_idle(seen, ids, config.reseed_patience, step_generator(loop.seed, number))
        return terms

    trainer.run(
        step,
        evaluate=lambda whole: evaluate(model, validation, accelerator, None if whole else JUDGED),
        sheet=lambda: sheet(model, validation, accelerator),
        shown=("loss", "mse", "perceptual", "crowding"),
    )
