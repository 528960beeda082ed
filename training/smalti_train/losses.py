"""The autoencoder's loss and the figures its reconstructions are judged by."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from smalti_train.config import AutoencoderLossConfig
from smalti_train.models.quantizer import Quantized


def image_gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbouring pixels of float [B, C, H, W]: downwards [B, C, H-1, W], rightwards [B, C, H, W-1]."""
    return images[:, :, 1:] - images[:, :, :-1], images[:, :, :, 1:] - images[:, :, :, :-1]


def autoencoder_loss(
    reconstruction: Tensor, images: Tensor, quantized: Quantized, weights: AutoencoderLossConfig
) -> dict[str, Tensor]:
    """Return the terms of paper 000 eq. 5, with a pixel loss as reconstruction term, and their weighted ``loss``.

    ``reconstruction`` and ``images`` are float [B, 3, H, W] in [-1, 1]; every value is a scalar.
    """
    difference = reconstruction - images
    down, right = image_gradients(difference)
    terms = {
        "l1": difference.abs().mean(),
        "mse": difference.square().mean(),
        "gradient": down.abs().mean() + right.abs().mean(),
        "codebook": quantized.codebook_loss,
        "commitment": quantized.commitment_loss,
    }
    terms["loss"] = (
        weights.l1 * terms["l1"]
        + weights.mse * terms["mse"]
        + weights.gradient * terms["gradient"]
        + weights.codebook * terms["codebook"]
        + weights.beta * terms["commitment"]
    )
    return terms


def psnr(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB per image (float [B]) of float [B, 3, H, W] in [-1, 1], as 8-bit pixels."""
    pixels = ((reconstruction.clamp(-1, 1) + 1) * 127.5).round()
    error = F.mse_loss(pixels, (images + 1) * 127.5, reduction="none").flatten(1).mean(1)
    return 10 * torch.log10(255.0**2 / error.clamp(min=1e-10))
