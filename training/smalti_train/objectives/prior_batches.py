"""Batches for training priors, their losses, and the evaluation on unseen tokens; for all families."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from smalti.errors import UsageError
from smalti_train.data.tensors import from_numpy
from smalti_train.models.autoregressive_transformer import Net2NetTransformerConfig
from smalti_train.models.multinomial_unet import MultinomialUNetConfig
from smalti_train.models.sundae_transformer import SundaeTransformerConfig
from smalti_train.objectives.absorbing import (
    absorb,
    absorb_exactly,
    absorbing_loss,
    autoregressive_loss,
    bits_per_dim,
    masked_rows,
    stratified,
    stratified_times,
)
from smalti_train.objectives.multinomial import NoiseSchedule, cosine_schedule, diffuse, draw_times, prior_kl, step_loss
from smalti_train.objectives.sundae import corrupt, unrolled_losses
from smalti_train.objectives.time_sampling import ImportanceTimes
from smalti_train.runs.config import UNROLLS, AutoregressiveConfig, PriorConfig, PriorRun, own_objective
from smalti_train.runs.loading import Prior
from smalti_train.runs.processes import share


@dataclass(frozen=True)
class PriorBatch:
    """One training batch, one row per sample."""

    tokens: Tensor
    """int64 [B, L]: the tokens to predict."""
    shown: Tensor
    """int64, the prior's input: [B, L] partly masked, corrupted or noised, or [B, L - 1] for autoregressive priors."""
    labels: Tensor
    """int64 [B]: ``classes`` where the label is left out, 0 where the prior knows none."""
    times: Tensor
    """int64 [B] in 1 .. T, with T tokens (absorbing) or T noise steps (multinomial, where it is t + 1 of
    ``smalti_train.objectives.multinomial``); 0 for other priors."""
    weights: Tensor
    """float32 [B]: factor of the loss, 1 / (T * chance of the time)."""
    uniforms: Tensor
    """float32 [B, T - 1, L] in 0 .. 1: random numbers for the T unrolls of SUNDAE; T is 1 for other priors."""
    rows: Tensor
    """int64 [B, R]: the positions that the loss is computed on; R is 0 where these are all."""

    def share(self, accelerator: Accelerator) -> PriorBatch:
        """The rows of this process, on its device."""
        parts = (share(accelerator, getattr(self, field.name)) for field in fields(self))
        return PriorBatch(*(part.to(accelerator.device) for part in parts))


def prior_batch(
    config: PriorRun, tokens: Tensor, labels: Tensor, noise: torch.Generator, history: ImportanceTimes | None = None
) -> PriorBatch:
    """Draw a training batch from clean ``tokens`` int64 [B, L] and ``labels`` int64 [B].

    ``history`` is given where times are drawn by importance.
    """
    count, length = tokens.shape
    shown, times, weights = tokens[:, :-1], torch.zeros(count, dtype=torch.int64), torch.ones(count)
    uniforms = torch.empty(count, 0, length)
    rows = torch.empty(count, 0, dtype=torch.int64)
    if isinstance(config.model, SundaeTransformerConfig):
        shown = corrupt(tokens, stratified(count, noise), config.model.codes, noise)
        uniforms = torch.rand(count, config.unrolls - 1, length, generator=noise)
    elif isinstance(config.model, MultinomialUNetConfig):
        t, weights = draw_times(count, config.model.steps, noise, history)
        shown = diffuse(tokens, t, noise_of(config.model), config.model.codes, noise)
        times = t + 1
    elif not isinstance(config.model, AutoregressiveConfig):
        if history is None:
            times = stratified_times(count, length, noise)
        else:
            times, weights = history.draw(count, noise)
        hide = absorb if config.masking == "random" else absorb_exactly
        shown = hide(tokens, times, length, config.model.mask, noise)
    if 0 < config.rows < length:
        counted = shown == config.model.mask if own_objective(config.model) is None else torch.ones_like(tokens) > 0
        rows = masked_rows(counted, config.rows, noise)
    if config.model.classes:
        unlabelled = torch.rand(count, generator=noise) < config.label_dropout
        labels = labels.masked_fill(unlabelled, config.model.classes)
    else:
        labels = torch.zeros_like(labels)
    return PriorBatch(tokens, shown, labels, times, weights, uniforms, rows)


