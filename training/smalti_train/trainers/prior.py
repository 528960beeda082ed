"""Training of priors over an autoencoder's tokens.

Kinds: absorbing diffusion and its autoregressive twin (Bond-Taylor et al. 2021), taming's transformer (Esser et al.
2021), SUNDAE (McKinney and Willcocks 2022) and multinomial diffusion (VQ-DDM, Hu et al. 2022).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from smalti.images import contact_sheet
from smalti_train.data.config import open_split
from smalti_train.data.pixels import to_pixels
from smalti_train.objectives.prior_batches import (
    check_fit,
    check_labels,
    evaluate,
    figure,
    lesson,
    loss_parts,
    times_of,
)
from smalti_train.objectives.time_sampling import ImportanceTimes
from smalti_train.runs.config import PriorRun
from smalti_train.runs.folder import RunFolder, optimizer_tensors, restore_optimizer
from smalti_train.runs.loading import (
    Autoencoder,
    Prior,
    build_prior,
    trained_steps,
)
from smalti_train.runs.token_cache import cached_tokens, find_autoencoder, keep_autoencoder
from smalti_train.runs.torch_sampling import TorchPrior, described, draw_tokens
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

SHEET_ROWS = 4
UNITS = {"bits_per_dim": "bits/dim", "unrolled_bits_per_token": "bits/token, unrolled"}


def train_prior(
    config: PriorRun, path: Path, autoencoder: Path | None = None, init: dict[str, Tensor] | None = None
) -> None:
    """Train until ``config.loop.steps``, continuing from the newest checkpoint below ``path`` when there is one.

    ``autoencoder`` is the run whose tokens are learnt; a run that continues has its own copy. ``init`` holds weights to
    start a new run from. Raises UsageError for parts that do not fit each other, the data or the machine; OutputError
    when a checkpoint cannot be written; TrainingError when the loss is no longer a number.
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
        check_fit(config.model, codec_config.model.codes, side)
        train, validation = open_split(config.data, "train"), open_split(config.data, "validation")
        check_labels(config.model, len(train.label_names))
        if accelerator.is_main_process:
            keep_autoencoder(path, codec, codec_config, trained_steps(autoencoder) if autoencoder else None)
            folder.keep_config(config)
        tokens = cached_tokens(path / "tokens/train.npy", codec, train, accelerator, config.flip, "train tokens")
        unseen = cached_tokens(
            path / "tokens/validation.npy", codec, validation, accelerator, False, "validation tokens"
        )
    codec.to(accelerator.device)  # a continued run has read its tokens from disk, not encoded on the device
    grids = tokens.reshape(len(tokens), -1).astype(np.int64)
    labels = np.tile(train.labels, 2 if config.flip else 1).astype(np.int64)

    accelerator.init_trackers("tensorboard")

    torch.manual_seed(config.loop.seed)
    model = build_prior(config.model)
    if init is not None:
        model.load_state_dict(init)
    ema = AveragedModel(model, multi_avg_fn=moving_average(config.ema))
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=config.optimizer.betas, weight_decay=config.optimizer.weight_decay, fused=True
    )
    history = ImportanceTimes(times_of(config.model, grids.shape[1])) if config.times == "importance" else None
    step = 0
    if (saved := folder.latest()) is not None:
        parts, state = saved
        step = state["step"]
        model.load_state_dict(parts["model"])
        ema.module.load_state_dict(parts["ema"])
        ema.n_averaged.fill_(step)
        restore_optimizer(optimizer, parts["optimizer"])
        restore_scaler(accelerator, state)
        if history is not None:
            history.load_state_dict(parts["times"])
    ema.to(accelerator.device)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    report = Reporter("prior", step, config.loop.steps, config.loop.batch, accelerator.is_main_process)

    watch = LossWatch(accelerator, config.loop, folder, model)

    def checkpoint() -> None:
        watch.check()
        parts = {"model": model.state_dict(), "ema": ema.module.state_dict(), "optimizer": optimizer_tensors(optimizer)}
        if history is not None:
            parts["times"] = history.state_dict()
        if accelerator.is_main_process:
            folder.save(step, parts, scaler_state(accelerator))

    loop = config.loop
    with interruptible(accelerator, report, checkpoint):
        while step < loop.steps:
            lr = learning_rate(step, loop, config.optimizer)
            set_learning_rate(optimizer, lr)
            # Noise is drawn for the whole batch, so that the number of processes does not change it.
            noise = step_generator(loop.seed, step)
            indices = batch_indices(step, loop.batch, len(grids), loop.seed)
            clean, label = torch.from_numpy(grids[indices]), torch.from_numpy(labels[indices])
            whole = lesson(config, clean, label, noise, history)
            own = whole.share(accelerator)

            wrapped.train()
            each = torch.zeros(len(own.tokens), device=accelerator.device)
            for part in loss_parts(config, wrapped, own):
                accelerator.backward((own.weights * part).mean())
                each += part.detach()
            loss = (own.weights * each).mean()
            if config.optimizer.clip:
                accelerator.clip_grad_norm_(model.parameters(), config.optimizer.clip)
            optimizer.step()
            optimizer.zero_grad()
            ema.update_parameters(model)
            if history is not None:
                history.update(whole.times, torch.as_tensor(accelerator.gather(each)))
            step += 1
            watch(step, loss)

            if step % 10 == 0 or step == loop.steps:
                mean = float(accelerator.reduce(loss, reduction="mean"))  # pyright: ignore[reportArgumentType]
                accelerator.log({"train/loss": mean, "lr": lr}, step=step)
                report(step, {"loss": mean})
            if accelerator.is_main_process and (step % loop.evaluate_every == 0 or step == loop.steps):
                bits = evaluate(averaged(ema), unseen, validation.labels, accelerator)
                accelerator.log({f"validation/{figure(config.model)}": bits}, step=step)
                report.say(f"step {step}: validation {bits:.3f} {UNITS[figure(config.model)]}")
            if accelerator.is_main_process and (step % loop.sheet_every == 0 or step == loop.steps):
                folder.save_sheet(step, sheet(averaged(ema), codec, accelerator))
            if step % loop.checkpoint_every == 0 or step == loop.steps:
                checkpoint()


def averaged(ema: AveragedModel) -> Prior:
    """The model with the averaged weights."""
    module = ema.module
    assert isinstance(module, Prior)
    return module


@torch.no_grad()
def sheet(model: Prior, codec: Autoencoder, accelerator: Accelerator) -> Image.Image:
    """Samples drawn by the runtime's samplers, one column per label, the same seeds at every call."""
    columns = min(8, model.config.classes or 8)
    count = columns * SHEET_ROWS
    names = [str(index) for index in range(model.config.classes)]
    manifest = described("sheet", model.config, codec.config.factor, names)
    labels = [names[i % columns] if names else None for i in range(count)]
    tokens = draw_tokens(TorchPrior(model, accelerator), manifest, range(count), labels)
    images = codec.decode(torch.from_numpy(tokens.astype(np.int64)).to(accelerator.device))
    return contact_sheet(to_pixels(images, codec.config.value_range), columns)
