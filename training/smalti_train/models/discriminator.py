"""PatchGAN (Isola et al. 2017): a convolutional discriminator that judges overlapping patches."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from smalti.errors import UsageError

WIDEST = 8
"""Channels grow to this many times ``filters`` and no further."""


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Sizes of a discriminator; three layers see patches of 70x70 pixels."""

    filters: int = 64
    """Channels of the first convolution; they double from layer to layer, up to eightfold."""
    layers: int = 3
    """Convolutions that halve the size."""

    def __post_init__(self) -> None:
        """Check the sizes. Raises UsageError, saying what is wrong."""
        if self.filters < 1 or self.layers < 1:
            raise UsageError(f"a discriminator has at least one layer of at least one filter, unlike {self}")


class Discriminator(nn.Module):
    """Images float [B, 3, H, W] to logits [B, 1, h, w], positive for real; H, W from 3 * 2 ** layers.

    ``main`` and its numbers are as in published checkpoints, so that ``disc.main.`` loads unchanged.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        widths = [config.filters * min(2**layer, WIDEST) for layer in range(config.layers + 1)]
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for layer, (before, width) in enumerate(pairwise(widths), start=1):
            stride = 2 if layer < config.layers else 1
            conv = nn.Conv2d(before, width, 4, stride=stride, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.LeakyReLU(0.2)]
        layers.append(nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.main = nn.Sequential(*layers)
        for module in self.main:  # initialised as in pix2pix: narrower than torch's default, norms near one
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1, 0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Judge."""
        return self.main(images)
