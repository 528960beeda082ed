"""Some of the tokens of a grid: what is asked of a prior."""

from __future__ import annotations

import torch
from torch import Tensor


def at_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Take the tokens at ``rows`` (int [B, R], raster positions) of [B, n, C]; return [B, R, C]."""
    return torch.gather(x, 1, rows[..., None].expand(-1, -1, x.shape[-1]))
