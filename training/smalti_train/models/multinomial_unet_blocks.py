"""Parts of the U-Net of Hu et al. 2022: time embedding, residual blocks and attention.

Modules nest as in the published code, so that parameters carry the names of published checkpoints. Unless said
otherwise, a module maps float [B, C, h, w] to the same shape.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti_train.data.tensors import listed

GROUPS = 8
"""Groups of every norm; channels are multiples of it."""
HEADS, HEAD_DIM = 4, 32
"""Heads and dimensions per head of every attention."""
TIME_SPAN = 4000
"""Steps that the time embedding was made for; other numbers of steps are scaled to the same range."""


def time_rates(width: int) -> tuple[float, ...]:
    """Angles per step of a time embedding of ``width`` dimensions (even, from 4), float32 values [width / 2].

    Wavelengths grow geometrically by a factor of 10,000 in all, as in Vaswani et al. 2017. They are constants: times in
    the thousands amplify errors in the last digit, in which implementations of the exponential differ.
    """
    half = width // 2
    return tuple(listed(torch.exp(torch.arange(half, device="cpu") * (-math.log(10_000) / (half - 1)))))


def time_embedding(times: Tensor, steps: int, rates: tuple[float, ...]) -> Tensor:
    """Sines and cosines (float32 [B, 2 * len(rates)]) of ``times`` (int [B] in 0 .. steps - 1)."""
    angles = (times * (TIME_SPAN / steps))[:, None] * torch.tensor(rates, device=times.device)
    return torch.cat((angles.sin(), angles.cos()), dim=1)


class ConvBlock(nn.Module):
    """mish(norm(conv(x))): float [B, inputs, h, w] to [B, outputs, h, w]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(GROUPS, outputs), nn.Mish())

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        return self.block(x)


class ResidualBlock(nn.Module):
    """Two convolutions with the time added in between, plus x (or a 1x1 convolution of it where channels change)."""

    def __init__(self, inputs: int, outputs: int, times: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(times, outputs))
        self.block1 = ConvBlock(inputs, outputs)
        self.block2 = ConvBlock(outputs, outputs)
        self.res_conv = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Float [B, inputs, h, w] and the embedded time, float [B, times], to [B, outputs, h, w]."""
        y = self.block1(x) + self.mlp(time)[:, :, None, None]
        return self.block2(y) + self.res_conv(x)


class Attention(nn.Module):
    """Attention between positions; subclasses define ``mix``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_qkv = nn.Conv2d(channels, 3 * HEADS * HEAD_DIM, 1, bias=False)
        self.to_out = nn.Conv2d(HEADS * HEAD_DIM, channels, 1)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Float [B, HEADS, HEAD_DIM, n] each to the same shape."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        q, k, v = self.to_qkv(x).unflatten(1, (3, HEADS, HEAD_DIM)).flatten(4).unbind(1)
        return self.to_out(self.mix(q, k, v).flatten(1, 2).unflatten(2, x.shape[2:]))


class LinearAttention(Attention):
    """Attention without a matrix of all pairs (Shen et al. 2018), as released: keys get a softmax over positions.

    Queries are neither scaled nor normalised.
    """

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Sum the values by the keys once, then read the sums by every query."""
        sums = v @ k.softmax(dim=-1).transpose(2, 3)  # [B, HEADS, of values, of keys]
        return sums @ q


class FullAttention(Attention):
    """Attention of all pairs of positions (Vaswani et al. 2017), as in the paper."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Softmax of scaled products over all positions."""
        q, k, v = (part.transpose(2, 3) for part in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(2, 3)


class ReZero(nn.Module):
    """g * fn(x), with g starting at zero (Bachlechner et al. 2020)."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.zeros(1))
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        """Apply."""
        return self.g * self.fn(x)


class Skip(nn.Module):
    """x + fn(x)."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        """Apply."""
        return x + self.fn(x)


class Downsample(nn.Module):
    """Halve the size by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, C, h, w] (h, w even) to [B, C, h/2, w/2]."""
        return self.conv(x)


class Upsample(nn.Module):
    """Double the size by a transposed convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, C, h, w] to [B, C, 2h, 2w]."""
        return self.conv(x)
