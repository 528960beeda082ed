"""Named configurations. A preset is data; the command line may change single fields of it."""

from __future__ import annotations

from smalti_train.config import AutoencoderRun, DataConfig, LoopConfig, OptimizerConfig, PriorRun
from smalti_train.models.hourglass_prior import HourglassPriorConfig

AVATARS_256 = DataConfig(name="avatars", size=256, train_count=24000, validation_count=1024)

AUTOENCODERS: dict[str, AutoencoderRun] = {
    "avatars-256": AutoencoderRun(
        preset="avatars-256",
        data=AVATARS_256,
        optimizer=OptimizerConfig(lr=1e-3, warmup=200),
        loop=LoopConfig(steps=3400, batch=16),
    ),
}

PRIORS: dict[str, PriorRun] = {
    "avatars-256": PriorRun(
        preset="avatars-256",
        model=HourglassPriorConfig(codes=1024, grid=(16, 16), classes=8),
        data=AVATARS_256,
        optimizer=OptimizerConfig(lr=6e-4, warmup=200, weight_decay=0.01),
        loop=LoopConfig(steps=2400, batch=32),
    ),
}
