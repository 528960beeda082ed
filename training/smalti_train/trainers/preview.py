"""Distillation of preview decoders: small decoders for pictures during sampling, at a tenth of the operations.

A preview learns the pixels that the full decoder makes of the training images' tokens. In half of the grids some tokens
are missing, so that it learns to show unfinished grids.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from smalti.errors import UsageError
from smalti.saving.formats import contact_sheet
from smalti_train.data.pixels import to_pixels
from smalti_train.data.tensors import from_numpy, seed_torch
from smalti_train.evaluation.metrics import psnr
from smalti_train.models.edge_autoencoder import EdgeAutoencoder
from smalti_train.models.pixels import PixelCodes
from smalti_train.models.preview_decoder import PreviewDecoder, PreviewDecoderConfig
from smalti_train.runs.config import CodecRun, LoopConfig, OptimizerConfig, PixelRun, PreviewRun
from smalti_train.runs.config_files import differences
from smalti_train.runs.loading import Autoencoder, load_preview
from smalti_train.runs.processes import share
from smalti_train.runs.token_cache import cached_tokens, encode_images, find_autoencoder
from smalti_train.trainers.loop import batch_indices, channels_last
from smalti_train.trainers.trainer import Trainer, training

PREVIEW_OPTIMIZER = OptimizerConfig(lr=2e-3, warmup=50, final_lr=0.02)
PREVIEW_LOOP = LoopConfig(steps=1500, batch=16)
GREATEST_COST = 0.1
"""Greatest cost of a preview as a share of the decoder's operations."""
WIDTHS = (128, 96, 64, 48, 32, 24, 16, 8)
JUDGED = 64
"""Unseen images measured during training."""


