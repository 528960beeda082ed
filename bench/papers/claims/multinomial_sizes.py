"""Sizes of the experiments on Hu et al. 2022, and the folders of their files.

They use the VQGAN and the priors of the earlier experiments on Bond-Taylor et al. 2021 (``unleashing.py``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from claims.common import FULL, TINY, Bench
from smalti.bundle.reader import EMBEDDED
from smalti_train.models.edge_autoencoder import EdgeAutoencoder
from smalti_train.models.sundae_transformer import SundaeTransformerConfig
from smalti_train.presets.catalogue import AUTOENCODERS, PRIORS
from smalti_train.runs.bundle_weights import initial_weights
from smalti_train.runs.config import AutoencoderRun, PriorConfig, PriorRun


@dataclass(frozen=True)
class Sizes:
    """How large everything is, besides what the earlier experiments' scale says."""

    prior: PriorRun
    """The multinomial prior over the tokens of the earlier experiments' VQGAN."""
    sundae: PriorConfig
    """A SUNDAE prior over the same tokens, of which only the cost is measured."""
    edge: AutoencoderRun
    """The edge autoencoder that is refitted beside the earlier experiments' VQGAN."""
    edge_weights: Callable[[AutoencoderRun], dict[str, Tensor]]
    """Its weights."""
    starved: float
    """Share of the codes that the autoencoders to be refitted are left with."""
    starved_steps: int
    """Steps in which their decoders learn to live with them."""
    decoder_steps: int
    """Steps of a decoder's training, after ReFiT or without."""
    pool: int
    """Features that are clustered."""
    steps: tuple[int, ...]
    """Sampling steps by which quality is told; the cost is that of the last but one."""
    completed: int
    """Pictures that are completed."""

    @property
    def cost_steps(self) -> int:
        """Steps of the runs whose seconds are compared."""
        return self.steps[-2]


def _multinomial(name: str, base: PriorRun, **loop: Any) -> PriorRun:
    """A multinomial prior on the images, the batches and the rates of the absorbing one, ``base``."""
    rhythm = dataclasses.replace(base.loop, **loop)
    return dataclasses.replace(base, model=PRIORS[name].model, objective="vlb", preset=name, loop=rhythm)


def _edge(name: str, **loop: Any) -> AutoencoderRun:
    config = AUTOENCODERS[name]
    assert isinstance(config, AutoencoderRun)
    return dataclasses.replace(config, loop=dataclasses.replace(config.loop, **loop))


def _untrained(config: AutoencoderRun) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return EdgeAutoencoder(config.model).state_dict()


LARGE = Sizes(
    prior=_multinomial("avatars-64-multinomial", FULL.absorbing, steps=2000, evaluate_every=200),
    edge=_edge("avatars-256-decoder", batch=8),
    edge_weights=partial(initial_weights, EMBEDDED),
    sundae=SundaeTransformerConfig(codes=512, grid=(8, 8), classes=8, width=256, heads=4, depth=(2, 8, 2), places=True),
    starved=0.3,
    starved_steps=400,
    decoder_steps=300,
    pool=20_000,
    steps=(1, 2, 5, 10, 20, 50, 100),
    completed=160,
)
SMALL = Sizes(
    prior=_multinomial("tiny-multinomial", TINY.absorbing),
    edge=_edge("tiny", batch=4, precision="fp32"),
    edge_weights=_untrained,
    sundae=PRIORS["tiny-sundae"].model,
    starved=0.3,
    starved_steps=1,
    decoder_steps=1,
    pool=400,
    steps=(1, 2, 3),
    completed=8,
)
"""Sees every line run; says nothing."""


@dataclass(frozen=True)
class MultinomialBench(Bench):
    """Experiments on Hu et al. 2022. ``scale`` says how many samples are compared, and with which images."""

    sizes: Sizes
    earlier: Bench
    """The experiments on Bond-Taylor et al. 2021: their VQGAN gives the tokens, their priors are compared with."""

    @classmethod
    def of(cls, tiny: bool, work: Path, results: Path, earlier: Path) -> MultinomialBench:
        """The experiments at a scale, with the folders of their runs, of their results and of the earlier runs."""
        scale = TINY if tiny else FULL
        return cls(
            scale, work, results, SMALL if tiny else LARGE, Bench(scale, earlier, results.with_name("unleashing"))
        )