def losses(config: PriorRun, logits: Tensor, shown: PriorBatch) -> Tensor:
    """Unweighted loss of every sample (float [B], nats per token) from logits float [B, L, K], or of ``shown.rows``.

    For priors that are called once per step, all but SUNDAE; see :func:`loss_parts`.
    """
    if isinstance(config.model, AutoregressiveConfig):
        return autoregressive_loss(logits, shown.tokens)
    if isinstance(config.model, MultinomialUNetConfig):
        return _bound(config.model, logits, shown.tokens, shown.shown, shown.times - 1)
    masked = shown.shown == config.model.mask
    rows = shown.rows if shown.rows.shape[1] else None
    return absorbing_loss(logits, shown.tokens, masked, shown.times, masked.shape[1], config.objective, rows=rows)


def loss_parts(config: PriorRun, predict: Callable[..., Tensor], shown: PriorBatch) -> Iterator[Tensor]:
    """The unweighted loss of every sample (float [B], nats per token), in parts that add up to it.

    ``predict`` maps shown tokens and labels, for multinomial diffusion also times (int64 [B] in 0 .. T - 1), and the
    rows where there are any, to logits float [B, L or R, K]. There is one part, or for SUNDAE one per unroll. No
    gradient passes between parts, so each can go backward before the next is computed.
    """
    rows = (shown.rows,) if shown.rows.shape[1] else ()
    if isinstance(config.model, SundaeTransformerConfig):

        def correct(grids: Tensor, *rows: Tensor) -> Tensor:
            return predict(grids, shown.labels, *rows)

        yield from unrolled_losses(correct, shown.tokens, shown.shown, shown.uniforms, *rows)
    else:
        time = (shown.times - 1,) if isinstance(config.model, MultinomialUNetConfig) else ()
        yield losses(config, predict(shown.shown, shown.labels, *time, *rows), shown)


