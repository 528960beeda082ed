"""Vector quantisation by Euclidean distance, as in the published VQGANs (Bond-Taylor et al. 2021, eq. 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti_train.models.quantizer import Quantized, full_precision


class NearestQuantizer(nn.Module):
    """Maps float [B, D, h, w] to the nearest of K codes, with straight-through gradients."""

    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, dim)
        nn.init.uniform_(self.embedding.weight, -1 / codes, 1 / codes)

    def nearest(self, z: Tensor) -> Tensor:
        """Ids (int64 [B, h, w]) of the codes nearest to features ``z`` (float [B, D, h, w])."""
        codes = self.embedding.weight
        # |z - c|^2 without |z|^2, which is equal for all codes.
        with full_precision(z):
            distances = codes.square().sum(1) - 2 * torch.einsum("bdhw,kd->bhwk", z.float(), codes)
        return distances.argmin(dim=-1)

    def lookup(self, ids: Tensor) -> Tensor:
        """Codes (float [B, D, h, w]) of ``ids`` (int [B, h, w])."""
        return self.embedding(ids).permute(0, 3, 1, 2)

    def forward(self, z: Tensor) -> Quantized:
        """Quantise features ``z`` (float [B, D, h, w]).

        Both losses are means over the D dimensions too, as published; eq. 5 sums over them.
        """
        z = z.float()
        with torch.no_grad():
            ids = self.nearest(z)
        z_q = self.lookup(ids)
        codebook_loss = F.mse_loss(z_q, z.detach())
        commitment_loss = F.mse_loss(z, z_q.detach())
        return Quantized(z + (z_q - z).detach(), ids, codebook_loss, commitment_loss)
