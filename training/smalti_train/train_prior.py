"""Train an absorbing prior (paper 000): predict the masked tokens of encoded images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from smalti.absorbing import Denoiser, run
from smalti.errors import UsageError
from smalti.images import contact_sheet
from smalti.schedule import Counts, Order, make_schedule
from smalti_train.config import PriorRun, read_run
from smalti_train.loop import (
    Reporter,
    batch_indices,
    learning_rate,
    open_split,
    set_learning_rate,
    share,
    start,
    step_generator,
    to_pixels,
)
from smalti_train.models.edge_autoencoder import EdgeAutoencoder
from smalti_train.models.hourglass_prior import HourglassPrior, HourglassPriorConfig
from smalti_train.objectives import absorb, absorbing_loss, bits_per_dim, stratified_times
from smalti_train.run import RunFolder, optimizer_tensors, restore_optimizer
from smalti_train.tokens import cached_tokens, find_autoencoder, keep_autoencoder

SHEET_STEPS = 16
SHEET_ROWS = 4


def train_prior(
    config: PriorRun, path: Path, autoencoder: Path | None = None, init: dict[str, Tensor] | None = None
) -> None:
    """Train until ``config.loop.steps``, continuing from the newest checkpoint below ``path`` when there is one.

    ``autoencoder`` is the run whose tokens are learnt; a run that continues has its own copy. ``init`` holds released
    weights to start a new run from. Raises UsageError for parts that do not fit each other, the data or the machine;
    OutputError when a checkpoint cannot be written.
    """
    folder = RunFolder(path)
    try:
        _train(config, folder, autoencoder, init)
    finally:
        folder.close()


def _train(config: PriorRun, folder: RunFolder, autoencoder: Path | None, init: dict[str, Tensor] | None) -> None:
    path = folder.path
    accelerator = start(config.loop, folder)
    folder.open(config, lock=accelerator.is_main_process)
    with accelerator.main_process_first():
        codec, codec_config = find_autoencoder(path, autoencoder)
        side = config.data.size // codec_config.model.factor
        if codec_config.model.codes != config.model.codes or config.model.grid != (side, side):
            raise UsageError(
                f"the prior predicts {config.model.codes} codes on {'x'.join(map(str, config.model.grid))} tokens, "
                f"and the autoencoder makes {codec_config.model.codes} codes on {side}x{side}: "
                "they come from different presets"
            )
        train, validation = open_split(config.data, "train"), open_split(config.data, "validation")
        if config.model.classes not in (0, len(train.label_names)):
            raise UsageError(f"the prior has {config.model.classes} classes and the data {len(train.label_names)}")
        if accelerator.is_main_process:
            keep_autoencoder(path, codec, codec_config)
            folder.keep_config(config)
        tokens = cached_tokens(path / "tokens/train.npy", codec, train, accelerator, config.flip, "train tokens")
        unseen = cached_tokens(
            path / "tokens/validation.npy", codec, validation, accelerator, False, "validation tokens"
        )
    grids = tokens.reshape(len(tokens), -1).astype(np.int64)
    labels = np.tile(train.labels, 2 if config.flip else 1).astype(np.int64)

    accelerator.init_trackers("tensorboard")

    torch.manual_seed(config.loop.seed)
    model = HourglassPrior(config.model)
    if init is not None:
        model.load_state_dict(init)
    ema = AveragedModel(model, multi_avg_fn=moving_average(config.ema))
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=config.optimizer.betas, weight_decay=config.optimizer.weight_decay, fused=True
    )
    step = 0
    if (saved := folder.latest()) is not None:
        parts, state = saved
        step = state["step"]
        model.load_state_dict(parts["model"])
        ema.module.load_state_dict(parts["ema"])
        ema.n_averaged.fill_(step)
        restore_optimizer(optimizer, parts["optimizer"])
    ema.to(accelerator.device)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    report = Reporter("prior", step, config.loop.steps, config.loop.batch, accelerator.is_main_process)

    def checkpoint() -> None:
        parts = {"model": model.state_dict(), "ema": ema.module.state_dict(), "optimizer": optimizer_tensors(optimizer)}
        if accelerator.is_main_process:
            folder.save(step, parts, {})

    loop, length, mask = config.loop, grids.shape[1], config.model.mask
    try:
        while step < loop.steps:
            lr = learning_rate(step, loop.steps, config.optimizer)
            set_learning_rate(optimizer, lr)
            # Noise is drawn for the whole batch, so that the number of processes does not change it.
            noise = step_generator(loop.seed, step)
            indices = batch_indices(step, loop.batch, len(grids), loop.seed)
            clean, label = torch.from_numpy(grids[indices]), torch.from_numpy(labels[indices])
            times = stratified_times(loop.batch, length, noise)
            noisy = absorb(clean, times, length, mask, noise)
            if config.model.classes:
                unlabelled = torch.rand(loop.batch, generator=noise) < config.label_dropout
                label = label.masked_fill(unlabelled, config.model.classes)
            else:
                label = torch.zeros_like(label)
            clean, noisy, label, times = (
                share(accelerator, part).to(accelerator.device) for part in (clean, noisy, label, times)
            )

            wrapped.train()
            logits = wrapped(noisy, label)
            loss = absorbing_loss(logits, clean, noisy == mask, times, length, config.objective).mean()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), config.optimizer.clip)
            optimizer.step()
            optimizer.zero_grad()
            ema.update_parameters(model)
            step += 1

            if step % 10 == 0 or step == loop.steps:
                mean = float(accelerator.reduce(loss.detach(), reduction="mean"))  # pyright: ignore[reportArgumentType]
                accelerator.log({"train/loss": mean, "lr": lr}, step=step)
                report(step, {"loss": mean})
            if accelerator.is_main_process and (step % loop.evaluate_every == 0 or step == loop.steps):
                bits = evaluate(averaged(ema), config, unseen, validation.labels, accelerator)
                accelerator.log({"validation/bits_per_dim": bits}, step=step)
                report.say(f"step {step}: validation {bits:.3f} bits/dim")
            if accelerator.is_main_process and (step % loop.sheet_every == 0 or step == loop.steps):
                folder.save_sheet(step, sheet(averaged(ema), codec, config, accelerator))
            if step % loop.checkpoint_every == 0 or step == loop.steps:
                checkpoint()
    except KeyboardInterrupt:
        checkpoint()
        raise
    finally:
        report.close()
        accelerator.end_training()


def moving_average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Give an update of averaged weights that forgets the first ones: decay is min(``decay``, (1 + n) / (10 + n)).

    With a constant decay of 0.999 a sixth of the random start would still be there after 1800 steps.
    """

    @torch.no_grad()
    def update(averages: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        number = int(count)
        keep = min(decay, (1 + number) / (10 + number))
        for average, value in zip(averages, current):
            average.lerp_(value, 1 - keep)

    return update


def averaged(ema: AveragedModel) -> HourglassPrior:
    """Return the model that holds the averaged weights."""
    module = ema.module
    assert isinstance(module, HourglassPrior)
    return module


@torch.no_grad()
def evaluate(
    model: HourglassPrior,
    config: PriorRun,
    tokens: NDArray[np.int16],
    labels: NDArray[np.int32],
    accelerator: Accelerator,
    batch: int = 64,
) -> float:
    """Bound on the negative log-likelihood of unseen tokens (int16 [N, h, w]) given labels, in bits per dimension.

    Times are stratified over each batch and masks are the same at every call, so that two figures differ by the
    weights alone.
    """
    model.eval()
    generator = torch.Generator().manual_seed(0)
    losses: list[Tensor] = []
    length = tokens.shape[1] * tokens.shape[2]
    for first in range(0, len(tokens), batch):
        clean = torch.from_numpy(tokens[first : first + batch].reshape(-1, length).astype(np.int64))
        label = torch.from_numpy(labels[first : first + batch].astype(np.int64)) * (config.model.classes > 0)
        times = stratified_times(len(clean), length, generator)
        # Samples without a mask count, as nothing: forcing one on them would raise the bound.
        noisy = absorb(clean, times, length, config.model.mask, generator, at_least=0)
        clean, noisy, label = (part.to(accelerator.device) for part in (clean, noisy, label))
        with accelerator.autocast():
            logits = model(noisy, label)
        losses.append(absorbing_loss(logits, clean, noisy == config.model.mask, times, length, "elbo").cpu())
    return bits_per_dim(torch.cat(losses))


def torch_denoiser(model: HourglassPrior, accelerator: Accelerator | None = None) -> Denoiser:
    """Let the runtime's sampler ask a torch model, in eval mode, in the accelerator's precision or else in fp32."""
    model.eval()
    device = next(model.parameters()).device

    @torch.no_grad()
    def denoiser(tokens: NDArray[np.int32], labels: NDArray[np.int32], rows: NDArray[np.int32]) -> NDArray[np.float32]:
        inputs = (torch.from_numpy(part.astype(np.int64)).to(device) for part in (tokens, labels, rows))
        with accelerator.autocast() if accelerator else nullcontext():
            return model(*inputs).float().cpu().numpy()

    return denoiser


def draw(
    denoiser: Denoiser,
    config: HourglassPriorConfig,
    seeds: Sequence[int],
    labels: Sequence[int],
    *,
    steps: int = SHEET_STEPS,
    temperature: float = 1.0,
    guidance: float = 1.0,
    schedule: Counts = "exact",
    order: Order = "random",
) -> NDArray[np.int32]:
    """Draw tokens (int32 [N, h, w]) with the runtime's own sampler; ``labels`` are indices, ``classes`` for none."""
    height, width = config.grid
    *_, tokens = run(
        denoiser,
        np.full((len(seeds), height * width), config.mask, np.int32),
        make_schedule(seeds, config.grid, steps, schedule, order),
        seeds=seeds,
        labels=np.asarray(labels, np.int32),
        width=width,
        temperature=temperature,
        guidance=guidance,
        no_label=config.classes,
    )
    return tokens.reshape(-1, height, width)


@torch.no_grad()
def sheet(model: HourglassPrior, codec: EdgeAutoencoder, config: PriorRun, accelerator: Accelerator) -> Image.Image:
    """Samples of the runtime's own sampler, one column per label, the same seeds at every call."""
    columns = min(8, config.model.classes or 8)
    count = columns * SHEET_ROWS
    labels = [i % columns for i in range(count)] if config.model.classes else [0] * count
    tokens = draw(torch_denoiser(model, accelerator), config.model, range(count), labels)
    return contact_sheet(
        to_pixels(codec.decode(torch.from_numpy(tokens.astype(np.int64)).to(accelerator.device))), columns
    )


def load_prior(path: Path) -> tuple[HourglassPrior, PriorRun]:
    """Load the averaged weights of a run's newest checkpoint, in eval mode; UsageError when there are none."""
    config = read_run(path / "config.json")
    if not isinstance(config, PriorRun):
        raise UsageError(f"{path} is the run of an autoencoder; a prior's run is needed here")
    saved = RunFolder(path).latest()
    if saved is None:
        raise UsageError(f"{path} has no checkpoint yet; let 'smalti train prior' write one first")
    model = HourglassPrior(config.model)
    model.load_state_dict(saved[0]["ema"])
    return model.eval(), config
