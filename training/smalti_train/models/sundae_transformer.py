"""The prior of McKinney and Willcocks 2022: a 2D-aware hourglass transformer that corrects grids of tokens.

See section 3.2. It reads a grid in which any token may be wrong and predicts the right one everywhere; there is no
mask. The first and last layers work on all tokens, those between on a grid shortened along both axes, which may be
shortened again (nested hourglasses). Positions are rotary, so a model works on any grid that can be shortened; some
published weights have learned ones instead (``positions``), for so many tokens.
Parameters carry their published names; ``published`` keeps the quirks of published checkpoints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from smalti.errors import UsageError
from smalti_train.models.rows import at_rows
from smalti_train.models.sundae_attention import (
    OCTAVES,
    Axes,
    Layers,
    Turn,
    place_features,
    rotary_angles,
    turn_of,
)
from smalti_train.models.sundae_resampling import Downsample, Pair, Upsample, patches, unpatched

Inner = tuple[int, int, int]
Middle = tuple[int, int | Inner, int]
Depth = tuple[int, int | Middle, int]
"""Layers before shortening, on the shortened grid, and after; the middle may be an hourglass again, up to three."""

HEAD_DIM = 64
"""Dimensions of a head in published models."""


@dataclass(frozen=True)
class SundaeTransformerConfig:
    """Sizes of a SUNDAE prior; the defaults are those published for 1024 x 1024 faces."""

    codes: int = 8192
    """K: tokens are 0 .. K - 1."""
    grid: tuple[int, int] | None = (32, 32)
    """Rows and columns of an image's tokens; None: unknown. The network itself does not need it."""
    classes: int = 0
    """Labels 0 .. classes - 1; label ``classes`` stands for "no label"."""
    width: int = 1024
    """Dimensions of a token in every layer."""
    heads: int = 8
    head_dim: int = HEAD_DIM
    """Dimensions of a head; a multiple of 4. Heads times this need not equal the width."""
    depth: Depth = (2, 12, 2)
    """Layers; see :data:`Depth`."""
    shorten: tuple[int, int] = (2, 2)
    """Rows and columns of the patch that becomes one token, at every level; (1, 4) is naive raster resampling."""
    resampling: Literal["linear", "naive"] = "linear"
    """``linear``: a linear map of the patch's tokens. ``naive``: their mean, and copies of it on the way back."""
    attention_resampling: bool = True
    """Whether resampled tokens then attend to the tokens they come from."""
    rotary: Axes = "2d"
    """``2d``: positions along both axes. ``1d``: positions in raster order."""
    places: bool = False
    """Also embed each token's place in the grid. The paper has only rotary positions, which encode distances between
    tokens but not borders; short trainings learn more with this."""
    dropout: float = 0.0
    """Dropout of each layer's output, and inside its MLP."""
    published: bool = False
    """Compute as published weights need it (see ``sundae_attention``, ``sundae_resampling``)."""
    published_frequencies: tuple[float, float] = (16.0, 4.0)
    """With ``published``: highest frequency of the layers around a shortened grid, and of those on the innermost."""
    positions: int = 0
    """With ``published``: embed each token's number in raster order, below this, in place of all rotary positions, as
    an option of the published code does. 0: rotary positions."""

    def __post_init__(self) -> None:
        """Check that the sizes fit each other. Raises UsageError, saying which does not."""
        sizes = (self.codes, self.width, self.heads, self.head_dim, *self.shorten, *(self.grid or ()))
        if min(sizes) < 1 or self.classes < 0 or any(count < 0 for count in _flat(self.depth)):
            raise UsageError(f"sizes of a SUNDAE prior are at least 1, classes and layers at least 0, unlike in {self}")
        if self.positions < 0 or (self.positions and not self.published):
            raise UsageError(f"positions {self.positions}: only published weights embed them; leave it at 0")
        if self.head_dim % 4 and not self.positions:
            raise UsageError(f"head_dim {self.head_dim}: rotary positions need a multiple of 4")
        if math.prod(self.shorten) < 2:
            raise UsageError("shorten (1, 1) shortens nothing: a patch has at least 2 tokens, such as (2, 2)")
        if self.published and (self.rotary != "2d" or self.shorten[0] != self.shorten[1] or self.places):
            raise UsageError(
                f"rotary {self.rotary!r}, shorten {self.shorten}, places {self.places}: published weights have 2d "
                "rotary positions alone and square patches; leave published out for another model"
            )
        if self.grid is not None:
            self.check_grid(self.grid)

    @property
    def mask(self) -> int:
        """Placeholder that samplers use for tokens still to be drawn; the network never reads it."""
        return self.codes

    @property
    def levels(self) -> int:
        """How often the grid is shortened."""
        return len(_flat(self.depth)) // 2

    def check_grid(self, grid: Pair) -> None:
        """Raise UsageError unless a grid's sides can be shortened at every level."""
        multiples = [factor**self.levels for factor in self.shorten]
        if min(grid) < 1 or any(side % multiple for side, multiple in zip(grid, multiples)):
            raise UsageError(
                f"grid {grid[0]}x{grid[1]}: this prior shortens grids, so rows must be a multiple of {multiples[0]} "
                f"and columns of {multiples[1]}"
            )
        if 0 < self.positions < math.prod(grid):
            raise UsageError(
                f"grid {grid[0]}x{grid[1]}: this prior learned {self.positions} positions, so a grid has at most as "
                "many tokens"
            )


