"""Losses of edge autoencoders, and the perceptual loss on EffNet-Lite0's features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smalti_train.models.effnet_lite import EffNetLite0
from smalti_train.models.quantizer import Quantized
from smalti_train.runs.config import AutoencoderLossConfig


def image_gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbouring pixels of float [B, C, H, W]: downwards [B, C, H-1, W], rightwards [B, C, H, W-1]."""
    return images[:, :, 1:] - images[:, :, :-1], images[:, :, :, 1:] - images[:, :, :, :-1]


def reconstruction_loss(reconstruction: Tensor, images: Tensor, weights: AutoencoderLossConfig) -> dict[str, Tensor]:
    """The pixel terms of the loss, and their weighted sum ``loss``.

    ``reconstruction`` and ``images`` are float [B, 3, H, W] in [-1, 1]; every value is a scalar.
    """
    difference = reconstruction - images
    down, right = image_gradients(difference)
    terms = {
        "l1": difference.abs().mean(),
        "mse": difference.square().mean(),
        "gradient": down.abs().mean() + right.abs().mean(),
    }
    terms["loss"] = weights.l1 * terms["l1"] + weights.mse * terms["mse"] + weights.gradient * terms["gradient"]
    return terms


def autoencoder_loss(
    reconstruction: Tensor, images: Tensor, quantized: Quantized, weights: AutoencoderLossConfig
) -> dict[str, Tensor]:
    """The terms of Bond-Taylor et al. 2021, eq. 5, with a pixel loss as reconstruction term, and the weighted ``loss``.

    ``reconstruction`` and ``images`` are float [B, 3, H, W] in [-1, 1]; every value is a scalar.
    """
    terms = reconstruction_loss(reconstruction, images, weights)
    terms |= {"codebook": quantized.codebook_loss, "commitment": quantized.commitment_loss}
    terms["loss"] = terms["loss"] + weights.codebook * terms["codebook"] + weights.beta * terms["commitment"]
    if quantized.crowding is not None:
        terms["crowding"] = quantized.crowding
        terms["loss"] = terms["loss"] + weights.even * terms["crowding"]
    return terms


class PerceptualLoss(nn.Module):
    """Distance of reconstructions from images in the features of EffNet-Lite0's stages 2 to 5 (Johnson et al. 2016).

    The mean absolute difference of each stage, divided by the images' mean absolute feature, averaged over the stages:
    0 for equal images, about 1 for unrelated ones, whatever the scale of a stage.
    """

    STAGES = (2, 3, 4, 5)

    def __init__(self, crop: int) -> None:
        super().__init__()
        self.crop = crop
        self.network = EffNetLite0()

    def forward(
        self,
        reconstruction: Tensor,
        images: Tensor,
        generator: torch.Generator,
        value_range: tuple[float, float] = (-1.0, 1.0),
    ) -> Tensor:
        """Scalar distance of float [B, 3, H, W] in ``value_range``, on one random crop for the whole batch."""
        black, white = value_range
        scale = 255 / (white - black)
        top, left = (
            int(torch.randint(max(0, side - self.crop) + 1, (), generator=generator)) for side in images.shape[2:]
        )
        window = (..., slice(top, top + self.crop), slice(left, left + self.crop))
        with torch.no_grad():
            wanted = self.network.taps((images[window] - black) * scale, self.STAGES)
        found = self.network.taps((reconstruction[window] - black) * scale, self.STAGES)
        parts = [
            (ours.float() - real.float()).abs().mean() / real.float().abs().mean()
            for ours, real in zip(found, wanted, strict=True)
        ]
        return torch.stack(parts).mean()
