"""Differentiable augmentation (Zhao et al. 2020): random changes to all images that the discriminator sees.

Gradients pass through to the generator (T in Bond-Taylor et al. 2021, eq. 9b). A draw is data: every process draws it
for the whole batch and takes the rows of its own images.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

REACH = 0.125
"""Greatest translation, in units of the image's side."""


@dataclass(frozen=True)
class Augmentation:
    """Random numbers for a batch, each tensor [B, 1, 1, 1]."""

    brightness: Tensor
    """float -0.5 .. 0.5, added."""
    saturation: Tensor
    """float 0 .. 2, times the distance from the pixel's grey."""
    contrast: Tensor
    """float 0.5 .. 1.5, times the distance from the image's mean."""
    dy: Tensor
    """int64: every row is read so many rows further down; 0 outside the image."""
    dx: Tensor
    """int64: every column is read so many columns further right."""

    def rows(self, first: int, last: int) -> Augmentation:
        """The draw of images ``first`` .. ``last`` - 1."""
        return Augmentation(*(getattr(self, field.name)[first:last] for field in fields(self)))


def draw_augmentation(count: int, height: int, width: int, generator: torch.Generator | None = None) -> Augmentation:
    """Draw for ``count`` images of ``height`` x ``width`` pixels, on the generator's device."""
    shape = (count, 1, 1, 1)
    device = None if generator is None else generator.device
    brightness, saturation, contrast = (torch.rand(shape, generator=generator, device=device) for _ in range(3))
    reaches = (int(side * REACH + 0.5) for side in (height, width))
    dy, dx = (torch.randint(-far, far + 1, shape, generator=generator, device=device) for far in reaches)
    return Augmentation(brightness - 0.5, saturation * 2, contrast + 0.5, dy, dx)


def augment(images: Tensor, draw: Augmentation) -> Tensor:
    """Change ``images`` (float [B, 3, H, W]) in brightness, saturation, contrast and place, in this order.

    The amounts are the published ones, the same for images in [0, 1] and in [-1, 1]; results may leave the range.
    """
    draw = Augmentation(*(getattr(draw, field.name).to(images.device) for field in fields(draw)))
    x = images + draw.brightness
    grey = x.mean(dim=1, keepdim=True)
    x = (x - grey) * draw.saturation + grey
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (x - mean) * draw.contrast + mean
    return _moved(_moved(x, draw.dy, 2), draw.dx, 3)


def diff_augment(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw an augmentation and apply it; see :func:`augment`."""
    count, _, height, width = images.shape
    return augment(images, draw_augmentation(count, height, width, generator))


def _moved(images: Tensor, by: Tensor, dim: int) -> Tensor:
    """Every image (float [B, C, H, W]) read ``by`` cells (int64 [B, 1, 1, 1]) further along ``dim``, 0 outside."""
    shape = [1, 1, 1, 1]
    shape[dim] = side = images.shape[dim]
    source = torch.arange(side, device=images.device).view(shape) + by
    inside = (source >= 0) & (source < side)
    return images.gather(dim, source.clamp(0, side - 1).expand_as(images)) * inside
