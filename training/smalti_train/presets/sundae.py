"""The models of McKinney and Willcocks 2022 at their published sizes, to train on a folder of images (``--root``).

Numbers are those of the paper's released configurations: Adam at a constant rate, no averaging of weights, and a prior
of one hourglass that shortens 2x2. Comments below say where nothing was released. The quirks of published weights
(``published``) are left out: patches, positions and heads are as the paper describes them.
"""

from __future__ import annotations

import dataclasses

from smalti_train.data.config import DataConfig
from smalti_train.models.sundae_transformer import SundaeTransformerConfig
from smalti_train.models.vqgan import TAMING_F16
from smalti_train.presets.unleashing import FOLDER_256, RECIPE_AUTOENCODERS
from smalti_train.runs.config import (
    CodecRun,
    LoopConfig,
    OptimizerConfig,
    PixelRun,
    PriorRun,
    VQGANLossConfig,
    VQGANRun,
)

FOLDER_1024 = DataConfig(name="folder", size=1024)
FOLDER_28 = DataConfig(name="folder", size=28)
FASHION_MNIST = DataConfig(name="fashion-mnist", size=28)

TAMING_F32 = dataclasses.replace(
    TAMING_F16,
    codes=8192,
    multipliers=(1, 1, 2, 2, 4, 4),
    encoder_blocks=1,
    decoder_blocks=2,
    size=(1024, 1024),
)
"""Taming's VQGAN for 1024 x 1024 pixels on 32 x 32 tokens (section 3.3); attention at 64 x 64 and no other."""

STEPS = 500_000
"""The paper counts days, of one V100: 4 for faces of 1024 pixels. Stop when the samples no longer improve."""


def _loop(batch: int) -> LoopConfig:
    """Steps, batch and intervals of trainings that take days."""
    return LoopConfig(steps=STEPS, batch=batch, checkpoint_every=5000, evaluate_every=10_000, sheet_every=10_000)


def _prior(
    preset: str,
    data: DataConfig,
    model: SundaeTransformerConfig,
    *,
    batch: int,
    unrolls: int,
    lr: float = 3e-5,
    flip: bool = False,
) -> PriorRun:
    return PriorRun(
        preset=preset,
        model=model,
        data=data,
        optimizer=OptimizerConfig(lr=lr, warmup=0, final_lr=1.0, betas=(0.9, 0.999), clip=0.0),
        loop=_loop(batch),
        objective="sundae",
        unrolls=unrolls,
        label_dropout=0.0,
        ema=0.0,
        flip=flip,
    )


def _vqgan(preset: str) -> VQGANRun:
    """Taming's VQGAN for 256 x 256 pixels, as in the paper; with the losses of taming's ImageNet model."""
    return dataclasses.replace(RECIPE_AUTOENCODERS["taming-imagenet-f16"], preset=preset, model=TAMING_F16)


def _faces_1024(preset: str) -> VQGANRun:
    """Batch 4 over four GPUs (section 3.3)."""
    return VQGANRun(
        preset=preset,
        model=TAMING_F32,
        data=FOLDER_1024,
        optimizer=OptimizerConfig(lr=5e-6, per_image=True, warmup=0, final_lr=1.0, betas=(0.5, 0.9), clip=0.0),
        loop=_loop(4),
        loss=VQGANLossConfig(adversarial=0.5, lambda_max=1e4, start=15_000, augment=False),
    )


def _unleashing(preset: str) -> VQGANRun:
    """The VQGAN of Bond-Taylor et al. 2021, which this paper took for LSUN."""
    return dataclasses.replace(RECIPE_AUTOENCODERS[preset.replace("sundae", "unleashing")], preset=preset)


SUNDAE_AUTOENCODERS: dict[str, CodecRun] = {
    "sundae-ffhq1024": _faces_1024("sundae-ffhq1024"),
    "sundae-ffhq1024-d2048": _faces_1024("sundae-ffhq1024-d2048"),
    "sundae-ffhq256": _vqgan("sundae-ffhq256"),
    "sundae-celeba": _vqgan("sundae-celeba"),
    "sundae-churches": _unleashing("sundae-churches"),
    "sundae-bedrooms": _unleashing("sundae-bedrooms"),
    "sundae-imagenet256": _vqgan("sundae-imagenet256"),
    "sundae-mnist": PixelRun("sundae-mnist", data=FOLDER_28),
    "sundae-fashion-mnist": PixelRun("sundae-fashion-mnist", data=FASHION_MNIST),
}

MEGAPIXEL = SundaeTransformerConfig()
TOKENS_256 = SundaeTransformerConfig(codes=1024, grid=(16, 16))
PIXELS_28 = SundaeTransformerConfig(codes=256, grid=(28, 28), classes=10, depth=(2, 8, 2))

SUNDAE_PRIORS: dict[str, PriorRun] = {
    # The released configurations' numbers of latents show that faces were learnt mirrored too, the others not.
    "sundae-ffhq1024": _prior("sundae-ffhq1024", FOLDER_1024, MEGAPIXEL, batch=10, unrolls=3, lr=5e-6, flip=True),
    "sundae-ffhq1024-d2048": _prior(
        "sundae-ffhq1024-d2048",
        FOLDER_1024,
        dataclasses.replace(MEGAPIXEL, width=2048, depth=(2, 10, 2)),
        batch=8,
        unrolls=2,
        flip=True,
    ),
    "sundae-ffhq256": _prior(
        "sundae-ffhq256",
        FOLDER_256,
        dataclasses.replace(TOKENS_256, depth=(2, 10, 2)),
        batch=64,
        unrolls=2,
        flip=True,
    ),
    "sundae-celeba": _prior("sundae-celeba", FOLDER_256, TOKENS_256, batch=48, unrolls=3, flip=True),
    # No configuration for LSUN was released: these are the sizes and the batch of the other 256 x 256 data set.
    "sundae-churches": _prior("sundae-churches", FOLDER_256, TOKENS_256, batch=48, unrolls=3),
    "sundae-bedrooms": _prior("sundae-bedrooms", FOLDER_256, TOKENS_256, batch=48, unrolls=3),
    # Released with a rate of 1e-6, too low to begin with; this is the others' rate.
    "sundae-imagenet256": _prior(
        "sundae-imagenet256",
        FOLDER_256,
        dataclasses.replace(TOKENS_256, classes=1000, heads=12, depth=(2, 16, 2)),
        batch=128,
        unrolls=3,
    ),
    # Digits in folders named by their labels.
    "sundae-mnist": _prior("sundae-mnist", FOLDER_28, PIXELS_28, batch=8, unrolls=2),
    "sundae-fashion-mnist": _prior("sundae-fashion-mnist", FASHION_MNIST, PIXELS_28, batch=8, unrolls=2),
}
