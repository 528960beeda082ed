"""All presets by name. A preset is data; the command line may change single fields of it."""

from __future__ import annotations

import dataclasses
from typing import TypedDict

from smalti_train.data.config import DataConfig
from smalti_train.models.absorbing_transformer import AbsorbingTransformerConfig
from smalti_train.models.autoregressive_transformer import AutoregressiveTransformerConfig, Net2NetTransformerConfig
from smalti_train.models.discriminator import DiscriminatorConfig
from smalti_train.models.edge_autoencoder import EdgeAutoencoderConfig
from smalti_train.models.hourglass_prior import HourglassPriorConfig
from smalti_train.models.multinomial_unet import MultinomialUNetConfig
from smalti_train.models.size_heads import SizedAutoencoderConfig
from smalti_train.models.sundae_transformer import SundaeTransformerConfig
from smalti_train.models.vqgan import VQGANConfig
from smalti_train.presets.sundae import SUNDAE_AUTOENCODERS, SUNDAE_PRIORS
from smalti_train.presets.unleashing import RECIPE_AUTOENCODERS, RECIPE_PRIORS
from smalti_train.presets.vqddm import VQDDM_AUTOENCODERS, VQDDM_PRIORS
from smalti_train.runs.config import (
    AutoencoderLossConfig,
    AutoencoderRun,
    CodecRun,
    HeadsRun,
    LoopConfig,
    Objective,
    OptimizerConfig,
    PixelRun,
    PriorConfig,
    PriorRun,
    VQGANLossConfig,
    VQGANRun,
    own_objective,
)

AVATARS_256 = DataConfig(name="avatars", size=256, train_count=24000, validation_count=1024)

AVATARS_64 = DataConfig(name="avatars", size=64, train_count=24000, validation_count=1024)

FASHION_MNIST = DataConfig(name="fashion-mnist", size=28)

TINY = DataConfig(name="avatars", size=64, train_count=512, validation_count=128)
"""Enough to see every part work, in a minute or two on a laptop; not enough for pictures worth keeping."""

TINY_LOOP = LoopConfig(steps=200, batch=16, checkpoint_every=50, evaluate_every=100, sheet_every=100)

SMOOTHING = (1, 2, 4, 8, 15, 8, 4, 2, 1)
"""Distances of the passes that make the flat areas of a decoder's picture flat."""

AVATARS_TOKENS = EdgeAutoencoderConfig(
    codes=8192, encoder_blocks=(1, 2, 3), decoder_blocks=(1, 2, 4), padding="replicate"
)

AUTOENCODERS: dict[str, CodecRun] = {
    "avatars-256": AutoencoderRun(
        preset="avatars-256",
        model=EdgeAutoencoderConfig(encoder_blocks=(0, 1, 2), decoder_blocks=(1, 1, 3)),
        data=AVATARS_256,
        optimizer=OptimizerConfig(lr=1e-3, warmup=100),
        loop=LoopConfig(steps=3300, batch=16),
        loss=AutoencoderLossConfig(mse=4.0, perceptual=0.3),
    ),
    # Continues the one above, with --init: adds the smoothing and keeps the tokens.
    "avatars-256-decoder": AutoencoderRun(
        preset="avatars-256-decoder",
        model=EdgeAutoencoderConfig(encoder_blocks=(0, 1, 2), decoder_blocks=(1, 1, 3), smoothing=SMOOTHING),
        data=AVATARS_256,
        optimizer=OptimizerConfig(lr=5e-4, warmup=50),
        loop=LoopConfig(steps=3000, batch=16),
        loss=AutoencoderLossConfig(mse=4.0, perceptual=0.5),
        decoder_only=True,
    ),
    # A deeper decoder for larger pictures, from the weights of the first preset (--init) and on its tokens. It makes
    # fewer errors in pixels. It leaves the smoothing out; training heads puts it back.
    "avatars-256-deep": AutoencoderRun(
        preset="avatars-256-deep",
        model=EdgeAutoencoderConfig(encoder_blocks=(0, 1, 2), decoder_blocks=(1, 2, 6)),
        data=AVATARS_256,
        optimizer=OptimizerConfig(lr=8e-4, warmup=100),
        loop=LoopConfig(steps=3000, batch=16),
        loss=AutoencoderLossConfig(mse=6.0),
        decoder_only=True,
        crop=12,
    ),
    # The embedded bundle's: more codes than the presets above, and a padding that tells no position. It leaves the
    # smoothing out; training heads puts it back.
    "avatars": AutoencoderRun(
        preset="avatars",
        model=AVATARS_TOKENS,
        data=AVATARS_256,
        optimizer=OptimizerConfig(lr=8e-4, warmup=100),
        loop=LoopConfig(steps=6000, batch=16, compile=True, evaluate_every=500, sheet_every=1000),
        loss=AutoencoderLossConfig(mse=6.0),
        crop=12,
    ),
    # The VQGAN of Bond-Taylor et al. 2021 at a size that two cores train: a quarter of the width, images of 64 pixels
    # on 8x8 tokens.
    "avatars-64-vqgan": VQGANRun(
        preset="avatars-64-vqgan",
        model=VQGANConfig(
            codes=512,
            code_dim=64,
            channels=32,
            multipliers=(1, 1, 2, 4),
            encoder_blocks=1,
            decoder_blocks=1,
            attention_levels=(3,),
            size=(64, 64),
            probabilistic=True,
        ),
        discriminator=DiscriminatorConfig(filters=32, layers=2),
        data=AVATARS_64,
        optimizer=OptimizerConfig(lr=5e-4, warmup=50, final_lr=0.1, betas=(0.5, 0.9)),
        loop=LoopConfig(steps=4000, batch=16),
        loss=VQGANLossConfig(perceptual=0.3, start=3000),
        ema_every=2,
    ),
    "tiny": AutoencoderRun(
        preset="tiny",
        model=EdgeAutoencoderConfig(
            codes=64, code_dim=8, channels=(16, 32, 32), decoder_blocks=(1, 1, 1), smoothing=(1, 2, 1)
        ),
        data=TINY,
        optimizer=OptimizerConfig(lr=2e-3, warmup=20),
        loop=TINY_LOOP,
    ),
    "tiny-vqgan": VQGANRun(
        preset="tiny-vqgan",
        model=VQGANConfig(
            codes=64,
            code_dim=8,
            channels=32,
            multipliers=(1, 1, 1, 1, 1),
            encoder_blocks=1,
            decoder_blocks=1,
            size=(64, 64),
        ),
        discriminator=DiscriminatorConfig(filters=8, layers=2),
        data=TINY,
        optimizer=OptimizerConfig(lr=5e-4, warmup=10, final_lr=1.0, betas=(0.5, 0.9), clip=0.0),
        loop=TINY_LOOP,
        loss=VQGANLossConfig(perceptual=0.2, start=100),
        ema=0.98,
        ema_every=1,
    ),
    # Nothing to train: every grey level is a token.
    "fashion-mnist-sundae": PixelRun(preset="fashion-mnist-sundae", data=FASHION_MNIST),
    **RECIPE_AUTOENCODERS,
    **SUNDAE_AUTOENCODERS,
    **VQDDM_AUTOENCODERS,
}


