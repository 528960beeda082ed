"""LPIPS (Zhang et al. 2018), the perceptual loss of the published VQGANs, from the user's weights.

smalti ships no VGG16: users provide torchvision's ``vgg16-397923af.pth`` and LPIPS's linear heads ``vgg.pth``. Without
heads all channels have equal weight. The loss on EffNet-Lite0's features, which needs no download, is in
``smalti_train.objectives.losses``.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from smalti.errors import UsageError
from smalti_train.importers.fitting import Layout, Slot, fitted
from smalti_train.importers.reading import read_checkpoint
from smalti_train.importers.weight_files import open_weights
from smalti_train.models.vgg16 import VGG16, WIDTHS

CHANNELS = tuple(stage[-1] for stage in WIDTHS)
"""Channels of the five activations that are compared."""
EPS = 1e-10


class LPIPS(nn.Module):
    """Distance of images in VGG16's features; frozen, and always in eval mode.

    At every position of relu1_2 .. relu5_3 features are scaled to unit length. The squared difference is summed over
    channels with the heads' weights, averaged over positions, and summed over the five activations.
    """

    def __init__(self, network: VGG16, heads: list[Tensor] | None = None) -> None:
        super().__init__()
        self.network = network
        for index, channels in enumerate(CHANNELS):
            weight = torch.ones(channels) if heads is None else heads[index].detach().reshape(channels)
            self.register_buffer(f"head{index}", weight.view(1, channels, 1, 1))
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> LPIPS:
        """Stay in eval mode."""
        del mode
        return super().train(False)

    def forward(self, reconstruction: Tensor, images: Tensor, value_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
        """Distance per image (float [B]); images are float [B, 3, H, W] in ``value_range``, 16 pixels per side or more.

        LPIPS was fitted to images that use the whole range.
        """
        black, white = value_range
        scale = 255 / (white - black)
        with torch.no_grad():
            wanted = self.network.taps((images - black) * scale)
        found = self.network.taps((reconstruction - black) * scale)
        total = torch.zeros(len(images), device=images.device)
        for index, (ours, real) in enumerate(zip(found, wanted, strict=True)):
            difference = (_unit(ours.float()) - _unit(real.float())).square()
            total = total + (difference * self.get_buffer(f"head{index}")).sum(dim=1).mean(dim=(1, 2))
        return total


def open_lpips(vgg: Path, heads: Path | None = None) -> LPIPS:
    """Open LPIPS from torchvision's VGG16 and the published heads, if given (``lin0.model.1.weight`` .. ``lin4``).

    The heads may also be part of a whole checkpoint of LPIPS. Raises UsageError, naming the file, for other contents.
    """
    name, _, network, _ = open_weights(vgg)
    if not isinstance(network, VGG16):
        raise UsageError(f"{vgg} holds {name}; the perceptual loss needs torchvision's VGG16 (vgg16-397923af.pth)")
    return LPIPS(network, None if heads is None else read_heads(heads))


def read_heads(path: Path) -> list[Tensor]:
    """Read the weights of LPIPS's linear heads, five float [1, C, 1, 1].

    Raises UsageError, naming the file, for other contents.
    """
    names = [f"lin{index}.model.1.weight" for index in range(len(CHANNELS))]
    state = read_checkpoint(path)
    # A whole LPIPS also holds the network and fixed scales; newer ones hold the heads a second time as a list.
    spare = re.compile(r"net\.|lins\.|scaling_layer\.")
    layout: Layout = {name: Slot((1, channels, 1, 1), name) for name, channels in zip(names, CHANNELS)}
    try:
        weights = fitted(
            {name: value for name, value in state.items() if not spare.match(name)}, layout, "LPIPS's heads"
        )
    except UsageError as error:
        raise UsageError(f"{path}: {error}. Published as vgg.pth (LPIPS 0.1)") from None
    return [weights[name] for name in names]


def _unit(features: Tensor) -> Tensor:
    """Features (float [B, C, h, w]) at unit length per position."""
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + EPS)
