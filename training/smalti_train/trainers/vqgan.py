"""Training of the published VQGANs: an autoencoder against a discriminator.

See Esser et al. 2021, and Bond-Taylor et al. 2021, section 3.4.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from smalti.errors import UsageError
from smalti_train.data.config import open_split
from smalti_train.data.pixels import to_images
from smalti_train.models.discriminator import Discriminator
from smalti_train.models.quantizer_gumbel import gumbel_temperature
from smalti_train.models.vqgan import VQGAN
from smalti_train.objectives.adversarial import discriminator_loss, vqgan_loss
from smalti_train.objectives.diff_augment import diff_augment
from smalti_train.objectives.losses import PerceptualLoss
from smalti_train.runs.config import EFFNET_LITE0, OptimizerConfig, VQGANRun
from smalti_train.runs.folder import RunFolder, optimizer_tensors, restore_optimizer
from smalti_train.runs.processes import share, whole_batch
from smalti_train.trainers.loop import (
    Reporter,
    batch_indices,
    interruptible,
    learning_rate,
    moving_average,
    restore_scaler,
    scaler_state,
    set_learning_rate,
    start,
    step_generator,
)
from smalti_train.trainers.loss_guard import LossWatch
from smalti_train.trainers.perceptual import LPIPS, open_lpips
from smalti_train.trainers.reconstruction import evaluate, sheet


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
    folder = RunFolder(path)
    try:
        _train(config, folder, init)
    finally:
        folder.close()


def _train(config: VQGANRun, folder: RunFolder, init: dict[str, Tensor] | None) -> None:
    accelerator = start(config.loop, folder)
    folder.open(config, lock=accelerator.is_main_process)
    perceptual = _perceptual(config)
    with accelerator.main_process_first():
        train, validation = open_split(config.data, "train"), open_split(config.data, "validation")
    if accelerator.is_main_process:
        folder.keep_config(config)

    accelerator.init_trackers("tensorboard")

    torch.manual_seed(config.loop.seed)
    model, discriminator = VQGAN(config.model), Discriminator(config.discriminator)
    model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - missing from torch's stubs
    if init is not None:
        model.load_state_dict(init)
    if model.decoder.logsigma is not None:
        model.decoder.logsigma.requires_grad_(False)  # it learns from a finished autoencoder's outputs alone
    if config.decoder_only:
        for frozen in (model.encoder, model.quant_conv, model.quantize):
            if frozen is not None:
                frozen.requires_grad_(False)
    ema = AveragedModel(model, multi_avg_fn=moving_average(config.ema))
    optimizer, judging = _adam(model, config.optimizer), _adam(discriminator, config.optimizer)
    step = 0
    if (saved := folder.latest()) is not None:
        parts, state = saved
        step = state["step"]
        model.load_state_dict(parts["model"])
        ema.module.load_state_dict(parts["ema"])
        ema.n_averaged.fill_(step // config.ema_every)
        discriminator.load_state_dict(parts["discriminator"])
        restore_optimizer(optimizer, parts["optimizer"])
        restore_optimizer(judging, parts["discriminator_optimizer"])
        restore_scaler(accelerator, state)
    for besides in (ema, discriminator, perceptual):
        if besides is not None:
            besides.to(accelerator.device)
    wrapped, optimizer, judging = accelerator.prepare(model, optimizer, judging)
    report = Reporter("vqgan", step, config.loop.steps, config.loop.batch, accelerator.is_main_process)
    watch = LossWatch(accelerator, config.loop, folder, model, discriminator)

    def checkpoint() -> None:
        watch.check()
        parts = {"model": model.state_dict(), "ema": ema.module.state_dict(), "optimizer": optimizer_tensors(optimizer)}
        parts["discriminator"] = discriminator.state_dict()
        parts["discriminator_optimizer"] = optimizer_tensors(judging)
        if accelerator.is_main_process:
            folder.save(step, parts, scaler_state(accelerator))

    loop, value_range = config.loop, config.model.value_range
    part = accelerator.process_index, accelerator.num_processes
    with interruptible(accelerator, report, checkpoint):
        while step < loop.steps:
            lr = learning_rate(step, loop, config.optimizer)
            set_learning_rate(optimizer, lr)
            set_learning_rate(judging, lr)
            temperature = gumbel_temperature(step, config.gumbel_steps)
            # Noise is drawn for the whole batch, so that the number of processes does not change it.
            noise = step_generator(loop.seed, step)
            indices = np.sort(batch_indices(step, loop.batch, len(train.images), loop.seed))
            mirrored = torch.rand(loop.batch, generator=noise) < 0.5 * config.flip
            images = to_images(train.images[share(accelerator, indices)], accelerator.device, value_range)
            mirrored = share(accelerator, mirrored)[:, None, None, None].to(accelerator.device)
            images = torch.where(mirrored, images.flip(3), images)

            # The autoencoder, with the discriminator's loss once that has begun.
            wrapped.train()
            reconstruction, _, quantized = wrapped(images, temperature, False, noise, part)
            reconstruction, distance, fake = reconstruction.float(), None, None
            judged = config.loss.judged(step)
            if perceptual is not None:
                distance = _distance(perceptual, reconstruction, images, value_range, noise, accelerator)
            if judged:
                discriminator.requires_grad_(False)
                fake = _verdict(discriminator, whole_batch(accelerator, reconstruction), config, noise, accelerator)
            terms = vqgan_loss(
                reconstruction,
                images,
                quantized,
                config.loss,
                distance,
                fake,
                model.last_layer,
                lambda gradient: accelerator.reduce(gradient, reduction="mean"),  # pyright: ignore[reportArgumentType]
            )
            accelerator.backward(terms["loss"])
            _step(optimizer, model, config, accelerator)

            # The discriminator, on every process for the whole batch: its norms need all images together.
            if judged:
                discriminator.requires_grad_(True)
                real, made = accelerator.gather((images.contiguous(), reconstruction.detach().contiguous()))
                verdicts = [_verdict(discriminator, seen, config, noise, accelerator) for seen in (real, made)]
                terms["discriminator"] = discriminator_loss(*verdicts)
                accelerator.backward(terms["discriminator"])
                for parameter in discriminator.parameters() if accelerator.num_processes > 1 else ():
                    # Equal up to rounding; the mean keeps the processes equal.
                    parameter.grad = accelerator.reduce(parameter.grad, reduction="mean")  # pyright: ignore
                _step(judging, discriminator, config, accelerator)
            step += 1
            if step % config.ema_every == 0:
                ema.update_parameters(model)
            watch(step, *(terms[name] for name in ("loss", "discriminator") if name in terms))

            if step % 10 == 0 or step == loop.steps:
                means = accelerator.reduce({name: value.detach() for name, value in terms.items()}, reduction="mean")
                figures = {name: value.item() for name, value in means.items()}
                used = torch.as_tensor(accelerator.gather(quantized.ids)).unique().numel()
                accelerator.log({f"train/{name}": value for name, value in figures.items()}, step=step)
                accelerator.log({"lr": lr, "gumbel_temperature": temperature, "train/codes_in_batch": used}, step=step)
                shown = ("loss", "l1", "perceptual", "lambda", "discriminator")
                report(step, {name: figures[name] for name in shown if name in figures})
            if accelerator.is_main_process and (step % loop.evaluate_every == 0 or step == loop.steps):
                figures = evaluate(_averaged(ema), validation, accelerator, None if step == loop.steps else 256, 8)
                accelerator.log({f"validation/{name}": value for name, value in figures.items()}, step=step)
                report.say(f"step {step}: " + "  ".join(f"{name} {value:.2f}" for name, value in figures.items()))
            if accelerator.is_main_process and (step % loop.sheet_every == 0 or step == loop.steps):
                folder.save_sheet(step, sheet(_averaged(ema), validation, accelerator))
            if step % loop.checkpoint_every == 0 or step == loop.steps:
                checkpoint()


def _adam(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(parameters, betas=config.betas, weight_decay=config.weight_decay, fused=True)


def _step(optimizer: torch.optim.Optimizer, model: nn.Module, config: VQGANRun, accelerator: Accelerator) -> None:
    if config.optimizer.clip:
        accelerator.clip_grad_norm_(model.parameters(), config.optimizer.clip)
    optimizer.step()
    optimizer.zero_grad()


def _averaged(ema: AveragedModel) -> VQGAN:
    module = ema.module
    assert isinstance(module, VQGAN)
    return module


def _perceptual(config: VQGANRun) -> PerceptualLoss | LPIPS | None:
    """The network of the perceptual term, or None where its weight is 0.

    Raises UsageError, naming the file, for other contents.
    """
    if not config.loss.perceptual:
        return None
    if config.perceptual == EFFNET_LITE0:
        return PerceptualLoss(crop=config.data.size)
    heads = None if config.perceptual_heads is None else Path(config.perceptual_heads)
    return open_lpips(Path(config.perceptual), heads)


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
