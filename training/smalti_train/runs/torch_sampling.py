"""Sampling from torch priors with the runtime's samplers: adapters from models to the samplers' callables."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from smalti.errors import UsageError
from smalti.families import multinomial, sundae
from smalti.families.absorbing import sampler as absorbing
from smalti.families.absorbing.sampler import Denoiser
from smalti.families.absorbing.schedule import Counts, Order, make_schedule
from smalti.families.autoregressive import sampler as autoregressive
from smalti.families.autoregressive.sampler import NextLogits
from smalti.families.multinomial import AtTime
from smalti_train.runs.config import AbsorbingConfig, AutoregressiveConfig
from smalti_train.runs.loading import AbsorbingPrior, AutoregressivePrior, MultinomialPrior, SundaePrior
from smalti_train.models.autoregressive_transformer import Past
from smalti_train.models.multinomial_unet import MultinomialUNetConfig
from smalti_train.models.sundae_transformer import SundaeTransformerConfig

SHEET_STEPS = 16
Int32 = NDArray[np.int32]


def torch_denoiser(model: AbsorbingPrior | SundaePrior, accelerator: Accelerator | None = None) -> Denoiser:
    """A torch model, in eval mode, as the denoiser of the absorbing and the SUNDAE sampler.

    It computes in the accelerator's precision, or in fp32 without one.
    """
    model.eval()
    device = next(model.parameters()).device

    @torch.no_grad()
    def denoiser(tokens: Int32, labels: Int32, rows: Int32) -> NDArray[np.float32]:
        inputs = (torch.from_numpy(part.astype(np.int64)).to(device) for part in (tokens, labels, rows))
        with accelerator.autocast() if accelerator else nullcontext():
            return model(*inputs).float().cpu().numpy()

    return denoiser


def torch_denoisers(model: MultinomialPrior, accelerator: Accelerator | None = None) -> AtTime:
    """A torch model, in eval mode, as the multinomial sampler's denoiser by time; precision as above."""
    model.eval()
    device = next(model.parameters()).device

    def at(time: int) -> Denoiser:
        @torch.no_grad()
        def denoiser(tokens: Int32, labels: Int32, rows: Int32) -> NDArray[np.float32]:
            inputs = (torch.from_numpy(part.astype(np.int64)).to(device) for part in (tokens, labels, rows))
            grids, under, which = inputs
            with accelerator.autocast() if accelerator else nullcontext():
                return model(grids, under, torch.full_like(under, time), which).float().cpu().numpy()

        return denoiser

    return at


def next_logits(model: AutoregressivePrior, accelerator: Accelerator | None = None) -> NextLogits:
    """A torch model, in eval mode, as the autoregressive sampler's predictor; precision as above.

    It keeps keys and values from call to call, so that a call computes one position only; a call that does not continue
    the one before starts anew. The sampler's labels (int32 [N], or [N, C]) are the twin's labels or taming's
    conditioning. One predictor serves one sampling run at a time.
    """
    model.eval()
    device = next(model.parameters()).device
    past, known, under = Past(), np.empty((0, 0), np.int32), np.empty(0, np.int32)

    @torch.no_grad()
    def predictor(tokens: Int32, labels: Int32) -> NDArray[np.float32]:
        nonlocal past, known, under
        read = known.shape[1]
        continues = (
            past.length > 0
            and tokens.shape[1] > read
            and np.array_equal(labels, under)
            and np.array_equal(tokens[:, :read], known)
        )
        if not continues:
            past, read = Past(), 0
        new, context = (torch.from_numpy(part.astype(np.int64)).to(device) for part in (tokens[:, read:], labels))
        with accelerator.autocast() if accelerator else nullcontext():
            logits = model(new, context, past)[:, -1]
        known, under = tokens.copy(), labels.copy()
        return logits.float().cpu().numpy()

    return predictor


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
    """Draw tokens (int32 [N, h, w]) from an absorbing prior; ``labels`` are indices, ``classes`` means no label."""
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
    """Draw tokens (int32 [N, h, w]) from an autoregressive prior, one call per token; ``labels`` as in :func:`draw`."""
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
    """Draw tokens (int32 [N, h, w]) from a SUNDAE prior.

    ``labels`` as in :func:`draw`, the rest as in ``smalti.families.sundae``. Raises UsageError for a prior that does
    not know its grid.
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
    """Draw tokens (int32 [N, h, w]) from a multinomial prior; ``labels`` as in :func:`draw`.

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
