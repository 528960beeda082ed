"""Layers of SUNDAE's hourglass: attention with rotary positions along both axes.

See McKinney and Willcocks 2022, section 3.2. Parameters carry their published names. Published checkpoints were trained
with three quirks, which ``published`` keeps for them: positions turn the query before it is split into heads, so only
the first head is turned; coordinates run from -1 to 1 whatever the grid; frequencies are evenly spaced and set per
stack of layers.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Axes = Literal["2d", "1d"]
Turn = tuple[Tensor, Tensor]
"""Cosine and sine of the angle by which every position turns each pair of dimensions: two float32 [n, d / 2]."""

BASES: dict[Axes, float] = {"2d": 100.0, "1d": 10_000.0}
"""Frequencies fall from 1 radian per token to nearly 1 / base; an axis has fewer tokens than the whole grid."""
OCTAVES = 4
"""Octaves of :func:`place_features`; half a wave of the finest is an eighth of the grid long."""


def rotary_angles(
    grid: tuple[int, int],
    head_dim: int,
    axes: Axes = "2d",
    highest: float | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Angles (float32 [h*w, head_dim / 2], radians) by which positions of a grid turn pairs of dimensions.

    ``2d``: half of the pairs turn with the row, half with the column; ``head_dim`` is a multiple of 4. ``1d``: all turn
    with the position in raster order, as in language models; ``head_dim`` is even. Positions are counted in tokens, and
    frequencies fall geometrically from 1 radian per token (Su et al. 2021), so that attention depends on the distance
    between tokens and not on the grid's size. ``highest`` selects the published kind instead: coordinates from -1 to 1
    along each axis, and frequencies evenly spaced from pi to pi times ``highest`` / 2.
    """
    height, width = grid
    sides = (height, width) if axes == "2d" else (height * width,)
    count = head_dim // 2 // len(sides)
    if highest is None:
        steps = torch.arange(count, dtype=torch.float32, device=device) / count
        frequencies = torch.exp(steps * -math.log(BASES[axes]))
        coordinates = [torch.arange(side, dtype=torch.float32, device=device) for side in sides]
    else:
        frequencies = torch.linspace(1.0, highest / 2, count, device=device) * math.pi
        coordinates = [torch.linspace(-1.0, 1.0, side, device=device) for side in sides]
    tables = [places[:, None] * frequencies for places in coordinates]
    if axes == "1d":
        return tables[0]
    rows, columns = tables
    down = rows[:, None].expand(height, width, count)
    across = columns[None].expand(height, width, count)
    return torch.cat((down, across), dim=-1).reshape(height * width, 2 * count)


def place_features(grid: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """Features of each position relative to the grid's borders, float32 [h*w, 4 * OCTAVES].

    Sines and cosines of the row, then of the column, each from 0 to 1 across the grid, at half a wave and at each of
    the following octaves.
    """
    height, width = grid
    waves = math.pi * 2.0 ** torch.arange(OCTAVES, dtype=torch.float32, device=device)
    tables: list[Tensor] = []
    for side in grid:
        phases = (torch.arange(side, dtype=torch.float32, device=device)[:, None] + 0.5) / side * waves
        tables.append(torch.cat((phases.sin(), phases.cos()), dim=-1))
    down = tables[0][:, None].expand(height, width, 2 * OCTAVES)
    across = tables[1][None].expand(height, width, 2 * OCTAVES)
    return torch.cat((down, across), dim=-1).reshape(height * width, 4 * OCTAVES)


def turn_of(angles: Tensor) -> Turn:
    """Cosine and sine of angles, computed once for all layers on the same grid."""
    return angles.cos(), angles.sin()


def rotate(x: Tensor, turn: Turn) -> Tensor:
    """Turn neighbouring pairs of dimensions of ``x`` (float [..., n, d]) by each position's angles."""
    cos, sin = (part.to(x.dtype) for part in turn)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)


class Attention(nn.Module):
    """Attention of every token to every token, or to those of ``context``; positions turn queries and keys."""

    def __init__(self, width: int, heads: int, head_dim: int, first_head_only: bool) -> None:
        super().__init__()
        self.heads, self.first_head_only = heads, first_head_only
        self.to_q = nn.Linear(width, heads * head_dim, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, width)

    def forward(self, x: Tensor, turn: Turn | None = None, context: Tensor | None = None) -> Tensor:
        """Float [B, n, width] to the same shape, reading ``context`` (float [B, m, width]) where there is one."""
        keys, values = self.to_kv(x if context is None else context).chunk(2, dim=-1)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.to_q(x), keys, values))
        if turn is not None:
            q, k = self._turned(q, turn), self._turned(k, turn)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(mixed.transpose(1, 2).flatten(2))

    def _turned(self, x: Tensor, turn: Turn) -> Tensor:
        """Float [B, heads, n, d] to the same shape."""
        if self.first_head_only:
            return torch.cat((rotate(x[:, :1], turn), x[:, 1:]), dim=1)
        return rotate(x, turn)


class Residual(nn.Module):
    """x + fn(norm(x)): one half of a pre-norm layer."""

    def __init__(self, width: int, fn: nn.Module, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fn = fn
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *rest: object) -> Tensor:
        """Float [B, n, width] to the same shape; ``rest`` is for the attention."""
        return x + self.dropout(self.fn(self.norm(x), *rest))


class Layers(nn.Module):
    """A stack of layers: attention, then an MLP four times as wide."""

    def __init__(
        self, width: int, heads: int, head_dim: int, count: int, dropout: float = 0.0, first_head_only: bool = False
    ) -> None:
        super().__init__()

        def layer() -> nn.ModuleList:
            attention = Attention(width, heads, head_dim, first_head_only)
            mlp = nn.Sequential(
                nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
            )
            return nn.ModuleList((Residual(width, attention, dropout), Residual(width, mlp, dropout)))

        self.layers = nn.ModuleList(layer() for _ in range(count))

    def forward(self, x: Tensor, turn: Turn | None = None, context: Tensor | None = None) -> Tensor:
        """Float [B, n, width] to the same shape; ``turn`` and ``context`` as in :class:`Attention`."""
        for layer in self.layers:
            pair: Any = layer  # a ModuleList, which can be unpacked
            attention, mlp = pair
            x = mlp(attention(x, turn, context))
        return x
