"""Whole runs of torch priors by the samplers themselves: what families, bundles and evaluations are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from smalti.errors import UsageError
from smalti.families.absorbing import sampler as absorbing
from smalti.families.absorbing.sampler import Denoiser
from smalti.families.absorbing.schedule import Counts, Order, make_schedule
from smalti.families.autoregressive import sampler as autoregressive
from smalti.families.autoregressive.sampler import NextLogits
from smalti.families.multinomial import sampler as multinomial
from smalti.families.multinomial.sampler import AtTime
from smalti.families.sundae import sampler as sundae
from smalti_train.models.multinomial_unet import MultinomialUNetConfig
from smalti_train.models.sundae_transformer import SundaeTransformerConfig
from smalti_train.runs.config import AbsorbingConfig, AutoregressiveConfig
from smalti_train.runs.torch_sampling import SHEET_STEPS

Int32 = NDArray[np.int32]


def draw(
    denoiser: Denoiser,
    config: AbsorbingConfig,
    seeds: Sequence[int],
    labels: Sequence[int],
    *,
    steps: int = SHEET_STEPS,
    temperature: float = 1.0,
    guidance: float = 1.0,
    schedule: Counts = "exact",
    order: Order = "random",
) -> Int32:
    """Draw tokens (int32 [N, h, w]) of an absorbing prior; ``labels`` are indices, ``classes`` for none."""
    height, width = config.grid
    *_, tokens = absorbing.run(
        denoiser,
        np.full((len(seeds), height * width), config.mask, np.int32),
        make_schedule(seeds, config.grid, steps, schedule, order),
        seeds=seeds,
        labels=np.asarray(labels, np.int32),
        width=width,
        temperature=temperature,
        guidance=guidance,
        no_label=config.classes,
    )
    return tokens.reshape(-1, height, width)


def draw_in_turn(
    predictor: NextLogits,
    config: AutoregressiveConfig,
    seeds: Sequence[int],
    labels: Sequence[int],
    *,
    temperature: float = 1.0,
    guidance: float = 1.0,
) -> Int32:
    """Draw tokens (int32 [N, h, w]) of an autoregressive prior, one call each; ``labels`` as in :func:`draw`."""
    height, width = _known_grid(config.grid)
    *_, tokens = autoregressive.run(
        predictor,
        np.full((len(seeds), height * width), config.mask, np.int32),
        mask=config.mask,
        seeds=seeds,
        labels=np.asarray(labels, np.int32),
        width=width,
        temperature=temperature,
        guidance=guidance,
        no_label=config.classes,
    )
    return tokens.reshape(-1, height, width)


def draw_sundae(
    denoiser: Denoiser,
    config: SundaeTransformerConfig,
    seeds: Sequence[int],
    labels: Sequence[int],
    *,
    steps: int = SHEET_STEPS,
    temperature: tuple[float, float] = (1.0, 0.7),
    proportion: tuple[float, float] = (0.5, 0.5),
    min_steps: int = 10,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance: float = 1.0,
) -> Int32:
    """Draw tokens (int32 [N, h, w]) of a SUNDAE prior; ``labels`` as in :func:`draw`, the rest as in ``sundae.run``.

    Raises UsageError for a prior that does not know its grid.
    """
    height, width = _known_grid(config.grid)
    *_, tokens = sundae.run(
        denoiser,
        sundae.start_tokens(seeds, (height, width), config.codes),
        sundae.annealing(steps, temperature, proportion, min_steps),
        seeds=seeds,
        labels=np.asarray(labels, np.int32),
        width=width,
        top_k=top_k,
        top_p=top_p,
        guidance=guidance,
        no_label=config.classes,
    )
    return tokens.reshape(-1, height, width)


def draw_multinomial(
    at: AtTime,
    config: MultinomialUNetConfig,
    seeds: Sequence[int],
    labels: Sequence[int],
    *,
    steps: int = SHEET_STEPS,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance: float = 1.0,
) -> Int32:
    """Draw tokens (int32 [N, h, w]) by multinomial diffusion; ``labels`` as in :func:`draw`.

    Raises UsageError for more steps than the prior was trained with.
    """
    height, width = config.grid
    *_, tokens = multinomial.run(
        at,
        sundae.start_tokens(seeds, config.grid, config.codes),
        multinomial.strides(steps, multinomial.cosine_alphas(config.steps, config.schedule)),
        codes=config.codes,
        seeds=seeds,
        labels=np.asarray(labels, np.int32),
        width=width,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        guidance=guidance,
        no_label=config.classes,
    )
    return tokens.reshape(-1, height, width)


def _known_grid(grid: tuple[int, int] | None) -> tuple[int, int]:
    if grid is None:
        raise UsageError("this prior does not say how many rows and columns of tokens an image has: give it a grid")
    return grid