def preview_run(autoencoder: Autoencoder, trained: CodecRun) -> PreviewRun:
    """Configuration of a preview decoder's training: the widest one that costs at most a tenth of the decoder.

    Raises UsageError for pixels, which need no decoder, and for decoders too small for a cheaper preview.
    """
    if isinstance(trained, PixelRun):
        raise UsageError(f"{trained.preset} takes pixels as tokens: there is no decoder, and nothing to preview faster")
    for width in WIDTHS:
        config = PreviewDecoderConfig(
            codes=autoencoder.config.codes, factor=autoencoder.config.factor, width=width, fine=max(2, width // 3)
        )
        if cost(PreviewDecoder(config), autoencoder) <= GREATEST_COST:
            return PreviewRun(
                preset=trained.preset, model=config, data=trained.data, optimizer=PREVIEW_OPTIMIZER, loop=PREVIEW_LOOP
            )
    raise UsageError(f"the decoder of {trained.preset} is so small that no preview costs a tenth of it; use it itself")


@torch.no_grad()
def cost(preview: PreviewDecoder, autoencoder: Autoencoder) -> float:
    """Operations of a preview as a share of the decoder's, for a grid of 8x8 tokens."""
    tokens = torch.zeros(1, 8, 8, dtype=torch.int64)
    counts: list[int] = []
    for decode in (preview, autoencoder.decode):
        with FlopCounterMode(display=False) as counter:
            decode(tokens)
        counts.append(counter.get_total_flops())
    return counts[0] / counts[1]


def train_preview(config: PreviewRun, path: Path, autoencoder: Path | None, init: Path | None = None) -> None:
    """Train a preview of the decoder in the run ``autoencoder`` until ``config.loop.steps``.

    Continues from the newest checkpoint below ``path`` when there is one; ``autoencoder`` may then be None, since the
    run has its own copy. A new run may start from the preview in the run ``init``. Raises UsageError for a
    configuration that does not fit the decoder, the data or the machine; OutputError when a checkpoint cannot be
    written; TrainingError when the loss is no longer a number.
    """
    with training("preview", config, path) as trainer:
        _train(config, trainer, autoencoder, init)


def _train(config: PreviewRun, trainer: Trainer, source: Path | None, init: Path | None) -> None:
    accelerator, loop, path = trainer.accelerator, config.loop, trainer.folder.path
    teacher, teacher_run = find_autoencoder(path, source)
    _check(config, teacher)
    teacher.requires_grad_(False)
    train, validation = trainer.open_images()
    trainer.keep_autoencoder(teacher, teacher_run, source)
    tokens = cached_tokens(path / "tokens.npy", teacher, train, accelerator, False, "tokens")
    some = dataclasses.replace(validation, images=validation.images[:JUDGED], labels=validation.labels[:JUDGED])
    unseen = from_numpy(encode_images(teacher, some, accelerator, False, "validation tokens").astype(np.int64))
    unseen = unseen.to(accelerator.device)

    seed_torch(loop.seed)
    model = channels_last(PreviewDecoder(config.model))
    start_from_codes(model, teacher)
    trainer.register("model", model, _initial(init, config) if init and trainer.new else None)
    wrapped, optimizer = accelerator.prepare(model, trainer.adam(model))

    def step(number: int, noise: torch.Generator) -> dict[str, Tensor]:
        chosen = batch_indices(number, loop.batch, len(tokens), loop.seed)
        whole = from_numpy(tokens[chosen].astype(np.int64))
        shown = unfinished(whole, config.model.codes, noise)
        whole, shown = (share(accelerator, part).to(accelerator.device) for part in (whole, shown))
        with accelerator.autocast(), torch.no_grad():
            target = teacher_pixels(teacher, whole)
        with accelerator.autocast():
            loss = (wrapped(shown).float() - target).abs().mean()
        accelerator.backward(loss)
        trainer.update(model, optimizer)
        return {"l1": loss}

    trainer.run(
        step,
        evaluate=lambda _: {"psnr": _judged(model, teacher, unseen)},
        sheet=lambda: contact_sheet(_sheet(model, teacher, unseen[:8]), min(8, len(unseen))),
        shown=("l1",),
    )


def _check(config: PreviewRun, teacher: Autoencoder) -> None:
    """Raise UsageError unless preview and decoder read the same tokens."""
    ours, theirs = config.model, teacher.config
    if (ours.codes, ours.factor) != (theirs.codes, theirs.factor):
        raise UsageError(
            f"this preview is for {ours.codes} codes of {ours.factor} pixels, and the autoencoder has {theirs.codes} "
            f"of {theirs.factor}: name the autoencoder that it was configured for"
        )


def _initial(source: Path, config: PreviewRun) -> dict[str, Tensor]:
    model, other = load_preview(source)
    if changed := differences(other.model, config.model, "model."):
        raise UsageError(f"the weights of {source} do not fit this preview ({'; '.join(changed)})")
    return model.state_dict()


@torch.no_grad()
def start_from_codes(model: PreviewDecoder, teacher: Autoencoder) -> None:
    """Initialise the embedding with a random projection of the teacher's codes, so that similar codes start similar.

    A missing token starts as their mean.
    """
    assert not isinstance(teacher, PixelCodes)
    quantizer = teacher.quantizer if isinstance(teacher, EdgeAutoencoder) else teacher.quantize
    codes = quantizer.lookup(torch.arange(teacher.config.codes).reshape(1, 1, -1))[0, :, 0].T
    projected = (codes - codes.mean(0)) @ torch.randn(codes.shape[1], model.config.width)
    model.embedding.weight[:-1] = projected / projected.std()
    model.embedding.weight[-1] = 0


def unfinished(tokens: Tensor, codes: int, generator: torch.Generator) -> Tensor:
    """The grids (int64 [B, h, w]); in every second one a random share of the tokens is missing (set to ``codes``)."""
    share_lost = torch.rand(len(tokens), 1, 1, generator=generator)
    share_lost[::2] = 0
    lost = torch.rand(tokens.shape, generator=generator) < share_lost
    return torch.where(lost, codes, tokens)


def teacher_pixels(teacher: Autoencoder, tokens: Tensor) -> Tensor:
    """The decoder's pictures of tokens, float [B, 3, H, W] in -1 .. 1 whatever its own range."""
    black, white = teacher.config.value_range
    pixels = teacher.decode(tokens).float().clamp(black, white)
    return (pixels - black) * (2 / (white - black)) - 1


@torch.no_grad()
def _judged(model: PreviewDecoder, teacher: Autoencoder, tokens: Tensor) -> float:
    pairs = [psnr(to_pixels(model(part)), to_pixels(teacher_pixels(teacher, part))) for part in torch.split(tokens, 16)]
    return float(np.concatenate(pairs).mean())


@torch.no_grad()
def _sheet(model: PreviewDecoder, teacher: Autoencoder, tokens: Tensor) -> NDArray[np.uint8]:
    """Three rows: the decoder's pictures, the preview's, and the preview's with half of the tokens missing."""
    lost = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(0)).to(tokens.device) < 0.5
    half = torch.where(lost, model.config.codes, tokens)
    return np.concatenate([to_pixels(part) for part in (teacher_pixels(teacher, tokens), model(tokens), model(half))])
