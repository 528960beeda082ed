"""Negative log-likelihood of tokens, or a bound on it, from a sampler's callable (torch model or bundle's graph)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from smalti.bundle.manifest import Noise
from smalti.families.absorbing.sampler import Denoiser
from smalti.families.autoregressive.sampler import NextLogits
from smalti.families.multinomial.sampler import AtTime
from smalti_train.data.tensors import distinct, from_numpy, listed
from smalti_train.objectives.multinomial import cosine_schedule, diffuse, draw_times, prior_kl, step_loss

Int32 = NDArray[np.int32]


def nll_bits(denoiser: Denoiser, tokens: Int32, labels: Int32, codes: int, seed: int = 0, batch: int = 16) -> float:
    """Upper bound on -log2 p(tokens | labels) in bits per token, averaged over grids int32 [N, L].

    This is absorbing diffusion's bound (Bond-Taylor et al. 2021, eq. 6) in its order-agnostic form: draw the number of
    masked tokens m uniformly from 1 .. L (stratified over the grids), then which ones; the estimate is L / m times the
    sum of their cross-entropies. Masks depend on ``seed`` alone, so figures differ by the model alone.
    """
    count, length = tokens.shape
    generator = np.random.default_rng(seed)
    masked = (((generator.permutation(count) + generator.random()) / count) % 1 * length).astype(np.int64) + 1
    order = generator.random(tokens.shape).argsort(axis=1)
    total = 0.0
    # Sort by count: a batch asks for as many rows as its greatest count.
    by_count = np.argsort(masked, kind="stable")
    for first in range(0, count, batch):
        chosen = by_count[first : first + batch]
        wide = int(masked[chosen].max())
        rows = order[chosen, :wide].astype(np.int32)
        wanted = np.arange(wide) < masked[chosen, None]
        noisy = tokens[chosen].copy()
        np.put_along_axis(noisy, rows, np.where(wanted, codes, np.take_along_axis(noisy, rows, 1)), 1)
        nats = _cross_entropy(denoiser(noisy, labels[chosen], rows), np.take_along_axis(tokens[chosen], rows, 1))
        total += float(((nats * wanted).sum(1) / masked[chosen]).sum())
    return total / count / np.log(2)


def diffusion_bits(
    at: AtTime, tokens: Int32, labels: Int32, codes: int, noise: Noise, seed: int = 0, batch: int = 16
) -> float:
    """Upper bound on -log2 p(tokens | labels) in bits per token, averaged over grids int32 [N, L].

    This is multinomial diffusion's bound (Hu et al. 2022, eq. 7), estimated from one time per grid, stratified over all
    T. Times and noise depend on ``seed`` alone. The term of the prior distribution is exact.
    """
    schedule, generator = cosine_schedule(noise.steps, noise.schedule), torch.Generator().manual_seed(seed)
    clean = from_numpy(tokens.astype(np.int64))
    t, _ = draw_times(len(tokens), schedule.steps, generator)
    noisy = diffuse(clean, t, schedule, codes, generator)
    rows = np.arange(tokens.shape[1], dtype=np.int32)
    total = len(tokens) * prior_kl(schedule, codes)
    # A denoiser is for one time: grids with equal times form a batch.
    for time in listed(distinct(t)):
        for chosen in torch.split((t == time).nonzero().flatten(), batch):
            some = chosen.numpy()
            asked = at(time)(noisy[chosen].int().numpy(), labels[some], np.tile(rows, (len(some), 1)))
            logits = from_numpy(asked)
            total += schedule.steps * float(step_loss(logits, clean[chosen], noisy[chosen], t[chosen], schedule).sum())
    return total / len(tokens) / np.log(2)


def exact_bits(predictor: NextLogits, tokens: Int32, labels: Int32, batch: int = 16) -> float:
    """-log2 p(tokens | labels) in bits per token, averaged over grids int32 [N, L], of an autoregressive prior.

    Makes one call per position, as in sampling; ``batch`` limits the predictor's memory.
    """
    total = 0.0
    for first in range(0, len(tokens), batch):
        grids, under = tokens[first : first + batch], labels[first : first + batch]
        for position in range(grids.shape[1]):
            logits = predictor(grids[:, :position], under)
            total += float(_cross_entropy(logits, grids[:, position]).sum())
    return total / tokens.size / np.log(2)


def _cross_entropy(logits: NDArray[np.floating[Any]], targets: Int32) -> NDArray[np.float64]:
    """-log softmax(logits [..., K]) at ``targets`` [...], in nats."""
    logits = logits.astype(np.float64)
    peak = logits.max(-1)
    log_total = peak + np.log(np.exp(logits - peak[..., None]).sum(-1))
    return log_total - np.take_along_axis(logits, targets[..., None], -1)[..., 0]