def _avatars_heads(preset: str, autoencoder: EdgeAutoencoderConfig) -> HeadsRun:
    return HeadsRun(
        preset=preset,
        model=SizedAutoencoderConfig(dataclasses.replace(autoencoder, smoothing=SMOOTHING)),
        data=DataConfig(name="avatars", size=256, train_count=5000, validation_count=256),
        optimizer=OptimizerConfig(lr=1e-3, warmup=100),
        loop=LoopConfig(steps=1200, batch=4, compile=True, checkpoint_every=100),
        loss=AutoencoderLossConfig(mse=6.0),
    )


HEADS: dict[str, HeadsRun] = {
    # On the decoder that the autoencoder preset avatars-256-deep trains.
    "avatars-256": _avatars_heads(
        "avatars-256", EdgeAutoencoderConfig(encoder_blocks=(0, 1, 2), decoder_blocks=(1, 2, 6))
    ),
    # On the autoencoder preset avatars.
    "avatars": _avatars_heads("avatars", AVATARS_TOKENS),
    "tiny": HeadsRun(
        preset="tiny",
        model=SizedAutoencoderConfig(
            EdgeAutoencoderConfig(
                codes=64, code_dim=8, channels=(16, 32, 32), decoder_blocks=(1, 1, 1), smoothing=(1, 2, 1)
            ),
            width=16,
            blocks=1,
            fine=(12, 8),
        ),
        data=TINY,
        optimizer=OptimizerConfig(lr=2e-3, warmup=20),
        loop=TINY_LOOP,
    ),
}
"""Heads for larger pictures, by the name of the autoencoder preset that they belong to."""


def _objective(model: PriorConfig) -> Objective:
    return own_objective(model) or "reweighted"


def _avatars(preset: str, model: PriorConfig, rows: int = 0) -> PriorRun:
    return PriorRun(
        preset=preset,
        model=model,
        objective=_objective(model),
        data=AVATARS_256,
        optimizer=OptimizerConfig(lr=6e-4, warmup=100, weight_decay=0.01),
        loop=LoopConfig(steps=8000, batch=32, evaluate_every=400, sheet_every=400),
        rows=rows,
    )


def _avatars_64(preset: str, model: PriorConfig) -> PriorRun:
    return PriorRun(
        preset=preset,
        model=model,
        objective=_objective(model),
        data=AVATARS_64,
        optimizer=OptimizerConfig(lr=1e-3, warmup=100, final_lr=0.1, weight_decay=0.01),
        loop=LoopConfig(steps=2000, batch=64, evaluate_every=100, sheet_every=500),
        ema=0.995,
    )


def _tiny(preset: str, model: PriorConfig) -> PriorRun:
    return PriorRun(
        preset=preset,
        model=model,
        objective=_objective(model),
        data=TINY,
        optimizer=OptimizerConfig(lr=2e-3, warmup=20),
        loop=dataclasses.replace(TINY_LOOP, batch=32),
        ema=0.98,
    )


