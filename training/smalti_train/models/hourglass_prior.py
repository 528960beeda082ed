"""The absorbing prior of Bond-Taylor et al. 2021 as an hourglass: most layers work on 2x2-merged tokens.

A bidirectional transformer reads a grid with masked tokens and predicts every token. The first and last layers work on
all tokens. Between them each 2x2 patch is one token: a layer is four times cheaper (its attention sixteen times), or
wider at equal cost. Time is not an input: for absorbing diffusion the number of masks determines it (appendix; Ou et
al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti_train.models.rows import at_rows


@dataclass(frozen=True)
class HourglassPriorConfig:
    """Sizes of an hourglass prior."""

    codes: int = 1024
    """K: tokens are 0 .. K - 1, and token K is the mask."""
    grid: tuple[int, int] = (16, 16)
    """Rows and columns of tokens; both even."""
    classes: int = 0
    """Labels 0 .. classes - 1; label ``classes`` stands for "no label"."""
    width: int = 256
    """Dimensions of a token in the outer layers."""
    inner_width: int = 384
    """Dimensions of a merged 2x2 patch in the inner layers."""
    layers_in: int = 1
    layers_inner: int = 6
    layers_out: int = 2
    head_dim: int = 64
    dropout: float = 0.0

    @property
    def mask(self) -> int:
        """The mask token's id."""
        return self.codes


class Block(nn.Module):
    """A pre-norm transformer layer: attention over all tokens, then an MLP four times as wide."""

    def __init__(self, width: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Float [B, n, width] to the same shape, or to what it is at ``rows`` (int [B, R]) alone: [B, R, width]."""
        b, n, width = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        if rows is not None:  # all tokens are read, and only these are asked for
            x, q, n = at_rows(x, rows), at_rows(q, rows), rows.shape[1]
        q, k, v = (
            torch.unflatten(part, 2, (width // self.head_dim, self.head_dim)).transpose(1, 2) for part in (q, k, v)
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, width)
        x = x + self.dropout(self.attention_out(attended))
        return x + self.dropout(self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x)))))


def merge(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Concatenate each 2x2 patch of a grid: [B, h*w, C] to [B, h*w/4, 4*C]."""
    h, w = grid
    b, _, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h * w // 4, 4 * c)


def split(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Undo :func:`merge`: [B, h*w/4, 4*C] to [B, h*w, C]."""
    h, w = grid
    b, _, c = x.shape
    return x.reshape(b, h // 2, w // 2, 2, 2, c // 4).permute(0, 1, 3, 2, 4, 5).reshape(b, h * w, c // 4)


class HourglassPrior(nn.Module):
    """Masked tokens (int [B, h*w]) and labels (int [B]) to logits over the K codes."""

    def __init__(self, config: HourglassPriorConfig) -> None:
        super().__init__()
        self.config = config
        h, w = config.grid
        width, inner = config.width, config.inner_width
        if h % 2 or w % 2 or width % config.head_dim or inner % config.head_dim:
            raise ValueError("grid sides must be even, and widths multiples of head_dim")
        self.token = nn.Embedding(config.codes + 1, width)
        self.position = nn.Parameter(torch.zeros(h * w, width))
        self.label = nn.Embedding(config.classes + 1, width)
        self.inner_label = nn.Embedding(config.classes + 1, inner)

        def blocks(count: int, size: int) -> nn.ModuleList:
            return nn.ModuleList(Block(size, config.head_dim, config.dropout) for _ in range(count))

        self.blocks_in = blocks(config.layers_in, width)
        self.down = nn.Linear(4 * width, inner)
        self.blocks_inner = blocks(config.layers_inner, inner)
        self.up = nn.Linear(inner, 4 * width)
        self.blocks_out = blocks(config.layers_out, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.codes)
        self.apply(self._initialise)
        nn.init.normal_(self.position, std=0.02)
        residual = (2 * (config.layers_in + config.layers_inner + config.layers_out)) ** -0.5
        for name, parameter in self.named_parameters():
            if name.endswith(("attention_out.weight", "mlp_out.weight")):
                nn.init.normal_(parameter, std=0.02 * residual)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, labels: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
        """Logits of the codes at every position, or only at ``rows``.

        ``tokens`` int [B, h*w] in 0 .. K (K: masked); ``labels`` int [B] in 0 .. classes (classes, or None: no label);
        ``rows`` int [B, R], raster positions. Returns float [B, h*w or R, K].
        """
        if labels is None:
            labels = torch.full((tokens.shape[0],), self.config.classes, device=tokens.device)
        x = self.token(tokens) + self.position + self.label(labels)[:, None]
        for block in self.blocks_in:
            x = block(x)
        inner = self.down(merge(x, self.config.grid)) + self.inner_label(labels)[:, None]
        for block in self.blocks_inner:
            inner = block(inner)
        x = x + split(self.up(inner), self.config.grid)
        for index, block in enumerate(self.blocks_out):
            x = block(x, rows if index + 1 == len(self.blocks_out) else None)
        if rows is not None and not self.blocks_out:
            x = at_rows(x, rows)
        return self.head(self.norm(x))
