"""Building models from their configurations, and loading trained models from their runs' folders."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from safetensors.torch import load_file

from smalti.errors import UsageError
from smalti_train.models.absorbing_transformer import AbsorbingTransformer, AbsorbingTransformerConfig
from smalti_train.models.autoregressive_transformer import (
    AutoregressiveTransformer,
    AutoregressiveTransformerConfig,
    Net2NetTransformer,
    Net2NetTransformerConfig,
)
from smalti_train.models.edge_autoencoder import EdgeAutoencoder, EdgeAutoencoderConfig
from smalti_train.models.hourglass_prior import HourglassPrior, HourglassPriorConfig
from smalti_train.models.meta_init import unfilled
from smalti_train.models.multinomial_unet import MultinomialUNet, MultinomialUNetConfig
from smalti_train.models.pixels import PixelCodes, PixelCodesConfig
from smalti_train.models.preview_decoder import PreviewDecoder
from smalti_train.models.size_heads import SizedAutoencoder
from smalti_train.models.sundae_transformer import SundaeTransformer, SundaeTransformerConfig
from smalti_train.models.vqgan import VQGAN, VQGANConfig
from smalti_train.runs.config import AutoencoderRun, CodecRun, HeadsRun, PixelRun, PreviewRun, PriorConfig, PriorRun
from smalti_train.runs.config_files import read_run
from smalti_train.runs.folder import RunFolder

Autoencoder = EdgeAutoencoder | VQGAN | PixelCodes
"""Autoencoders have ``encode(images) -> ids``, ``decode(ids) -> images`` and ``config`` with
``codes, factor, value_range``."""
AbsorbingPrior = HourglassPrior | AbsorbingTransformer
"""Called with masked tokens, labels and rows; ``config`` has ``codes, grid, classes, mask``."""
AutoregressivePrior = AutoregressiveTransformer | Net2NetTransformer
"""Called with tokens, labels and the past; ``config`` has ``codes, grid, classes, mask``."""
SundaePrior = SundaeTransformer
"""Called with tokens, labels and rows; ``config`` has ``codes, grid, classes, mask``."""
MultinomialPrior = MultinomialUNet
"""Called with tokens, labels, times and rows; ``config`` has ``codes, grid, classes, mask, steps, schedule``."""
Prior = AbsorbingPrior | AutoregressivePrior | SundaePrior | MultinomialPrior


def build_autoencoder(config: EdgeAutoencoderConfig | VQGANConfig | PixelCodesConfig) -> Autoencoder:
    """Build an untrained autoencoder of these sizes."""
    match config:
        case EdgeAutoencoderConfig():
            return EdgeAutoencoder(config)
        case VQGANConfig():
            return VQGAN(config)
        case PixelCodesConfig():
            return PixelCodes(config)


def build_prior(config: PriorConfig) -> Prior:
    """Build an untrained prior of these sizes."""
    match config:
        case HourglassPriorConfig():
            return HourglassPrior(config)
        case AbsorbingTransformerConfig():
            return AbsorbingTransformer(config)
        case AutoregressiveTransformerConfig():
            return AutoregressiveTransformer(config)
        case Net2NetTransformerConfig():
            return Net2NetTransformer(config)
        case SundaeTransformerConfig():
            return SundaeTransformer(config)
        case MultinomialUNetConfig():
            return MultinomialUNet(config)


def load_autoencoder(path: Path) -> tuple[Autoencoder, CodecRun]:
    """Load an autoencoder in eval mode from its run's newest checkpoint, or from a prior's copy of one.

    Where a run averages its weights (a VQGAN's does), the averages are loaded; pixels have no weights. Raises
    UsageError when weights are missing or the run is of another kind.
    """
    config = read_run(path / "config.json")
    if isinstance(config, PriorRun | PreviewRun):
        kind = "prior" if isinstance(config, PriorRun) else "preview decoder"
        raise UsageError(f"{path} is the run of a {kind}; an autoencoder's run is needed here")
    if isinstance(config, HeadsRun):
        model, _ = load_heads(path)
        like = AutoencoderRun(preset=config.preset, model=config.model.autoencoder, data=config.data)
        return model.autoencoder, dataclasses.replace(like, optimizer=config.optimizer, loop=config.loop)
    model = build_autoencoder(config.model)
    copy = path / "model.safetensors"
    if isinstance(config, PixelRun):
        return model.eval(), config
    if copy.exists():
        model.load_state_dict(load_file(copy))
    elif (saved := RunFolder(path).latest()) is not None:
        model.load_state_dict(saved[0].get("ema", saved[0]["model"]))
    else:
        raise UsageError(f"{path} has no checkpoint yet; let 'smalti train autoencoder' write one first")
    return model.eval(), config


def trained_steps(path: Path) -> int | None:
    """Steps of a run's newest checkpoint; None for imported weights and copies, which have no checkpoint."""
    saved = RunFolder(path).checkpoints()
    return int(saved[-1].name.removeprefix("checkpoint-")) if saved else None


def load_prior(path: Path) -> tuple[Prior, PriorRun]:
    """Load a prior in eval mode with the averaged weights of its run's newest checkpoint.

    Raises UsageError when there are none.
    """
    config = read_run(path / "config.json")
    if not isinstance(config, PriorRun):
        kind = "preview decoder" if isinstance(config, PreviewRun) else "autoencoder"
        raise UsageError(f"{path} is the run of {'a' if kind[0] == 'p' else 'an'} {kind}; a prior's run is needed here")
    saved = RunFolder(path).latest()
    if saved is None:
        raise UsageError(f"{path} has no checkpoint yet; let 'smalti train prior' write one first")
    with unfilled():  # published priors are large: skip values that are about to be replaced
        model = build_prior(config.model)
    model.load_state_dict(saved[0]["ema"], assign=True)
    return model.float().eval(), config  # released weights are stored as fp16


def load_preview(path: Path) -> tuple[PreviewDecoder, PreviewRun]:
    """Load a preview decoder in eval mode from its run's newest checkpoint. Raises UsageError when there is none."""
    config = read_run(path / "config.json")
    if not isinstance(config, PreviewRun):
        raise UsageError(f"{path} is not the run of a preview decoder; 'smalti train preview' makes one")
    saved = RunFolder(path).latest()
    if saved is None:
        raise UsageError(f"{path} has no checkpoint yet; let 'smalti train preview' write one first")
    model = PreviewDecoder(config.model)
    model.load_state_dict(saved[0]["model"])
    return model.eval(), config


def load_heads(path: Path) -> tuple[SizedAutoencoder, HeadsRun]:
    """Load an autoencoder with its size heads in eval mode from their run's newest checkpoint.

    Raises UsageError when there is none.
    """
    config = read_run(path / "config.json")
    if not isinstance(config, HeadsRun):
        raise UsageError(f"{path} is not the run of heads; 'smalti train heads' makes one")
    saved = RunFolder(path).latest()
    if saved is None:
        raise UsageError(f"{path} has no checkpoint yet; let 'smalti train heads' write one first")
    model = SizedAutoencoder(config.model)
    model.load_state_dict(saved[0]["model"])
    return model.eval(), config
