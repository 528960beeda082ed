"""Pixels as tokens, in place of an autoencoder: for priors that draw small grey images directly.

See McKinney and Willcocks 2022, section 4.2. Each grey level of a pixel is a code. There is nothing to train. The
runtime has the same tables (``smalti.codec.grey``), so a bundle needs no graph for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from smalti.codec import grey
from smalti.errors import UsageError
from smalti_train.data.tensors import from_numpy

LEVELS = 256
"""Grey levels of eight bits."""


@dataclass(frozen=True)
class PixelCodesConfig:
    """Grey levels as codes, one pixel a token."""

    codes: int = LEVELS
    """K, 2 .. 256: token k is the grey value round(255 k / (K - 1)). The paper uses 256."""

    def __post_init__(self) -> None:
        """Check the number of levels. Raises UsageError, saying which are allowed."""
        if not 2 <= self.codes <= LEVELS:
            raise UsageError(f"codes {self.codes}: pixels have 2 .. {LEVELS} grey levels")

    @property
    def factor(self) -> int:
        """Pixels per token along each axis."""
        return 1

    @property
    def value_range(self) -> tuple[float, float]:
        """Black and white of its images."""
        return -1.0, 1.0

    @property
    def encoder_halo(self) -> int:
        """Tokens around one that its encoding can depend on: none."""
        return 0

    @property
    def halo(self) -> int:
        """Tokens around a tile that its pixels depend on."""
        return 0


class PixelCodes(nn.Module):
    """Images float [B, 3, H, W] in [-1, 1] to tokens [B, H, W] and back; colours become grey."""

    levels: Tensor
    """float32 [K]: the value of each token."""
    nearest: Tensor
    """int64 [256]: the token of each grey value."""

    def __init__(self, config: PixelCodesConfig) -> None:
        super().__init__()
        self.config = config
        tokens, values = np.arange(config.codes, dtype=np.int32), np.arange(LEVELS, dtype=np.uint8)
        levels = grey.to_pixels(tokens[None, None], config.codes)[0, 0, :, 0]
        nearest = grey.to_tokens(np.broadcast_to(values[None, None, :, None], (1, 1, LEVELS, 3)), config.codes)[0, 0]
        # No weights: a checkpoint of this model is empty.
        self.register_buffer("levels", from_numpy(levels).float() * (2 / (LEVELS - 1)) - 1, persistent=False)
        self.register_buffer("nearest", from_numpy(nearest.astype(np.int64)), persistent=False)

    def encode(self, images: Tensor) -> Tensor:
        """Tokens (int64 [B, H, W]) of ``images`` (float [B, 3, H, W] in [-1, 1], clipped): the nearest grey levels.

        They equal those of :func:`smalti.codec.grey.to_tokens` for the same pixels.
        """
        values = ((images.float().clamp(-1, 1) + 1) * ((LEVELS - 1) / 2)).round().long()
        red, green, blue = (value * weight for value, weight in zip(values.unbind(1), grey.LUMINANCE))
        return self.nearest[(red + green + blue + (1 << 15)) >> 16]

    def decode(self, ids: Tensor) -> Tensor:
        """Grey images (float32 [B, 3, H, W] in [-1, 1]) of tokens (int [B, H, W])."""
        return self.levels[ids][:, None].expand(-1, 3, -1, -1)
