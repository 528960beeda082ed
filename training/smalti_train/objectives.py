"""Absorbing diffusion's forward process, its losses, and the bound they come from (paper 000, section 3.2)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from smalti_train.config import Objective


def stratified_times(count: int, steps: int, generator: torch.Generator) -> Tensor:
    """Draw times t (int64 [count], 1 .. steps), one from each of ``count`` equal strata, in random order.

    Each is uniform by itself; together they cover the range, so that a batch's loss varies less from step to step.
    """
    offsets = (torch.rand(1, generator=generator) + torch.arange(count) / count) % 1.0
    times = (offsets * steps).long().clamp(max=steps - 1) + 1
    return times[torch.randperm(count, generator=generator)]


def absorb(
    tokens: Tensor, times: Tensor, steps: int, mask: int, generator: torch.Generator, at_least: Literal[0, 1] = 1
) -> Tensor:
    """Mask each token with probability t / T: q(z_t | z_0) of absorbing diffusion, T = ``steps``.

    ``tokens`` int64 [B, L], ``times`` int64 [B] in 1 .. T; returns int64 [B, L]. In training at least one
    token per sample is masked, since a sample without any teaches nothing; ``at_least`` 0 is q itself, for bounds.
    """
    noise = torch.rand(tokens.shape, generator=generator)
    hidden = noise < (times / steps)[:, None]
    if at_least:
        hidden.scatter_(1, noise.argmin(1, keepdim=True), True)
    return tokens.masked_fill(hidden.to(tokens.device), mask)


def absorbing_loss(
    logits: Tensor, tokens: Tensor, masked: Tensor, times: Tensor, steps: int, kind: Objective
) -> Tensor:
    """Loss per sample (float [B], nats per token of the grid) of predicting the masked tokens.

    ``logits`` float [B, L, K]; ``tokens`` int64 [B, L], the clean ones; ``masked`` bool [B, L]; ``times`` int64 [B].

    * ``reweighted``: eq. 7's weight (T - t + 1) / T on each term (not eq. 14's, whose sign is wrong).
    * ``elbo``: eq. 6's 1 / t; averaged over uniform t and multiplied by T it bounds the negative log-likelihood.
    * ``mlm``: the mean over masked tokens, as in masked language models; weights nothing by time.
    """
    losses = F.cross_entropy(logits.float().transpose(1, 2), tokens, reduction="none").masked_fill(~masked, 0).sum(1)
    if kind == "mlm":
        return losses / masked.sum(1)
    times = times.to(losses.device)
    weight = steps / times if kind == "elbo" else (steps - times + 1) / steps
    return weight * losses / tokens.shape[1]


def bits_per_dim(elbo: Tensor) -> float:
    """Turn the mean of ``elbo`` losses (nats per token) into bits per dimension, a dimension being a token."""
    return elbo.mean().item() / math.log(2)
