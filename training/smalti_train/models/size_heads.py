"""Size heads: they decode the same tokens to pictures of twice and four times an edge decoder's size.

Vector art has little more detail at 1024 pixels than at 256: the edges are known, but drawn too coarsely. So each head
corrects the edges of the enlarged picture. It reads the decoder's last features, and none of its convolutions runs
above a quarter of its output's resolution.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.errors import UsageError
from smalti_train.models.edge_autoencoder import (
    STEM,
    EdgeAutoencoder,
    EdgeAutoencoderConfig,
    ResidualBlock,
    conv_bn,
)
from smalti_train.models.smoothing import EdgeAwareSmoothing

SCALES = (1, 2, 4)
"""Sizes of the pictures along each axis, in units of the decoder's own picture; the first is that picture."""
REACH = 2
"""Pixels around each one that the enlargement reads."""


@dataclass(frozen=True)
class SizedAutoencoderConfig:
    """Sizes of an edge autoencoder and of the heads on its decoder."""

    autoencoder: EdgeAutoencoderConfig = field(default_factory=EdgeAutoencoderConfig)
    width: int = 128
    """Channels of the heads at the features' resolution, a quarter of the decoder's own picture."""
    blocks: int = 2
    """Residual blocks at that resolution."""
    fine: tuple[int, int] = (48, 32)
    """Channels at twice and at four times that resolution."""
    fine_blocks: tuple[int, int] = (1, 1)
    """Residual blocks at twice and at four times that resolution."""

    @property
    def codes(self) -> int:
        """K, entries of the codebook."""
        return self.autoencoder.codes

    @property
    def factor(self) -> int:
        """Pixels per token along each axis, of the decoder's own picture."""
        return self.autoencoder.factor

    @property
    def value_range(self) -> tuple[float, float]:
        """Black and white of all pictures."""
        return self.autoencoder.value_range

    def halo(self, scale: int) -> int:
        """Tokens around a tile that its pixels at ``scale`` (of ``SCALES``) can depend on, rounded up."""
        if scale == 1:
            return self.autoencoder.halo
        finer = SCALES.index(scale)
        # Pixels of the decoder's own picture: one cell at a quarter of its resolution is ``STEM`` of them.
        reach = STEM * (1 + 2 * self.blocks)
        for level in range(finer):
            reach += STEM // 2 ** (level + 1) * 2 * self.fine_blocks[level]
        reach += -(-STEM // scale)  # the head's last convolution
        own = self.autoencoder.factor * self.autoencoder.halo  # an upper bound: the halo is rounded up
        return -(-(own + max(reach, REACH)) // self.autoencoder.factor)


class Enlargement(nn.Module):
    """Bicubic enlargement as a convolution and a pixel shuffle, fast in every runtime; without parameters."""

    kernel: Tensor

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.fold = STEM // scale
        """Pixels of the picture that are folded into channels along each axis before the convolution."""
        self.register_buffer("kernel", _enlarging(scale, self.fold), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Float [B, 3, H, W] to [B, 48, H / fold, W / fold]: the enlarged picture, pixel-unshuffled by ``STEM``."""
        reach = self.kernel.shape[-1] // 2 * self.fold
        padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
        if self.fold > 1:
            padded = F.pixel_unshuffle(padded, self.fold)
        return F.conv2d(padded, self.kernel.to(images.dtype))


def _enlarging(scale: int, fold: int) -> Tensor:
    """Kernel float32 [3 * STEM**2, 3 * fold**2, k, k] of the bicubic enlargement by ``scale``.

    It is read off the enlargement of single pixels.
    """
    cells = -(-REACH // fold)
    side = (2 * cells + 1) * fold
    impulses = torch.eye(side * side).reshape(side * side, 1, side, side)
    margin = 2 * REACH
    enlarged = F.interpolate(F.pad(impulses, (margin,) * 4), scale_factor=scale, mode="bicubic", align_corners=False)
    first = (cells * fold + margin) * scale
    response = enlarged[:, 0, first : first + STEM, first : first + STEM]  # of the middle cell's pixels, [side^2, 4, 4]
    response = response.reshape(2 * cells + 1, fold, 2 * cells + 1, fold, STEM**2)
    response = response.permute(4, 1, 3, 0, 2).reshape(STEM**2, fold**2, 2 * cells + 1, 2 * cells + 1)
    kernel = torch.zeros(3, STEM**2, 3, fold**2, 2 * cells + 1, 2 * cells + 1)
    for channel in range(3):
        kernel[channel, :, channel] = response
    return kernel.reshape(3 * STEM**2, 3 * fold**2, 2 * cells + 1, 2 * cells + 1)


class SizeHeads(nn.Module):
    """Decoder features and picture to pictures of twice and four times its size."""

    def __init__(self, config: SizedAutoencoderConfig) -> None:
        super().__init__()
        features, width = config.autoencoder.channels[0], config.width
        self.start = conv_bn(features + 3 * STEM**2, width)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(config.blocks)))
        self.up, self.levels, self.last, self.enlarge = (nn.ModuleList() for _ in range(4))
        for level, channels in enumerate(config.fine):
            self.up.append(conv_bn(width, 4 * channels, kernel=1))
            self.levels.append(nn.Sequential(*(ResidualBlock(channels) for _ in range(config.fine_blocks[level]))))
            last = nn.Conv2d(channels, 3 * STEM**2, 3, padding=1)
            for parameter in last.parameters():
                nn.init.zeros_(parameter)  # else the head learns to be silent before it learns to draw
            self.last.append(last)
            self.enlarge.append(Enlargement(SCALES[level + 1]))
            width = channels

    def forward(self, features: Tensor, picture: Tensor, scales: tuple[int, ...]) -> dict[int, Tensor]:
        """Pictures float32 [B, 3, s*H, s*W] by scale s of ``scales``, each 2 or 4.

        ``features`` float [B, C, H/4, W/4] and ``picture`` float32 [B, 3, H, W] come from the decoder.
        """
        x = torch.cat((features, F.pixel_unshuffle(picture, STEM).to(features.dtype)), dim=1)
        x = self.blocks(torch.relu(self.start(x)))
        made: dict[int, Tensor] = {}
        for level, scale in enumerate(SCALES[1:]):
            if not any(wanted >= scale for wanted in scales):
                break
            x = self.levels[level](torch.relu(F.pixel_shuffle(self.up[level](x), 2)))
            if scale in scales:
                added = self.last[level](x).float()
                made[scale] = F.pixel_shuffle(self.enlarge[level](picture) + added, STEM)
        return made


class SizedAutoencoder(nn.Module):
    """An edge autoencoder whose tokens decode to pictures of three sizes."""

    def __init__(self, config: SizedAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.autoencoder = EdgeAutoencoder(config.autoencoder)
        self.heads = SizeHeads(config)

    def encode(self, images: Tensor) -> Tensor:
        """Tokens (int64 [B, H/f, W/f]) of ``images`` (float [B, 3, H, W] in [-1, 1]), at the decoder's own size."""
        return self.autoencoder.encode(images)

    def decode(self, ids: Tensor, scale: int = 1) -> Tensor:
        """Images (float [B, 3, s*h*f, s*w*f], meant for [-1, 1] but not clipped) of tokens int [B, h, w].

        Raises UsageError for a ``scale`` s that is not in ``SCALES``.
        """
        if scale not in SCALES:
            raise UsageError(f"scale {scale}: allowed are {', '.join(map(str, SCALES))}")
        return self(ids, (scale,))[scale]

    def forward(self, ids: Tensor, scales: tuple[int, ...] = SCALES) -> dict[int, Tensor]:
        """Pictures for each scale in ``scales``; see :meth:`decode`."""
        features, picture = self.seen(ids)
        larger = tuple(scale for scale in scales if scale > 1)
        made: dict[int, Tensor] = self.heads(features, picture, larger) if larger else {}
        return {1: picture, **made} if 1 in scales else made

    def seen(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """What heads see of tokens int [B, h, w]: the decoder's last features, and its picture float32 [B, 3, H, W]."""
        decoder = self.autoencoder.decoder
        end = len(decoder) - 2 - isinstance(decoder[-1], EdgeAwareSmoothing)  # before the last convolution
        features = decoder[:end](self.autoencoder.quantizer.lookup(ids))
        return features, decoder[end:](features).float()
