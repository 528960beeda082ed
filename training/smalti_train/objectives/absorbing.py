"""Masking, losses and bounds of absorbing diffusion and its autoregressive baseline.

Equations are those of Bond-Taylor et al. 2021, section 3.2. Losses are per sample, in nats per token of the grid;
:func:`bits_per_dim` turns bounds and likelihoods into bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.errors import UsageError
from smalti_train.runs.config import Objective


def stratified(count: int, generator: torch.Generator) -> Tensor:
    """Draw numbers (float32 [count], 0 .. 1), one from each of ``count`` equal strata, in random order.

    Each is uniform; together they cover the range, so that a batch's loss varies less from step to step.
    """
    offsets = (torch.rand(1, generator=generator) + torch.arange(count) / count) % 1.0
    return offsets[torch.randperm(count, generator=generator)]


def stratified_times(count: int, steps: int, generator: torch.Generator) -> Tensor:
    """Draw times t (int64 [count], 1 .. steps) from :func:`stratified` numbers."""
    return (stratified(count, generator) * steps).long().clamp(max=steps - 1) + 1


def absorb(
    tokens: Tensor, times: Tensor, steps: int, mask: int, generator: torch.Generator, at_least: Literal[0, 1] = 1
) -> Tensor:
    """Mask each token with probability t / T: q(z_t | z_0) of absorbing diffusion, T = ``steps``.

    ``tokens`` int64 [B, L], ``times`` int64 [B] in 1 .. T; returns int64 [B, L]. By default at least one token per
    sample is masked, since training learns nothing from none; ``at_least`` 0 gives exactly q, for bounds.
    """
    noise = torch.rand(tokens.shape, generator=generator)
    hidden = noise < (times / steps)[:, None]
    if at_least:
        hidden.scatter_(1, noise.argmin(1, keepdim=True), True)
    return tokens.masked_fill(hidden.to(tokens.device), mask)


def absorb_exactly(tokens: Tensor, times: Tensor, steps: int, mask: int, generator: torch.Generator) -> Tensor:
    """Mask round(t / T * L) tokens of each sample, at least one, uniformly chosen (the paper's "fixed" masking).

    ``tokens`` int64 [B, L], ``times`` int64 [B] in 1 .. T, T = ``steps``; returns int64 [B, L].
    """
    counts = torch.round(times / steps * tokens.shape[1]).clamp(min=1)
    ranks = torch.rand(tokens.shape, generator=generator).argsort(1).argsort(1)
    return tokens.masked_fill((ranks < counts[:, None]).to(tokens.device), mask)


def cross_entropies(logits: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy at every position: float32 [B, L], nats, of logits float [B, L, K] and tokens int64 [B, L]."""
    # With the codes as the innermost axis; torch takes twice as long where they come second.
    return F.cross_entropy(logits.float().flatten(0, 1), tokens.flatten(), reduction="none").view(tokens.shape)


def masked_rows(masked: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw ``count`` positions (int64 [B, count]) per sample, masked ones first, all equally likely.

    ``masked`` bool [B, L]. A sample with fewer masks also gets positions that are not masked.
    """
    keys = torch.rand(masked.shape, generator=generator) + ~masked.cpu()
    return keys.argsort(1)[:, :count].to(masked.device)


def absorbing_loss(
    logits: Tensor,
    tokens: Tensor,
    masked: Tensor,
    times: Tensor,
    steps: int,
    kind: Objective,
    released: bool = False,
    rows: Tensor | None = None,
) -> Tensor:
    """Loss per sample (float [B], nats per token of the grid) of predicting the masked tokens.

    ``logits`` float [B, L, K]; ``tokens`` int64 [B, L], the clean ones; ``masked`` bool [B, L]; ``times`` int64 [B].
    With ``rows`` int64 [B, R] (:func:`masked_rows`) the logits are float [B, R, K], of these positions alone, and the
    loss is an estimate without bias from them.

    * ``reweighted``: weight (T - t + 1) / T on each term (eq. 7; the sign in eq. 14 is wrong). ``released`` uses the
      released code's weight 1 - t / T instead, which leaves t = T out.
    * ``elbo``: weight 1 / t (eq. 6). T times its mean over uniform t bounds the negative log-likelihood.
    * ``mlm``: mean over the masked tokens, as in masked language models, without a weight by time.

    Raises UsageError for ``autoregressive`` (see :func:`autoregressive_loss`) and for ``sundae`` (see
    ``smalti_train.objectives.sundae``).
    """
    if kind in ("autoregressive", "sundae"):
        raise UsageError(f"the {kind} objective masks nothing; see autoregressive_loss and sundae_objective")
    length, count = tokens.shape[1], masked.sum(1).clamp(min=1)
    if rows is not None:
        tokens, masked = tokens.gather(1, rows), masked.gather(1, rows)
    mean = cross_entropies(logits, tokens).masked_fill(~masked, 0).sum(1) / masked.sum(1).clamp(min=1)
    if kind == "mlm":
        return mean
    times = times.to(mean.device)
    weight = steps / times if kind == "elbo" else (steps - times + (not released)) / steps
    return weight * mean * count / length


@torch.no_grad()
def elbo(denoise: Callable[[Tensor], Tensor], tokens: Tensor, steps: int, mask: int, seed: int = 0) -> Tensor:
    """Bound on the negative log-likelihood of each sample (float [B], nats per token): eq. 6 over every t = T .. 1.

    ``denoise`` maps masked tokens int64 [B, L] to logits float [B, L, K] and is called T = ``steps`` times; ``tokens``
    int64 [B, L]. ``seed`` decides which tokens are masked; nothing else is random.
    """
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(len(tokens), device=tokens.device)
    for time in range(steps, 0, -1):
        times = torch.full((len(tokens),), time)
        noisy = absorb(tokens, times, steps, mask, generator, at_least=0)
        total += absorbing_loss(denoise(noisy), tokens, noisy == mask, times, steps, "elbo") / steps
    return total


def autoregressive_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Exact negative log-likelihood of each sample (float [B], nats per token; eq. 1).

    ``tokens`` int64 [B, L]; ``logits`` float [B, L, K], row i for token i given the tokens before it: the output of
    ``AutoregressiveTransformer`` on ``tokens[:, :-1]`` (teacher forcing).
    """
    return cross_entropies(logits, tokens).mean(1)


def bits_per_dim(elbo: Tensor) -> float:
    """Mean of bounds or likelihoods (nats per token) in bits per dimension, where a dimension is a token."""
    return elbo.mean().item() / math.log(2)
