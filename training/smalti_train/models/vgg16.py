"""VGG16's convolutions (Simonyan and Zisserman 2015): features for evaluation, activations for a perceptual loss.

This is configuration D. Parameters carry torchvision's names. The activations are those that LPIPS (Zhang et al. 2018)
compares.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smalti.errors import UsageError

SIDE = 224
"""Pixels per side that the network was trained on; 32 is the least, 16 for ``taps``."""
DIM = 512
WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of the convolutions in each of the five stages; a stage ends in a max pool that halves the size."""
MEAN = (123.675, 116.28, 103.53)
"""Mean of ImageNet's red, green and blue, in 0 .. 255."""
DEVIATION = (58.395, 57.12, 57.375)
"""Standard deviations of ImageNet's red, green and blue, in 0 .. 255."""


class VGG16(nn.Module):
    """The network without its classifier; frozen, and always in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for stage in WIDTHS:
            for outputs in stage:
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> VGG16:
        """Stay in eval mode."""
        del mode
        return super().train(False)

    def taps(self, images: Tensor, stages: tuple[int, ...] = (1, 2, 3, 4, 5)) -> list[Tensor]:
        """Last activations of the given stages (1 .. 5) for ``images`` float [B, 3, H, W] in 0 .. 255.

        They are relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3, after the ReLU and before the pool: float
        [B, 64, H, W], [B, 128, H/2, W/2], [B, 256, H/4, W/4], [B, 512, H/8, W/8] and [B, 512, H/16, W/16]. Gradients
        reach the images. Raises UsageError for other stages.
        """
        if not stages or not set(stages) <= {1, 2, 3, 4, 5}:
            raise UsageError(f"VGG16 has the stages 1 to 5, not {stages}")
        x = normalised(images)
        found: dict[int, Tensor] = {}
        stage = 1
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                found[stage] = x
                if stage == max(stages):
                    break
                stage += 1
            x = layer(x)
        return [found[stage] for stage in stages]

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features (float [B, 512]) of ``images`` float [B, 3, H, W] in 0 .. 255: means after the last pool."""
        return self.features(normalised(images)).mean(dim=(2, 3))


def normalised(images: Tensor) -> Tensor:
    """Images (float [B, 3, H, W] in 0 .. 255), normalised by ImageNet's mean and deviation per channel."""
    planes = torch.split(images, 1, dim=1)
    return torch.cat([(plane - mean) / by for plane, mean, by in zip(planes, MEAN, DEVIATION)], dim=1)
