"""The edge autoencoder: a vector-quantised autoencoder made for cheap decoding.

Published decoders spend most of their time in convolutions at full resolution. Here none runs above a quarter of it:
a pixel-unshuffle stem folds 4x4 pixels into channels and a pixel-shuffle head unfolds them. The decoder uses no spatial
statistics (no group norm, no attention), so a tile with its halo decodes to exactly the pixels of the whole. Its batch
norms follow convolutions, and every runtime folds them in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.errors import UsageError
from smalti_train.models.quantizer import CosineQuantizer, Quantized
from smalti_train.models.smoothing import EdgeAwareSmoothing

STEM = 4
"""Pixels folded into channels along each axis by the stem and unfolded by the head."""


@dataclass(frozen=True)
class EdgeAutoencoderConfig:
    """Sizes of an edge autoencoder; one token stands for ``4 * 2 ** (len(channels) - 1)`` pixels along each axis."""

    codes: int = 1024
    """K, entries of the codebook."""
    code_dim: int = 32
    """D, dimensions of a code."""
    channels: tuple[int, ...] = (64, 128, 256)
    """Channels per level, finest first; each level halves the resolution of the one before."""
    encoder_blocks: tuple[int, ...] = (0, 1, 1)
    """Residual blocks per level of the encoder, finest first."""
    decoder_blocks: tuple[int, ...] = (1, 1, 2)
    """Residual blocks per level of the decoder, finest first."""
    padding: Literal["zeros", "replicate"] = "zeros"
    """Padding of the encoder's convolutions. With zeros some codes come to mean borders, and show as seams in canvases;
    ``replicate`` repeats the outermost cells and avoids that."""
    smoothing: tuple[int, ...] = ()
    """Distance to the neighbours, in pixels, for each pass of the decoder's final smoothing
    (``smalti_train.models.smoothing``), each less than ``factor``; empty: no smoothing."""

    def __post_init__(self) -> None:
        """Check the smoothing's distances. Raises UsageError, saying what is allowed."""
        if not all(1 <= distance < self.factor for distance in self.smoothing):
            raise UsageError(f"smoothing {self.smoothing}: distances are 1 .. {self.factor - 1} pixels")

    @property
    def factor(self) -> int:
        """Pixels per token along each axis (the f of "f=16")."""
        return STEM * 2 ** (len(self.channels) - 1)

    @property
    def value_range(self) -> tuple[float, float]:
        """Black and white of its images."""
        return -1.0, 1.0

    @property
    def halo(self) -> int:
        """Tokens around a tile that its decoded pixels can depend on (receptive-field radius, rounded up).

        Each 3x3 convolution reaches one cell further at its own resolution: there is one before the first block at the
        token level, two per residual block, and one in the head at the finest level. Each pass of the smoothing reaches
        as many pixels as its distance.
        """
        finest = 2 ** (len(self.channels) - 1)
        cells = finest + 1  # the first convolution at the token level, the head at the finest
        cells += sum(2 * blocks * 2**level for level, blocks in enumerate(self.decoder_blocks))
        return -(-(STEM * cells + sum(self.smoothing)) // self.factor)

    @property
    def encoder_halo(self) -> int:
        """Tokens around one that its encoding can depend on (receptive-field radius, rounded up).

        Convolutions reach as in :attr:`halo`: one at the stem, one between two levels, two in each residual block.
        """
        cells = 1 + sum(2 ** (level - 1) for level in range(1, len(self.channels)))
        cells += sum(2 * blocks * 2**level for level, blocks in enumerate(self.encoder_blocks))
        return -(-STEM * cells // self.factor)


def conv_bn(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, padding: Literal["zeros", "replicate"] = "zeros"
) -> nn.Sequential:
    """Build a convolution and the batch norm that folds into it."""
    kind = nn.Conv2d if padding == "zeros" else ReplicatingConv2d
    conv = kind(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False, padding_mode=padding)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class ReplicatingConv2d(nn.Conv2d):
    """A 3x3 convolution with ``padding_mode="replicate"`` that trains compiled.

    torch 2.13 cannot compile the gradient of its own padding where channels lie last.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Float [B, C, h, w] to [B, outputs, h / stride, w / stride]."""
        if not self.training:
            return super().forward(input)
        high = torch.cat([input[:, :, :1], input, input[:, :, -1:]], 2)
        padded = torch.cat([high[..., :1], high, high[..., -1:]], 3)
        return F.conv2d(padded, self.weight, self.bias, self.stride)


class ResidualBlock(nn.Module):
    """x + BN(conv(relu(BN(conv(x))))); both norms fold away; the second starts at zero, so a block starts as x."""

    def __init__(self, channels: int, padding: Literal["zeros", "replicate"] = "zeros") -> None:
        super().__init__()
        self.inner = conv_bn(channels, channels, padding=padding)
        self.outer = conv_bn(channels, channels, padding=padding)
        norm = self.outer[1]
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.zeros_(norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, C, h, w] to the same shape."""
        return x + self.outer(torch.relu(self.inner(x)))


class EdgeAutoencoder(nn.Module):
    """Images float [B, 3, H, W] in [-1, 1] (H, W multiples of ``config.factor``) to tokens [B, H/f, W/f] and back."""

    def __init__(self, config: EdgeAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        channels, padding = config.channels, config.padding
        stem = conv_bn(3 * STEM**2, channels[0], padding=padding)
        encoder: list[nn.Module] = [nn.PixelUnshuffle(STEM), stem, nn.ReLU()]
        for level, blocks in enumerate(config.encoder_blocks):
            if level:
                encoder += [conv_bn(channels[level - 1], channels[level], stride=2, padding=padding), nn.ReLU()]
            encoder += [ResidualBlock(channels[level], padding) for _ in range(blocks)]
        encoder.append(nn.Conv2d(channels[-1], config.code_dim, 1))
        self.encoder = nn.Sequential(*encoder)
        self.quantizer = CosineQuantizer(config.codes, config.code_dim)
        decoder: list[nn.Module] = [conv_bn(config.code_dim, channels[-1]), nn.ReLU()]
        for level in reversed(range(len(channels))):
            decoder += [ResidualBlock(channels[level]) for _ in range(config.decoder_blocks[level])]
            if level:
                decoder += [conv_bn(channels[level], 4 * channels[level - 1], kernel=1), nn.PixelShuffle(2), nn.ReLU()]
        decoder += [nn.Conv2d(channels[0], 3 * STEM**2, 3, padding=1), nn.PixelShuffle(STEM)]
        if config.smoothing:
            decoder.append(EdgeAwareSmoothing(config.smoothing))
        self.decoder = nn.Sequential(*decoder)

    def freeze_tokens(self) -> None:
        """Keep the weights of encoder and codebook from learning, so that tokens keep their meaning."""
        self.encoder.requires_grad_(False)
        self.quantizer.requires_grad_(False)

    def encode(self, images: Tensor) -> Tensor:
        """Tokens (int64 [B, H/f, W/f]) of ``images`` (float [B, 3, H, W] in [-1, 1])."""
        return self.quantizer.nearest(self.encoder(images))

    def decode(self, ids: Tensor) -> Tensor:
        """Images (float [B, 3, h*f, w*f], meant for [-1, 1] but not clipped) of tokens (int [B, h, w])."""
        return self.decoder(self.quantizer.lookup(ids))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Quantized]:
        """Reconstructions, the encoder's features (float [B, D, h, w]) and their quantisation."""
        features = self.encoder(images)
        quantized = self.quantizer(features)
        return self.decoder(quantized.z_q), features, quantized
