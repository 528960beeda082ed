"""Unleashing's and taming's models at their published sizes, to train on a folder of images (``--root``).

Numbers are those of Bond-Taylor et al. 2021 (appendix A, section 3.4), of Esser et al. 2021 (taming) and of their
released code. The perceptual term uses EffNet-Lite0 unless ``--perceptual`` names a file of VGG16, as published. Beta
stands where the equations have it, not where the released code has it (``legacy_beta``).
"""

from __future__ import annotations

import dataclasses

from smalti_train.data.config import DataConfig
from smalti_train.models.absorbing_transformer import AbsorbingTransformerConfig
from smalti_train.models.autoregressive_transformer import Net2NetTransformerConfig
from smalti_train.models.vqgan import TAMING_F16, UNLEASHING_256
from smalti_train.runs.config import LoopConfig, OptimizerConfig, PriorRun, VQGANLossConfig, VQGANRun

FOLDER_256 = DataConfig(name="folder", size=256)


def _loop(steps: int, batch: int) -> LoopConfig:
    """Steps, batch and intervals of trainings that take days."""
    return LoopConfig(steps=steps, batch=batch, checkpoint_every=5000, evaluate_every=10_000, sheet_every=10_000)


def _unleashing_vqgan(preset: str, steps: int) -> VQGANRun:
    """Batch 4, hence a rate of 1.8e-5; DiffAugment; lambda up to 1; the discriminator from step 30001."""
    return VQGANRun(
        preset=preset, model=UNLEASHING_256, data=FOLDER_256, loop=_loop(steps, 4), loss=VQGANLossConfig(start=30_001)
    )


def _unleashing_prior(preset: str, steps: int, lr: float, warmup: int) -> PriorRun:
    """24 layers, no labels, Adam at a constant rate after its warm-up.

    The released code averages with decay 0.995 every ten steps; that is 0.9995 per step.
    """
    return PriorRun(
        preset=preset,
        model=AbsorbingTransformerConfig(),
        data=FOLDER_256,
        optimizer=OptimizerConfig(lr=lr, warmup=warmup, final_lr=1.0, betas=(0.9, 0.999), clip=0.0),
        loop=_loop(steps, 20),
        ema=0.9995,
    )


TAMING_CODES = 16384
"""Codes of the autoencoder under the published class-conditional transformer."""

RECIPE_AUTOENCODERS: dict[str, VQGANRun] = {
    "unleashing-ffhq256": _unleashing_vqgan("unleashing-ffhq256", 1_400_000),
    "unleashing-churches": _unleashing_vqgan("unleashing-churches", 2_200_000),
    "unleashing-bedrooms": _unleashing_vqgan("unleashing-bedrooms", 2_200_000),
    "taming-imagenet-f16": VQGANRun(
        preset="taming-imagenet-f16",
        model=dataclasses.replace(TAMING_F16, codes=TAMING_CODES),
        data=FOLDER_256,
        # Base rate and losses are published; batch and steps depended on the machine.
        loop=_loop(1_000_000, 12),
        loss=VQGANLossConfig(adversarial=0.8, lambda_max=1e4, start=250_001, augment=False),
    ),
}

RECIPE_PRIORS: dict[str, PriorRun] = {
    # The paper stopped FFHQ's training by the validation bound; here it runs to the last step.
    "unleashing-ffhq256": _unleashing_prior("unleashing-ffhq256", 1_000_000, 1e-4, 30_000),
    "unleashing-churches": _unleashing_prior("unleashing-churches", 2_000_000, 2e-4, 10_000),
    "unleashing-bedrooms": _unleashing_prior("unleashing-bedrooms", 2_000_000, 2e-4, 10_000),
    "taming-imagenet-f16": PriorRun(
        preset="taming-imagenet-f16",
        model=Net2NetTransformerConfig(vocabulary=TAMING_CODES, classes=1000),
        data=FOLDER_256,
        optimizer=OptimizerConfig(
            lr=4.5e-6, per_image=True, warmup=0, final_lr=1.0, weight_decay=0.01, betas=(0.9, 0.95), clip=0.0
        ),
        loop=_loop(1_000_000, 16),
        objective="autoregressive",
        label_dropout=0.0,
    ),
}
