"""From a grid of tokens to a coarser one and back ("2D-aware downsampling").

See McKinney and Willcocks 2022, section 3.2. A patch of ``shorten`` = (rows, columns) tokens becomes one. (2, 2)
shortens both axes; (1, 4) shortens one axis only, as in raster order (Nawrot et al. 2021). Parameters carry their
published names.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

Pair = tuple[int, int]


def patches(x: Tensor, grid: Pair, shorten: Pair) -> Tensor:
    """Group the tokens of each patch: [B, h*w, C] to [B, patches, tokens of a patch, C]."""
    (h, w), (down, right) = grid, shorten
    x = x.reshape(-1, h // down, down, w // right, right, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, h // down * (w // right), down * right, x.shape[-1])


def unpatched(x: Tensor, grid: Pair, shorten: Pair) -> Tensor:
    """Undo :func:`patches`: [B, patches, tokens of a patch, C] to [B, h*w, C]; ``grid`` is the finer one."""
    (h, w), (down, right) = grid, shorten
    x = x.reshape(-1, h // down, w // right, down, right, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, h * w, x.shape[-1])


class Downsample(nn.Module):
    """Every patch to one token: a linear map of its tokens, or with ``naive`` their mean."""

    def __init__(self, width: int, shorten: Pair, naive: bool) -> None:
        super().__init__()
        self.shorten = shorten
        self.proj = None if naive else nn.Linear(math.prod(shorten) * width, width)

    def forward(self, x: Tensor, grid: Pair) -> Tensor:
        """Float [B, h*w, width] to [B, patches, width]."""
        parts = patches(x, grid, self.shorten)
        if self.proj is None:
            return parts.mean(dim=2)
        return self.proj(parts.transpose(2, 3).flatten(2))  # published weights have a patch's tokens innermost


class Upsample(nn.Module):
    """One token to every token of its patch: a linear map for each, or with ``naive`` a copy."""

    def __init__(self, width: int, shorten: Pair, naive: bool) -> None:
        super().__init__()
        self.shorten = shorten
        self.proj = None if naive else nn.Linear(width, math.prod(shorten) * width)

    def forward(self, x: Tensor, grid: Pair) -> Tensor:
        """Float [B, patches, width] to [B, h*w, width]; ``grid`` is the result's."""
        count = math.prod(self.shorten)
        if self.proj is None:
            parts = x[:, :, None].expand(-1, -1, count, -1)
        else:
            parts = self.proj(x).unflatten(2, (-1, count)).transpose(2, 3)
        return unpatched(parts, grid, self.shorten)
