"""Likelihood of images under a VQGAN and a prior: a bound in bits per dimension.

See Bond-Taylor et al. 2021, section 4.1.1. The probabilistic head makes every pixel a Gaussian given the tokens z. With
images of ``bits`` bits, D = 3 H W values x in 0 .. 2^bits - 1, u uniform noise in [0, 1)^D,
v = black + (x + u) (white - black) / 2^bits, and any tokens z:

    bits per dimension <= ( - log N(v; mu(z), sigma(z)) + ELBO(z) + D log(2^bits / (white - black)) ) / (D log 2)

where ELBO(z) is the prior's upper bound on -log p(z) in nats. This holds because -log p(x) <= -log p(x, z) for any z,
and because with the noise a density of v bounds the probability of x (Theis et al. 2016). The released script leaves
out rounding and noise: it uses 8-bit images as v, which is no bound for 5-bit ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dequantized(images: Tensor, bits: int, value_range: tuple[float, float], generator: torch.Generator) -> Tensor:
    """v of the equation above, from ``images``; both float [B, 3, H, W] in ``value_range``.

    Values are rounded down to ``bits`` bits (of 32 levels, 8-bit 255 and 248 get the same), then noise is added.
    """
    black, white = value_range
    levels = 2**bits
    pixels = ((images - black) * (255 / (white - black))).round().clamp(0, 255)
    level = (pixels * (levels / 256)).floor()
    noise = torch.rand(images.shape, generator=generator, device=generator.device).to(images.device)
    return black + (level + noise) * ((white - black) / levels)


def gaussian_nats(values: Tensor, mean: Tensor, logsigma: Tensor) -> Tensor:
    """-log N(values; mean, exp(logsigma)) in nats per image (float [B]); all arguments are float [B, 3, H, W].

    Per value: (v - mu)^2 / (2 sigma^2) + log sigma + log(2 pi) / 2. The mean over images is the head's loss.
    """
    error = (values - mean) * torch.exp(-logsigma)
    return (error.square() / 2 + logsigma + math.log(2 * math.pi) / 2).flatten(1).sum(dim=1)


def bits_per_dimension(
    pixel_nats: Tensor, prior_nats: Tensor, dimensions: int, bits: int, value_range: tuple[float, float]
) -> Tensor:
    """The bound above per image (float [B]), from :func:`gaussian_nats` and the prior's bound (both float [B], nats).

    ``dimensions`` is D = 3 H W.
    """
    volume = dimensions * math.log(2**bits / (value_range[1] - value_range[0]))
    return (pixel_nats + prior_nats + volume) / (dimensions * math.log(2))
