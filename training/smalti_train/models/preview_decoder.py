"""The preview decoder: a small net for rough pictures of a grid, finished or not.

It is distilled from an autoencoder's decoder (``smalti_train.trainers.preview``). All but one of its convolutions run
at the resolution of the tokens; pixel shuffles enlarge the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class PreviewDecoderConfig:
    """Sizes of a preview decoder."""

    codes: int = 1024
    """K of its autoencoder; token K stands for a token not drawn yet."""
    factor: int = 16
    """Pixels per token along each axis."""
    width: int = 96
    """Channels at the resolution of the tokens."""
    blocks: int = 3
    """3x3 convolutions at the resolution of the tokens; each reaches one token further."""
    fine: int = 32
    """Channels of the last convolution, where one cell is ``tail`` pixels wide."""

    @property
    def tail(self) -> int:
        """Pixels per cell of the last convolution, along each axis."""
        return next(side for side in (4, 2, 1) if self.factor % side == 0)

    @property
    def halo(self) -> int:
        """Tokens around a tile that its pixels can depend on: one per block, at most one for the last convolution."""
        return self.blocks + 1

    @property
    def value_range(self) -> tuple[float, float]:
        """Black and white of its images."""
        return -1.0, 1.0


class PreviewDecoder(nn.Module):
    """Tokens int [B, h, w] of 0 .. K to images float [B, 3, h*f, w*f], meant for [-1, 1] but not clipped."""

    def __init__(self, config: PreviewDecoderConfig) -> None:
        super().__init__()
        self.config = config
        width, fine, tail = config.width, config.fine, config.tail
        steps = config.factor // tail
        self.embedding = nn.Embedding(config.codes + 1, width)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(config.blocks))
        self.to_fine = nn.Sequential(nn.Conv2d(width, fine * steps**2, 1), nn.PixelShuffle(steps), nn.ReLU())
        self.to_pixels = nn.Sequential(nn.Conv2d(fine, 3 * tail**2, 3, padding=1), nn.PixelShuffle(tail))

    def forward(self, tokens: Tensor) -> Tensor:
        """Decode roughly."""
        x = F.embedding(tokens, self.embedding.weight).permute(0, 3, 1, 2)
        for block in self.blocks:
            x = x + block(torch.relu(x))
        return self.to_pixels(self.to_fine(x))
