"""Edge-aware smoothing, the last step of an edge decoder: similar neighbouring pixels are averaged, edges stay.

A cheap decoder leaves flat shapes uneven by a level or two, and their edges soft. A bilateral filter (Tomasi and
Manduchi 1998) averages pixels that differ little and keeps those that differ much. Passes at growing, then shrinking
distances reach far at little cost (the edge-avoiding a-trous filter of Dammertz et al. 2010). Each pass has one
parameter, and the decoder is trained through the filter.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RANGE = 12 / 127.5
"""Initial colour difference (images in [-1, 1]) at which pixels stop mixing: 12 of 255 levels."""


class EdgeAwareSmoothing(nn.Module):
    """In each pass, mix every pixel with its two neighbours at the pass's distance along each axis, by similarity.

    The weight of a neighbour is max(0, 1 - |difference|^2 / range^2) (Epanechnikov's kernel), the pixel's own is 1, and
    that of a neighbour outside the canvas is 0. Rows and columns are processed in turn, with half the comparisons of
    all eight neighbours at once. Computed in fp32 whatever the model's type: bf16 is coarser than one level of 255.
    """

    def __init__(self, distances: tuple[int, ...]) -> None:
        super().__init__()
        self.distances = distances
        self.sharpness = nn.Parameter(torch.full((len(distances),), 1 / RANGE))
        """1 / range of each pass."""

    def forward(self, images: Tensor) -> Tensor:
        """Float [B, 3, H, W] to fp32 of the same shape; H and W must exceed the greatest distance."""
        x = images.float()
        for distance, sharpness in zip(self.distances, self.sharpness.float().square().unbind()):
            x = x + _pull(x, (distance, 0), sharpness)
            x = x + _pull(x, (0, distance), sharpness)
        return x


def _pull(x: Tensor, offset: tuple[int, int], sharpness: Tensor) -> Tensor:
    """Change (float [B, 3, H, W], like ``x``) of each pixel towards its neighbours at ``offset`` (down, right).

    Each pair of neighbours is compared once and changes both. ``sharpness`` is 1 / range^2.
    """
    down, right = offset
    height, width = x.shape[2:]
    difference = x[:, :, down:, right:] - x[:, :, : height - down, : width - right]
    red, green, blue = (difference * difference).chunk(3, dim=1)  # a sum over an axis is three times slower on CPUs
    likeness = (1 - sharpness * (red + green + blue)).clamp(min=0)
    pulled = likeness * difference
    at_one, at_other = (0, right, 0, down), (right, 0, down, 0)
    weights = 1 + F.pad(likeness, at_one) + F.pad(likeness, at_other)
    return (F.pad(pulled, at_one) - F.pad(pulled, at_other)) / weights
