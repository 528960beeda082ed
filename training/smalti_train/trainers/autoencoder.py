"""Training of edge autoencoders: reconstruction of images, and a codebook whose idle codes are reseeded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smalti.errors import UsageError
from smalti_train.data.config import open_split
from smalti_train.data.pixels import to_images
from smalti_train.models.edge_autoencoder import EdgeAutoencoder
from smalti_train.objectives.losses import PerceptualLoss, autoencoder_loss
from smalti_train.runs.config import AutoencoderRun
from smalti_train.runs.folder import RunFolder, optimizer_tensors, restore_optimizer
from smalti_train.runs.processes import share
from smalti_train.trainers.loop import (
    Reporter,
    batch_indices,
    interruptible,
    learning_rate,
    restore_scaler,
    scaler_state,
    set_learning_rate,
    start,
    step_generator,
)
from smalti_train.trainers.loss_guard import LossWatch
from smalti_train.trainers.reconstruction import evaluate, sheet


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
    folder = RunFolder(path)
    try:
        _train(config, folder, init)
    finally:
        folder.close()


def crops(images: NDArray[np.uint8], side: int, step: int, seed: int, number: int) -> NDArray[np.uint8]:
    """Crop uint8 [B, H, W, 3] to [B, side, side, 3], all images at one place on a grid of ``step`` pixels.

    The place depends only on ``seed`` and the training step's ``number``.
    """
    generator = np.random.default_rng([seed, number])
    top, left = (int(generator.integers((size - side) // step + 1)) * step for size in images.shape[1:3])
    return images[:, top : top + side, left : left + side]


def _train(config: AutoencoderRun, folder: RunFolder, init: dict[str, Tensor] | None) -> None:
    accelerator = start(config.loop, folder)
    folder.open(config, lock=accelerator.is_main_process)
    with accelerator.main_process_first():
        train, validation = open_split(config.data, "train"), open_split(config.data, "validation")
    if accelerator.is_main_process:
        folder.keep_config(config)

    accelerator.init_trackers("tensorboard")

    torch.manual_seed(config.loop.seed)
    model = EdgeAutoencoder(config.model)
    model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - missing from torch's stubs
    if init is not None:
        model.load_state_dict(init)
    model.quantizer.measures_crowding = config.loss.even > 0
    if config.decoder_only:
        model.encoder.requires_grad_(False)
        model.quantizer.requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        betas=config.optimizer.betas,
        weight_decay=config.optimizer.weight_decay,
        fused=True,
    )
    perceptual = None
    if config.loss.perceptual:
        perceptual = PerceptualLoss(config.loss.perceptual_crop).to(
            accelerator.device, memory_format=torch.channels_last
        )  # pyright: ignore[reportCallIssue] - as above
    step = 0
    if (saved := folder.latest()) is not None:
        parts, state = saved
        step = state["step"]
        model.load_state_dict(parts["model"])
        model.quantizer.idle.copy_(parts["idle"]["idle"])
        restore_optimizer(optimizer, parts["optimizer"])
        restore_scaler(accelerator, state)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    report = Reporter("autoencoder", step, config.loop.steps, config.loop.batch, accelerator.is_main_process)
    watch = LossWatch(accelerator, config.loop, folder, model)

    def checkpoint() -> None:
        watch.check()
        parts = {"model": model.state_dict(), "optimizer": optimizer_tensors(optimizer)}
        parts["idle"] = {"idle": model.quantizer.idle}
        if accelerator.is_main_process:
            folder.save(step, parts, scaler_state(accelerator))

    loop = config.loop
    with interruptible(accelerator, report, checkpoint):
        while step < loop.steps:
            lr = learning_rate(step, loop, config.optimizer)
            set_learning_rate(optimizer, lr)
            indices = np.sort(share(accelerator, batch_indices(step, loop.batch, len(train.images), loop.seed)))
            seen = train.images[indices]
            if config.crop is not None:
                seen = crops(seen, config.crop * config.model.factor, config.model.factor, loop.seed, step)
            images = to_images(seen, accelerator.device)

            wrapped.train()
            model.encoder.train(not config.decoder_only)  # a frozen encoder keeps its norms' statistics too
            reconstruction, features, quantized = wrapped(images)
            terms = autoencoder_loss(reconstruction.float(), images, quantized, config.loss)
            if perceptual is not None:
                with accelerator.autocast():
                    terms["perceptual"] = perceptual(reconstruction, images, step_generator(loop.seed, step))
                terms["loss"] = terms["loss"] + config.loss.perceptual * terms["perceptual"]
            accelerator.backward(terms["loss"])
            if config.optimizer.clip:
                accelerator.clip_grad_norm_(model.parameters(), config.optimizer.clip)
            optimizer.step()
            optimizer.zero_grad()
            if step < config.reseed_until * loop.steps and not config.decoder_only:
                # Uses the whole batch, so that every process moves the same codes to the same places.
                everyone = accelerator.gather((features.detach(), quantized.ids))
                model.quantizer.reseed_idle(*everyone, config.reseed_patience, step_generator(loop.seed, step))
            step += 1
            watch(step, terms["loss"])

            if step % 10 == 0 or step == loop.steps:
                means = accelerator.reduce({name: value.detach() for name, value in terms.items()}, reduction="mean")
                figures = {name: value.item() for name, value in means.items()}
                accelerator.log({f"train/{name}": value for name, value in figures.items()} | {"lr": lr}, step=step)
                report(
                    step, {name: figures[name] for name in ("loss", "mse", "perceptual", "crowding") if name in figures}
                )
            if accelerator.is_main_process and (step % loop.evaluate_every == 0 or step == loop.steps):
                figures = evaluate(model, validation, accelerator, None if step == loop.steps else 256)
                accelerator.log({f"validation/{name}": value for name, value in figures.items()}, step=step)
                report.say(f"step {step}: " + "  ".join(f"{name} {value:.2f}" for name, value in figures.items()))
            if accelerator.is_main_process and (step % loop.sheet_every == 0 or step == loop.steps):
                folder.save_sheet(step, sheet(model, validation, accelerator))
            if step % loop.checkpoint_every == 0 or step == loop.steps:
                checkpoint()
