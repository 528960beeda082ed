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

from smalti.saving.formats import contact_sheet
from smalti_train.data.pixels import to_pixels
from smalti_train.data.tensors import from_numpy, seed_torch
from smalti_train.objectives.prior_batches import (
    check_fit,
    check_labels,
    evaluate,
    figure,
    loss_parts,
    prior_batch,
    times_of,
)
from smalti_train.objectives.time_sampling import ImportanceTimes
from smalti_train.runs.config import PriorRun
from smalti_train.runs.loading import Autoencoder, Prior, build_prior
from smalti_train.runs.token_cache import cached_tokens, find_autoencoder
from smalti_train.runs.torch_sampling import TorchPrior, described, draw_tokens
from smalti_train.trainers.loop import batch_indices
from smalti_train.trainers.trainer import Trainer, training

SHEET_ROWS = 4


def train_prior(
    config: PriorRun, path: Path, autoencoder: Path | None = None, init: dict[str, Tensor] | None = None
) -> None:
    """Train until ``config.loop.steps``, continuing from the newest checkpoint below ``path`` when there is one.

    ``autoencoder`` is the run whose tokens are learnt; a run that continues has its own copy. ``init`` holds weights to
    start a new run from. Raises UsageError for parts that do not fit each other, the data or the machine; OutputError
    when a checkpoint cannot be written; TrainingError when the loss is no longer a number.
    """
    with training("prior", config, path) as trainer:
        _train(config, trainer, autoencoder, init)


def _train(config: PriorRun, trainer: Trainer, source: Path | None, init: dict[str, Tensor] | None) -> None:
    accelerator, loop, path = trainer.accelerator, config.loop, trainer.folder.path
    codec, codec_config = find_autoencoder(path, source)
    check_fit(config.model, codec_config.model.codes, config.data.size // codec_config.model.factor)
    train, validation = trainer.open_images()
    check_labels(config.model, len(train.label_names))
    trainer.keep_autoencoder(codec, codec_config, source)
    tokens = cached_tokens(path / "tokens/train.npy", codec, train, accelerator, config.flip, "train tokens")
    unseen = cached_tokens(path / "tokens/validation.npy", codec, validation, accelerator, False, "validation tokens")
    codec.to(accelerator.device)  # a continued run has read its tokens from disk, not encoded on the device
    grids = tokens.reshape(len(tokens), -1).astype(np.int64)
    labels = np.tile(train.labels, 2 if config.flip else 1).astype(np.int64)

    seed_torch(loop.seed)
    model = build_prior(config.model)
    history = ImportanceTimes(times_of(config.model, grids.shape[1])) if config.times == "importance" else None
    trainer.register("model", model, init)
    if history is not None:
        trainer.register("times", history)
    average = trainer.average(model, config.ema)
    wrapped, optimizer = accelerator.prepare(model, trainer.adam(model))

    def step(number: int, noise: torch.Generator) -> dict[str, Tensor]:
        # Noise is drawn for the whole batch, so that the number of processes does not change it.
        indices = batch_indices(number, loop.batch, len(grids), loop.seed)
        clean, label = from_numpy(grids[indices]), from_numpy(labels[indices])
        whole = prior_batch(config, clean, label, noise, history)
        own = whole.share(accelerator)

        wrapped.train()
        each = torch.zeros(len(own.tokens), device=accelerator.device)
        for part in loss_parts(config, wrapped, own):
            accelerator.backward((own.weights * part).mean())
            each += part.detach()
        trainer.update(model, optimizer)
        if history is not None:
            history.update(whole.times, accelerator.gather(each))
        return {"loss": (own.weights * each).mean()}

    trainer.run(
        step,
        evaluate=lambda _: {figure(config.model): evaluate(average.model, unseen, validation.labels, accelerator)},
        sheet=lambda: sheet(average.model, codec, accelerator),
    )


@torch.no_grad()
def sheet(model: Prior, codec: Autoencoder, accelerator: Accelerator) -> Image.Image:
    """Samples drawn by the runtime's samplers, one column per label, the same seeds at every call."""
    columns = min(8, model.config.classes or 8)
    count = columns * SHEET_ROWS
    names = [str(index) for index in range(model.config.classes)]
    manifest = described("sheet", model.config, codec.config.factor, names)
    labels = [names[i % columns] if names else None for i in range(count)]
    tokens = draw_tokens(TorchPrior(model, accelerator), manifest, range(count), labels)
    images = codec.decode(from_numpy(tokens.astype(np.int64)).to(accelerator.device))
    return contact_sheet(to_pixels(images, codec.config.value_range), columns)
