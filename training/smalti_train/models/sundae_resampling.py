"""From a grid of tokens to a coarser one and back (paper 003, section 3.2, "2D-aware downsampling").

A patch of ``shorten`` = (rows, columns) tokens becomes one. (2, 2) shortens both axes alike; (1, 4) is what flattening
in raster order does, which shortens one of them alone (Nawrot et al. 2021). Parameters carry their published names.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

Pair = tuple[int, int]


def patches(x: Tensor, grid: Pair, shorten: Pair) -> Tensor:
    """The tokens of each patch beside each other: [B, h*w, C] to [B, patches, tokens of a patch, C]."""
    (h, w), (down, right) = grid, shorten
    x = x.reshape(-1, h // down, down, w // right, right, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, h // down * (w // right), down * right, x.shape[-1])


def unpatched(x: Tensor, grid: Pair, shorten: Pair) -> Tensor:
    """Undo :func:`patches`: [B, patches, tokens of a patch, C] to [B, h*w, C]; ``grid`` is the finer one."""
    (h, w), (down, right) = grid, shorten
    x = x.reshape(-1, h // down, w // right, down, right, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, h * w, x.shape[-1])


class Downsample(nn.Module):
    """One token of every patch: a linear map of all its tokens, or ``naive``, their mean."""

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
    """Every patch's tokens from one: a linear map of it for each of them, or ``naive``, a copy."""

    def __init__(self, width: int, shorten: Pair, naive: bool) -> None:
        super().__init__()
        self.shorten = shorten
        self.proj = None if naive else nn.Linear(width, math.prod(shorten) * width)

    def forward(self, x: Tensor, grid: Pair) -> Tensor:
        """Float [B, patches, width] to [B, h*w, width]; ``grid`` is that of the result."""
        count = math.prod(self.shorten)
        if self.proj is None:
            parts = x[:, :, None].expand(-1, -1, count, -1)
        else:
            parts = self.proj(x).unflatten(2, (-1, count)).transpose(2, 3)
        return unpatched(parts, grid, self.shorten)