class TransformerSizes(TypedDict):
    """Sizes of a transformer, whichever its kind."""

    codes: int
    grid: tuple[int, int]
    classes: int
    width: int
    layers: int
    heads: int


AVATARS_TRANSFORMER: TransformerSizes = {
    "codes": 1024,
    "grid": (16, 16),
    "classes": 8,
    "width": 256,
    "layers": 6,
    "heads": 4,
}
"""Costs 1.5 billion multiplications per grid, as much as the hourglass of ``avatars-256``."""
AVATARS_64_TRANSFORMER: TransformerSizes = {
    "codes": 512,
    "grid": (8, 8),
    "classes": 8,
    "width": 256,
    "layers": 6,
    "heads": 4,
}
TINY_TRANSFORMER: TransformerSizes = {
    "codes": 64,
    "grid": (4, 4),
    "classes": 8,
    "width": 32,
    "layers": 2,
    "heads": 2,
}

PRIORS: dict[str, PriorRun] = {
    "avatars-256": _avatars("avatars-256", HourglassPriorConfig(codes=1024, grid=(16, 16), classes=8)),
    # On the tokens of the autoencoder preset avatars; each has at most 20M parameters.
    "avatars": _avatars("avatars", HourglassPriorConfig(codes=8192, grid=(16, 16), classes=8), rows=64),
    "avatars-sundae": _avatars(
        "avatars-sundae",
        SundaeTransformerConfig(codes=8192, grid=(16, 16), classes=8, width=320, heads=5, depth=(1, 6, 1), places=True),
        rows=64,
    ),
    "tiny": _tiny(
        "tiny",
        HourglassPriorConfig(
            codes=64, grid=(4, 4), classes=8, width=32, inner_width=64, layers_inner=1, layers_out=1, head_dim=16
        ),
    ),
    "avatars-256-transformer": _avatars("avatars-256-transformer", AbsorbingTransformerConfig(**AVATARS_TRANSFORMER)),
    "avatars-256-autoregressive": _avatars(
        "avatars-256-autoregressive", AutoregressiveTransformerConfig(**AVATARS_TRANSFORMER)
    ),
    "avatars-64-transformer": _avatars_64(
        "avatars-64-transformer", AbsorbingTransformerConfig(**AVATARS_64_TRANSFORMER)
    ),
    "avatars-64-autoregressive": _avatars_64(
        "avatars-64-autoregressive", AutoregressiveTransformerConfig(**AVATARS_64_TRANSFORMER)
    ),
    "tiny-transformer": _tiny("tiny-transformer", AbsorbingTransformerConfig(**TINY_TRANSFORMER)),
    "tiny-autoregressive": _tiny("tiny-autoregressive", AutoregressiveTransformerConfig(**TINY_TRANSFORMER)),
    "tiny-net2net": _tiny(
        "tiny-net2net",
        Net2NetTransformerConfig(vocabulary=64, positions=16, grid=(4, 4), classes=8, width=32, layers=2, heads=2),
    ),
    "avatars-256-sundae": _avatars(
        "avatars-256-sundae",
        SundaeTransformerConfig(codes=1024, grid=(16, 16), classes=8, width=320, heads=5, depth=(1, 6, 1), places=True),
    ),
    "avatars-256-multinomial": _avatars(
        "avatars-256-multinomial",
        MultinomialUNetConfig(codes=1024, grid=(16, 16), classes=8, width=96, multipliers=(1, 2, 4), steps=1000),
    ),
    "avatars-64-multinomial": _avatars_64(
        "avatars-64-multinomial",
        MultinomialUNetConfig(codes=512, grid=(8, 8), classes=8, width=64, multipliers=(1, 2, 4), steps=1000),
    ),
    # Pixel by pixel, class by class (McKinney and Willcocks 2022, section 4.2), on the tokens of the autoencoder preset
    # of this name.
    "fashion-mnist-sundae": PriorRun(
        preset="fashion-mnist-sundae",
        model=SundaeTransformerConfig(
            codes=256, grid=(28, 28), classes=10, width=128, heads=2, depth=(1, (2, 6, 2), 1), places=True
        ),
        objective="sundae",
        data=FASHION_MNIST,
        optimizer=OptimizerConfig(lr=1e-3, warmup=100, final_lr=0.05, weight_decay=0.01),
        loop=LoopConfig(steps=1800, batch=16, checkpoint_every=100, evaluate_every=600, sheet_every=300),
        ema=0.995,
    ),
    "tiny-sundae": _tiny(
        "tiny-sundae",
        SundaeTransformerConfig(
            codes=64, grid=(4, 4), classes=8, width=32, heads=2, head_dim=16, depth=(1, 1, 1), places=True
        ),
    ),
    "tiny-multinomial": _tiny(
        "tiny-multinomial",
        MultinomialUNetConfig(codes=64, grid=(4, 4), classes=8, width=32, multipliers=(1, 2), blocks=1, steps=100),
    ),
    **RECIPE_PRIORS,
    **SUNDAE_PRIORS,
    **VQDDM_PRIORS,
}
