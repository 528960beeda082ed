"""Cosine vector quantisation with straight-through gradients.

Bond-Taylor et al. 2021, eq. 4, picks the nearest code by Euclidean distance. Here features and codes have unit length
(Yu et al. 2021, ViT-VQGAN), so that the nearest code is the one with the greatest cosine. The lookup is one matrix
product and an argmax, fast in every runtime, and codes cannot drift out of reach by their norms.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Quantized:
    """Result of quantisation in training."""

    z_q: Tensor
    """float [B, D, h, w]: unit-length codes; their gradient goes straight through to the encoder."""
    ids: Tensor
    """int64 [B, h, w], 0 .. K - 1."""
    codebook_loss: Tensor
    """Scalar: mean squared distance that pulls codes to features (eq. 5, second term)."""
    commitment_loss: Tensor
    """Scalar: the same distance, pulling features to codes (eq. 5, third term; beta belongs here)."""
    crowding: Tensor | None = None
    """Scalar >= 0: nats by which the mean use of codes falls short of an even use, see :func:`crowding`. None where a
    quantiser does not measure it."""


def full_precision(z: Tensor) -> AbstractContextManager[object]:
    """Context without autocast: bf16 is too coarse to find the most similar of many codes."""
    kind = z.device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if on else nullcontext()


SHARPNESS = 20.0
"""Sharpness of the soft assignment of features to codes in :func:`crowding`: exp(20 * cosine)."""


def crowding(similarity: Tensor) -> Tensor:
    """Nats (scalar >= 0) by which the codes' mean use falls short of an even use.

    ``similarity`` float [N, K] holds the cosines of features and codes. Yu et al. (2023, MAGVIT-v2) maximise the
    entropy of the mean assignment to keep a large codebook in use. Assignments are soft, so that it has a gradient.
    """
    mean = torch.softmax(SHARPNESS * similarity, dim=1).mean(0)
    return math.log(len(mean)) + (mean * mean.clamp(min=1e-12).log()).sum()


class CosineQuantizer(nn.Module):
    """Maps float [B, D, h, w] to the most similar of K unit-length codes."""

    codebook: Tensor
    idle: Tensor

    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        self.measures_crowding = False
        """Whether :meth:`forward` measures ``crowding``, which needs a matrix of all features by all codes."""
        self.codebook = nn.Parameter(F.normalize(torch.randn(codes, dim), dim=1))
        self.register_buffer("idle", torch.zeros(codes), persistent=False)  # training steps since last used

    def nearest(self, z: Tensor) -> Tensor:
        """Ids (int64 [B, h, w]) of the codes most similar to features ``z`` (float [B, D, h, w])."""
        # The features' length does not change which code wins, so they are not normalised.
        with full_precision(z):
            similarity = torch.einsum("bdhw,kd->bhwk", z.float(), F.normalize(self.codebook, dim=1))
        return similarity.argmax(dim=-1)

    def lookup(self, ids: Tensor) -> Tensor:
        """Unit-length codes (float [B, D, h, w]) of ``ids`` (int [B, h, w])."""
        return F.embedding(ids, F.normalize(self.codebook, dim=1)).permute(0, 3, 1, 2)

    def forward(self, z: Tensor) -> Quantized:
        """Quantise features ``z`` (float [B, D, h, w])."""
        z = F.normalize(z.float(), dim=1)
        with torch.no_grad():
            ids = self.nearest(z)
        z_q = self.lookup(ids)
        codebook_loss = F.mse_loss(z_q, z.detach()) * z.shape[1]
        commitment_loss = F.mse_loss(z, z_q.detach()) * z.shape[1]
        uneven = None
        if self.measures_crowding:
            with full_precision(z):
                features = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
                uneven = crowding(features @ F.normalize(self.codebook, dim=1).T)
        return Quantized(z + (z_q - z).detach(), ids, codebook_loss, commitment_loss, uneven)

    @torch.no_grad()
    def reseed_idle(self, z: Tensor, ids: Tensor, patience: int, generator: torch.Generator) -> int:
        """Move codes unused for ``patience`` calls onto features of this batch; return how many were moved.

        ``z`` is float [B, D, h, w], ``ids`` int64 [B, h, w]. Without this most codes die in the first hundred steps,
        when the encoder's features move fast and nothing moves unused codes.
        """
        used = torch.bincount(ids.flatten(), minlength=self.codebook.shape[0]) > 0
        self.idle += 1
        self.idle[used] = 0
        dead = (self.idle >= patience).nonzero().flatten()
        features = F.normalize(z.float(), dim=1).permute(0, 2, 3, 1).reshape(-1, z.shape[1])
        dead = dead[: features.shape[0] // 4]  # at most a quarter of the batch's features become codes at once
        if len(dead):
            picks = torch.randperm(features.shape[0], generator=generator)[: len(dead)].to(features.device)
            self.codebook[dead] = features[picks]
            self.idle[dead] = 0
        return len(dead)
