"""Gumbel-softmax quantisation (Jang et al. 2017; Ramesh et al. 2021): soft draws of codes from logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 160_000
"""Steps in which the temperature would fall from 1 to 0, but for its floor 1/16 (Bond-Taylor et al. 2021, code)."""
COLDEST = 1 / 16


def gumbel_temperature(step: int, steps: int = STEPS) -> float:
    """Temperature at a training step: tau = max(1/16, 1 - step / ``steps``)."""
    return max(COLDEST, 1 - step / steps)


@dataclass
class GumbelQuantized:
    """Result of quantisation in training."""

    z_q: Tensor
    """float [B, D, h, w]: mixtures of codes (single codes where ``hard``)."""
    ids: Tensor
    """int64 [B, h, w], 0 .. K - 1: the code with the greatest share."""
    kl: Tensor
    """Scalar: KL(q || uniform) in nats per token, sum over codes of q log(q K); that code weighs it by 1e-8."""


class GumbelQuantizer(nn.Module):
    """Maps float [B, C, h, w] to logits over K codes, and these to codes: drawn in training, else the likeliest."""

    def __init__(self, codes: int, dim: int, inputs: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, codes, 1)
        self.embed = nn.Embedding(codes, dim)

    def nearest(self, z: Tensor) -> Tensor:
        """Ids (int64 [B, h, w]) of the likeliest codes of features ``z`` (float [B, C, h, w]).

        The published code draws even in evaluation; a bundle's tokens must depend on the image alone.
        """
        return self.proj(z).argmax(dim=1)

    def lookup(self, ids: Tensor) -> Tensor:
        """Codes (float [B, D, h, w]) of ``ids`` (int [B, h, w])."""
        return self.embed(ids).permute(0, 3, 1, 2)

    def forward(
        self,
        z: Tensor,
        temperature: float = 1.0,
        hard: bool = False,
        generator: torch.Generator | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> GumbelQuantized:
        """Quantise features ``z`` (float [B, C, h, w]); ``temperature`` > 0.

        In training mode codes mix by softmax((logits + g) / temperature), with Gumbel noise g from ``generator``;
        ``hard`` takes the code with the greatest share, with the mixture's gradient. In eval mode nothing is drawn.
        ``part`` (i, n) says that ``z`` is the i-th of n equal parts of a batch; noise is drawn for the whole batch, so
        that it does not depend on the number of processes.
        """
        logits = self.proj(z).float()
        log_q = logits.log_softmax(dim=1)
        kl = (log_q.exp() * (log_q + math.log(logits.shape[1]))).sum(dim=1).mean()
        if not self.training:
            ids = logits.argmax(dim=1)
            return GumbelQuantized(self.lookup(ids), ids, kl)
        device = logits.device if generator is None else generator.device
        whole = (part[1] * len(logits), *logits.shape[1:])
        noise = torch.empty(whole, device=device).exponential_(generator=generator).log_().neg_()
        noise = noise[part[0] * len(logits) : (part[0] + 1) * len(logits)]
        shares = ((logits + noise.to(logits.device)) / temperature).softmax(dim=1)
        ids = shares.argmax(dim=1)
        if hard:
            chosen = F.one_hot(ids, logits.shape[1]).permute(0, 3, 1, 2).to(shares.dtype)
            shares = chosen + shares - shares.detach()
        return GumbelQuantized(torch.einsum("bkhw,kd->bdhw", shares, self.embed.weight), ids, kl)
