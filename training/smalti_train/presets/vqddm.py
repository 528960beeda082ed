"""Paper 004's models at their published sizes, as configurations to train them with on one's own folder of images.

Adam at 1e-4, annealed along a cosine, batches of 180, the full bound with times by importance (section 4, appendix);
the first stage is taming's VQGAN, whose codebook ``smalti train refit`` rebuilds. How many steps is published nowhere:
here they show each of 30,000 faces a thousand times. Nobody's images come with them: name a folder with ``--root``.
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
    """Losses and rates of taming's ImageNet model, whose code the paper's first stage is."""
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