def _flat(depth: int | Depth) -> list[int]:
    """Layers of every stack, from the first to the last."""
    return [depth] if isinstance(depth, int) else [count for part in depth for count in _flat(part)]


class Hourglass(nn.Module):
    """Layers on a grid around layers (or an hourglass) on the shortened grid, with a bypass around the latter."""

    def __init__(self, config: SundaeTransformerConfig, depth: Depth, outermost: bool = True) -> None:
        super().__init__()
        self.config = config
        before, between, after = depth
        naive = config.resampling == "naive"
        self.pre_transformer = _layers(config, before)
        self.downsample = Downsample(config.width, config.shorten, naive)
        self.attn_resampling_pre_valley = _layers(config, 1) if config.attention_resampling else None
        self.valley_transformer = (
            _layers(config, between) if isinstance(between, int) else Hourglass(config, between, outermost=False)
        )
        self.upsample = Upsample(config.width, config.shorten, naive)
        self.attn_resampling_post_valley = _layers(config, 1) if config.attention_resampling else None
        self.post_transformer = _layers(config, after)
        self.norm_out = nn.LayerNorm(config.width) if outermost else None

    def forward(self, x: Tensor, grid: Pair) -> Tensor:
        """Float [B, h*w, width] of a grid's tokens in raster order to the same shape."""
        shorten = self.config.shorten
        turn = self._turn(grid, 0, x.device)
        x = self.pre_transformer(x, turn)
        short = self.downsample(x, grid)
        if self.attn_resampling_pre_valley is not None:
            short = _each(self.attn_resampling_pre_valley, short[:, :, None], self._groups(x, grid)).flatten(1, 2)
        below = grid[0] // shorten[0], grid[1] // shorten[1]
        if isinstance(self.valley_transformer, Hourglass):
            short = self.valley_transformer(short, below)
        else:
            short = self.valley_transformer(short, self._turn(below, 1, x.device))
        x = x + self.upsample(short, grid)
        if self.attn_resampling_post_valley is not None:
            refined = _each(self.attn_resampling_post_valley, self._groups(x, grid), short[:, :, None])
            x = refined.flatten(1, 2) if self.config.published else unpatched(refined, grid, shorten)
        x = self.post_transformer(x, turn)
        return x if self.norm_out is None else self.norm_out(x)

    def _turn(self, grid: Pair, stack: int, device: torch.device) -> Turn | None:
        """Cosines and sines for the layers around the shortened grid (``stack`` 0) or on it (1); None without any."""
        config = self.config
        if config.positions:
            return None
        highest = config.published_frequencies[stack] if config.published else None
        return turn_of(rotary_angles(grid, config.head_dim, config.rotary, highest, device))

    def _groups(self, x: Tensor, grid: Pair) -> Tensor:
        """Group the tokens that share a resampled token: [B, groups, tokens of a group, width].

        A group is a patch; for published weights it is as many consecutive tokens in raster order.
        """
        if self.config.published:
            return torch.unflatten(x, 1, (-1, math.prod(self.config.shorten)))
        return patches(x, grid, self.config.shorten)


def _layers(config: SundaeTransformerConfig, count: int) -> Layers:
    return Layers(config.width, config.heads, config.head_dim, count, config.dropout, config.published)


