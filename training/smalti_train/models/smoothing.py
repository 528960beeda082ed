"""The last step of an edge decoder: neighbouring pixels that look alike become alike, edges stay.

A decoder of few operations leaves flat shapes uneven by a level or two and their edges soft. A bilateral filter (Tomasi
and Manduchi 1998) evens out what differs little and leaves alone what differs much; passes at growing and again
shrinking distances reach far at little cost (the edge-avoiding a-trous filter of Dammertz et al. 2010). It has one
parameter per pass, and the decoder learns through it: what looks alike is the decoder's own choice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RANGE = 12 / 127.5
"""Difference of colour (images in [-1, 1]) from which on pixels do not mix at first: 12 of 255 levels."""


class EdgeAwareSmoothing(nn.Module):
    """Mix every pixel with its two neighbours at the distance of each pass along each axis, weighted by likeness.

    The weight of a neighbour is max(0, 1 - |difference|^2 / range^2) (Epanechnikov's kernel), and the pixel's own is 1.
    Rows and columns take turns, which takes half as many comparisons as all eight neighbours at once. Those outside
    the canvas have no weight. Computed in fp32 whatever the model's type: one level of 255 is finer than bf16 holds.
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
    """How far (like ``x``, float [B, 3, H, W]) each pixel moves towards its neighbours at ``offset`` (down, right).

    A pair of neighbours is compared once and pulls both. ``sharpness`` is 1 / range^2.
    """
    down, right = offset
    height, width = x.shape[2:]
    difference = x[:, :, down:, right:] - x[:, :, : height - down, : width - right]
    likeness = (1 - sharpness * (difference * difference).sum(1, keepdim=True)).clamp(min=0)
    pulled = likeness * difference
    at_one, at_other = (0, right, 0, down), (right, 0, down, 0)
    weights = 1 + F.pad(likeness, at_one) + F.pad(likeness, at_other)
    return (F.pad(pulled, at_one) - F.pad(pulled, at_other)) / weights
