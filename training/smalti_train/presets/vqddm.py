"""The models of Hu et al. 2022 (VQ-DDM) at their published sizes, to train on a folder of images (``--root``).

Adam at 1e-4, annealed along a cosine, batches of 180, the full bound with times by importance (section 4, appendix).
The autoencoder is taming's VQGAN, whose codebook ``smalti train refit`` rebuilds. The number of steps is not published:
here each of 30,000 faces is seen a thousand times.
"""

from __future__ import annotations

import dataclasses

from smalti_train.models.multinomial_unet import MultinomialUNetConfig
from smalti_train.models.vqgan import TAMING_F16
from smalti_train.presets.unleashing import FOLDER_256, RECIPE_AUTOENCODERS
from smalti_train.runs.config import CodecRun, LoopConfig, OptimizerConfig, PriorRun

BATCH = 180
STEPS = 170_000


def _vqgan(preset: str, codes: int) -> CodecRun:
    """Losses and rates of taming's ImageNet model: the paper's autoencoder uses taming's code."""
    return dataclasses.replace(
        RECIPE_AUTOENCODERS["taming-imagenet-f16"], preset=preset, model=dataclasses.replace(TAMING_F16, codes=codes)
    )


def _prior(preset: str, codes: int) -> PriorRun:
    return PriorRun(
        preset=preset,
        model=MultinomialUNetConfig(codes=codes),
        data=FOLDER_256,
        optimizer=OptimizerConfig(lr=1e-4, warmup=0, final_lr=0.0, betas=(0.9, 0.999), clip=0.0),
        loop=LoopConfig(steps=STEPS, batch=BATCH, checkpoint_every=5000, evaluate_every=10_000, sheet_every=10_000),
        objective="vlb",
        times="importance",
        label_dropout=0.0,
        ema=0.0,
    )


CODES = {"vqddm-celebahq256": 1024, "vqddm-celebahq256-k512": 512, "vqddm-churches256": 1024}
"""Codes by recipe; a codebook of 512 is rebuilt from one of 1024 (table 1)."""
VQDDM_AUTOENCODERS: dict[str, CodecRun] = {name: _vqgan(name, codes) for name, codes in CODES.items()}
VQDDM_PRIORS: dict[str, PriorRun] = {name: _prior(name, codes) for name, codes in CODES.items()}