def _each(layers: nn.Module, queries: Tensor, context: Tensor) -> Tensor:
    """Layers on each group alone: queries [B, n, q, C] attend to context [B, n, c, C]; returns [B, n, q, C]."""
    count = queries.shape[1]
    found = layers(queries.flatten(0, 1), None, context.flatten(0, 1))
    return found.unflatten(0, (-1, count))


class SundaeTransformer(nn.Module):
    """Tokens (int [B, h*w]), any of them wrong, and labels (int [B]) to logits over the K codes."""

    def __init__(self, config: SundaeTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.token_emb = nn.Embedding(config.codes, config.width)
        # A model without classes has no such table, as published.
        self.class_emb = nn.Embedding(config.classes + 1, config.width) if config.classes else None
        self.place = nn.Linear(4 * OCTAVES, config.width, bias=False) if config.places else None
        self.pos_emb = nn.Embedding(config.positions, config.width) if config.positions else None
        self.transformer = Hourglass(config, config.depth)
        self.to_logits = nn.Linear(config.width, config.codes)
        self.apply(_initialise)
        residual = (2 * sum(_flat(config.depth))) ** -0.5
        for name, parameter in self.named_parameters():
            if name.endswith(("to_out.weight", "fn.3.weight")):
                nn.init.normal_(parameter, std=0.02 * residual)

    def forward(
        self, tokens: Tensor, labels: Tensor | None = None, rows: Tensor | None = None, grid: Pair | None = None
    ) -> Tensor:
        """Logits of the codes at every position, or only at ``rows``.

        ``tokens`` int [B, h*w] in 0 .. K - 1; ``labels`` int [B] in 0 .. classes (classes, or None: no label; ignored
        without classes); ``rows`` int [B, R], raster positions; ``grid`` (h, w) where it is not the config's. Returns
        float [B, h*w or R, K]. Raises UsageError for a grid that cannot be shortened or has another number of tokens.
        """
        grid = self.grid_of(tokens.shape[1], grid)
        x = self.token_emb(tokens)
        if self.class_emb is not None:
            if labels is None:
                labels = torch.full((tokens.shape[0],), self.config.classes, device=tokens.device)
            x = x + self.class_emb(labels)[:, None]
        if self.place is not None:
            x = x + self.place(place_features(grid, x.device).to(x.dtype))
        if self.pos_emb is not None:
            x = x + self.pos_emb.weight[: tokens.shape[1]]
        x = self.transformer(x, grid)
        if rows is not None:
            x = at_rows(x, rows)
        return self.to_logits(x)

    def grid_of(self, length: int, grid: Pair | None = None) -> Pair:
        """Rows and columns of ``length`` tokens: ``grid``, else the config's, else a square.

        Raises UsageError where they do not fit.
        """
        side = math.isqrt(length)
        grid = grid or self.config.grid or (side, side)
        if math.prod(grid) != length:
            raise UsageError(f"{length} tokens are not those of a grid of {grid[0]}x{grid[1]}: give their grid (h, w)")
        self.config.check_grid(grid)
        return grid

    @torch.no_grad()
    def logits(self, tokens: Tensor, labels: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        """Logits (float32 [B, h*w, K]) for ``tokens``, with checks, without gradients; ``t`` is ignored.

        All imported priors have this method. Raises UsageError for tokens outside 0 .. K - 1, labels outside
        0 .. classes, and a number of tokens other than that of the config's grid (without one: other than a square).
        """
        del t
        codes, classes = self.config.codes, self.config.classes
        if tokens.ndim != 2 or tokens.is_floating_point():
            raise UsageError(f"tokens must be integers [B, h*w]; got {tokens.dtype} {list(tokens.shape)}")
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < codes:
            raise UsageError(f"tokens must be 0 .. {codes - 1}; got {int(tokens.min())} .. {int(tokens.max())}")
        if labels is not None:
            if labels.shape != tokens.shape[:1] or labels.is_floating_point():
                raise UsageError(f"labels must be integers [{len(tokens)}]; got {labels.dtype} {list(labels.shape)}")
            if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) <= classes:
                allowed = f"0 .. {classes}, the last for no label" if classes else "none: this prior knows none"
                raise UsageError(f"labels {int(labels.min())} .. {int(labels.max())}: allowed are {allowed}")
        return self(tokens, labels).float()


def _initialise(module: nn.Module) -> None:
    """Initialise with normal weights of deviation 0.02 and biases zero."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:  # pyright: ignore[reportUnnecessaryComparison] - Linear(bias=False)
        nn.init.zeros_(module.bias)
