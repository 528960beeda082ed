"""Named configurations. A preset is data; the command line may change single fields of it."""

from __future__ import annotations

from smalti_train.config import AutoencoderLossConfig, AutoencoderRun, DataConfig, LoopConfig, OptimizerConfig, PriorRun
from smalti_train.models.edge_autoencoder import EdgeAutoencoderConfig
from smalti_train.models.hourglass_prior import HourglassPriorConfig

AVATARS_256 = DataConfig(name="avatars", size=256, train_count=24000, validation_count=1024)

TINY = DataConfig(name="avatars", size=64, train_count=512, validation_count=128)
"""Enough to see every part work, in a minute or two on a laptop; not enough for pictures worth keeping."""

AUTOENCODERS: dict[str, AutoencoderRun] = {
    "avatars-256": AutoencoderRun(
        preset="avatars-256",
        model=EdgeAutoencoderConfig(encoder_blocks=(0, 1, 2), decoder_blocks=(1, 1, 3)),
        data=AVATARS_256,
        optimizer=OptimizerConfig(lr=1e-3, warmup=100),
        loop=LoopConfig(steps=3300, batch=16),
        loss=AutoencoderLossConfig(mse=4.0, perceptual=0.3),
    ),
    "tiny": AutoencoderRun(
        preset="tiny",
        model=EdgeAutoencoderConfig(codes=64, code_dim=8, channels=(16, 32, 32), decoder_blocks=(1, 1, 1)),
        data=TINY,
        optimizer=OptimizerConfig(lr=2e-3, warmup=20),
        loop=LoopConfig(steps=200, batch=16, checkpoint_every=50, evaluate_every=100, sheet_every=100),
    ),
}

PRIORS: dict[str, PriorRun] = {
    "avatars-256": PriorRun(
        preset="avatars-256",
        model=HourglassPriorConfig(codes=1024, grid=(16, 16), classes=8),
        data=AVATARS_256,
        optimizer=OptimizerConfig(lr=6e-4, warmup=100, weight_decay=0.01),
        loop=LoopConfig(steps=8000, batch=32, evaluate_every=400, sheet_every=400),
    ),
    "tiny": PriorRun(
        preset="tiny",
        model=HourglassPriorConfig(
            codes=64, grid=(4, 4), classes=8, width=32, inner_width=64, layers_inner=1, layers_out=1, head_dim=16
        ),
        data=TINY,
        optimizer=OptimizerConfig(lr=2e-3, warmup=20),
        loop=LoopConfig(steps=200, batch=32, checkpoint_every=50, evaluate_every=100, sheet_every=100),
        ema=0.98,
    ),
}
