"""Conversion between a data set's pixels (uint8) and models' images (float)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smalti_train.data.tensors import from_numpy


def to_images(
    pixels: NDArray[np.uint8], device: torch.device | None = None, value_range: tuple[float, float] = (-1.0, 1.0)
) -> Tensor:
    """Turn uint8 [B, H, W, 3] into float [B, 3, H, W] in ``value_range``.

    The memory format is channels last, which is fast on CPUs and GPUs.
    """
    black, white = value_range
    nhwc = from_numpy(np.array(pixels)).to(device)  # a copy: the data set is mapped read-only
    images = nhwc.permute(0, 3, 1, 2).float() / (255 / (white - black)) + black
    return images.contiguous(memory_format=torch.channels_last)


def to_pixels(images: Tensor, value_range: tuple[float, float] = (-1.0, 1.0)) -> NDArray[np.uint8]:
    """Turn float [B, 3, H, W] in ``value_range`` (clipped) into uint8 [B, H, W, 3]."""
    black, white = value_range
    scaled = (images.float().clamp(black, white) - black) * (255 / (white - black))
    return scaled.round().byte().permute(0, 2, 3, 1).cpu().numpy()