def _bound(model: MultinomialUNetConfig, logits: Tensor, tokens: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
    """Estimate of the bound (Hu et al. 2022, eq. 7; float [B], nats per token) from one time each, without prior_kl."""
    return model.steps * step_loss(logits, tokens, noisy, t, noise_of(model))


@cache
def noise_of(model: MultinomialUNetConfig) -> NoiseSchedule:
    """The noise schedule of a prior with this configuration."""
    return cosine_schedule(model.steps, model.schedule)


def figure(model: PriorConfig) -> str:
    """Name of the figure that :func:`evaluate` measures."""
    return "unrolled_bits_per_token" if isinstance(model, SundaeTransformerConfig) else "bits_per_dim"


@torch.no_grad()
def evaluate(
    model: Prior,
    tokens: NDArray[np.int16],
    labels: NDArray[np.int32],
    accelerator: Accelerator,
    batch: int = 64,
) -> float:
    """Negative log-likelihood of unseen tokens (int16 [N, h, w]) given labels, in bits per dimension; see below.

    Exact for autoregressive priors. A bound for absorbing priors (Bond-Taylor et al. 2021, eq. 6), whatever the
    objective and masking in training, and for multinomial priors (Hu et al. 2022, eq. 7). SUNDAE priors have no such
    figure: theirs is the training's cross-entropy in bits per token, averaged over two unrolls and all corruption
    rates, and bounds nothing. Times, rates, masks and random tokens are the same at every call, so figures differ by
    the weights alone (for SUNDAE also by the tokens drawn in between).
    """
    model.eval()
    config = model.config
    generator = torch.Generator().manual_seed(0)
    found: list[Tensor] = []
    length = tokens.shape[1] * tokens.shape[2]
    for first in range(0, len(tokens), batch):
        clean = from_numpy(tokens[first : first + batch].reshape(-1, length).astype(np.int64))
        label = from_numpy(labels[first : first + batch].astype(np.int64)) * (config.classes > 0)
        if isinstance(config, AutoregressiveConfig):
            clean, label = clean.to(accelerator.device), label.to(accelerator.device)
            with accelerator.autocast():
                logits = model(clean[:, :-1], label)
            found.append(autoregressive_loss(logits, clean).cpu())
            continue
        if isinstance(config, SundaeTransformerConfig):
            noisy = corrupt(clean, stratified(len(clean), generator), config.codes, generator)
            uniforms = torch.rand(len(clean), UNROLLS - 1, length, generator=generator)
            found.append(_unrolled(model, clean, noisy, uniforms, label, accelerator))
            continue
        if isinstance(config, MultinomialUNetConfig):
            t, _ = draw_times(len(clean), config.steps, generator)
            noisy = diffuse(clean, t, noise_of(config), config.codes, generator)
            clean, noisy, label, t = (part.to(accelerator.device) for part in (clean, noisy, label, t))
            with accelerator.autocast():
                logits = model(noisy, label, t)
            bound = _bound(config, logits, clean, noisy, t) + prior_kl(noise_of(config), config.codes)
            found.append(bound.cpu())
            continue
        times = stratified_times(len(clean), length, generator)
        # Samples without a masked token count as 0: forcing a mask on them would raise the bound.
        noisy = absorb(clean, times, length, config.mask, generator, at_least=0)
        clean, noisy, label = (part.to(accelerator.device) for part in (clean, noisy, label))
        with accelerator.autocast():
            logits = model(noisy, label)
        found.append(absorbing_loss(logits, clean, noisy == config.mask, times, length, "elbo").cpu())
    return bits_per_dim(torch.cat(found))


def _unrolled(
    model: Prior, clean: Tensor, noisy: Tensor, uniforms: Tensor, label: Tensor, accelerator: Accelerator
) -> Tensor:
    """Mean cross-entropy of the unrolls (float [B], nats per token), on the CPU."""
    clean, noisy, uniforms, label = (part.to(accelerator.device) for part in (clean, noisy, uniforms, label))

    def predict(grids: Tensor) -> Tensor:
        with accelerator.autocast():
            return model(grids, label)

    return torch.stack(list(unrolled_losses(predict, clean, noisy, uniforms))).sum(0).cpu()


def times_of(model: PriorConfig, length: int) -> int:
    """T, the number of times that a batch on ``length`` tokens draws from."""
    return model.steps if isinstance(model, MultinomialUNetConfig) else length


def check_fit(model: PriorConfig, codes: int, side: int) -> None:
    """Raise UsageError unless a prior fits an autoencoder's ``codes`` on ``side`` x ``side`` tokens."""
    if model.codes != codes or model.grid != (side, side):
        grid = "an unknown number of" if model.grid is None else "x".join(map(str, model.grid))
        raise UsageError(
            f"the prior predicts {model.codes} codes on {grid} tokens, and the autoencoder makes {codes} codes on "
            f"{side}x{side}: they come from different presets"
        )
    if codes > np.iinfo(np.int16).max:
        raise UsageError(f"{codes} codes are more than the {np.iinfo(np.int16).max} that tokens on disk can have")
    if isinstance(model, Net2NetTransformerConfig) and model.positions < side * side:
        raise UsageError(f"{model.positions} positions are too few to read a label and {side * side} tokens but one")


def check_labels(model: PriorConfig, labels: int) -> None:
    """Raise UsageError unless a prior knows as many classes as the data have ``labels``, or none."""
    if model.classes not in (0, labels):
        raise UsageError(f"the prior has {model.classes} classes and the data {labels}")
    if isinstance(model, Net2NetTransformerConfig) and model.classes >= model.vocabulary:
        raise UsageError(f"{model.classes} labels, and no label, are read as tokens; there are only {model.vocabulary}")
