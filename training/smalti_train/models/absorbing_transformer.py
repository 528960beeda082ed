"""The absorbing prior of Bond-Taylor et al. 2021: a bidirectional transformer over masked tokens.

24 pre-norm layers of width 512 with 8 heads (a small GPT-2, appendix A), learned positions, an embedding of K codes and
the mask, and an untied head without bias. Time is not an input: for absorbing diffusion the number of masks determines
it. Parameters carry their published names, so a published checkpoint is this model's state dict behind a prefix.
``autoregressive_transformer`` holds the twin that the paper compares it with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.errors import UsageError
from smalti_train.models.rows import at_rows


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the absorbing transformer and of its autoregressive twin; defaults are the published ones."""

    codes: int = 1024
    """K: tokens are 0 .. K - 1."""
    grid: tuple[int, int] = (16, 16)
    """Rows and columns of tokens."""
    classes: int = 0
    """Labels 0 .. classes - 1; label ``classes`` stands for "no label". Published priors know none."""
    width: int = 512
    """Dimensions of a token; a multiple of ``heads``."""
    layers: int = 24
    heads: int = 8
    dropout: float = 0.0
    """Dropout of embeddings, attention weights and each layer's output."""

    @property
    def positions(self) -> int:
        """Tokens of a grid."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class AbsorbingTransformerConfig(TransformerConfig):
    """Sizes of an absorbing transformer. It embeds K + 1 tokens: token K is the mask."""

    @property
    def mask(self) -> int:
        """The mask token's id."""
        return self.codes


class Attention(nn.Module):
    """Attention of every token to every token (eq. 3)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise UsageError(f"heads {heads}: it must divide the width, {width}")
        self.heads = heads
        self.dropout = dropout
        self.key = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """Split the width into heads: [B, n, width] to [B, heads, n, width / heads]."""
        return torch.unflatten(x, 2, (self.heads, -1)).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Mix values [B, heads, m, d] by queries [B, heads, n, d] and keys; [B, n, width].

        ``mask`` [n, m] is bool, or float and added to the products.
        """
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal)
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, n, width] to the same shape."""
        return self.attend(self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x)))

    def asked(self, x: Tensor, rows: Tensor) -> Tensor:
        """What :meth:`forward` answers at ``rows`` (int [B, R], raster positions) alone: float [B, R, width]."""
        return self.attend(self.split(self.query(at_rows(x, rows))), self.split(self.key(x)), self.split(self.value(x)))


class Block(nn.Module):
    """A pre-norm layer: attention, then an MLP four times as wide."""

    def __init__(self, attention: nn.Module, width: int, dropout: float) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(width)
        self.ln2 = nn.LayerNorm(width)
        self.attn = attention
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, *context: object, rows: Tensor | None = None) -> Tensor:
        """Float [B, n, width] to the same shape, or to its ``rows`` (int [B, R]); ``context`` is for the attention."""
        read = self.ln1(x)
        if rows is None:
            x = x + self.drop(self.attn(read, *context))
        else:
            x = at_rows(x, rows) + self.drop(cast(Attention, self.attn).asked(read, rows))
        return x + self.drop(self.mlp(self.ln2(x)))


class TokenTransformer(nn.Module):
    """Base of the published transformers: embeddings, layers, a norm and a head; subclasses define ``forward``.

    Reads tokens below ``vocabulary`` at up to ``positions`` places and gives logits over ``codes``.
    """

    def __init__(
        self,
        attention: Callable[[], nn.Module],
        vocabulary: int,
        codes: int,
        positions: int,
        classes: int,
        width: int,
        layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.tok_emb = nn.Embedding(vocabulary, width)
        self.pos_emb = nn.Parameter(torch.zeros(1, positions, width))
        # Published checkpoints have no labels; a model without classes has no such table.
        self.label_emb = nn.Embedding(classes + 1, width) if classes else None
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(attention(), width, dropout) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        self.head = nn.Linear(width, codes, bias=False)
        self.apply(_initialise)

    def labelled(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Add label embeddings (labels int [B]; None: no label) to embedded tokens (float [B, n, width])."""
        if self.label_emb is None:
            return x
        if labels is None:
            labels = torch.full((len(x),), self.classes, device=x.device)
        return x + self.label_emb(labels)[:, None]

    def output(self, x: Tensor) -> Tensor:
        """Logits (float [B, n, K]) from the last layer's output (float [B, n, width])."""
        return self.head(self.ln_f(x))

    def check(self, tokens: Tensor, labels: Tensor | None, longest: int) -> None:
        """Raise UsageError unless ``tokens`` are int [B, n], n <= ``longest``, and labels int [B], both in range."""
        vocabulary = self.tok_emb.num_embeddings
        if tokens.ndim != 2 or tokens.is_floating_point() or tokens.shape[1] > longest:
            raise UsageError(
                f"tokens must be integers [B, n], n at most {longest}; got {tokens.dtype} {list(tokens.shape)}"
            )
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocabulary:
            raise UsageError(f"tokens must be 0 .. {vocabulary - 1}; got {int(tokens.min())} .. {int(tokens.max())}")
        if labels is None:
            return
        if labels.shape != tokens.shape[:1] or labels.is_floating_point():
            raise UsageError(
                f"labels must be integers [{len(tokens)}], one for each grid; got {labels.dtype} {list(labels.shape)}"
            )
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) <= self.classes:
            allowed = f"0 .. {self.classes}, the last for no label" if self.classes else "none: this prior knows none"
            raise UsageError(f"labels {int(labels.min())} .. {int(labels.max())}: allowed are {allowed}")


def _initialise(module: nn.Module) -> None:
    """Initialise as GPT-2, as published: normal weights of deviation 0.02, biases and positions zero."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:  # pyright: ignore[reportUnnecessaryComparison] - Linear(bias=False)
        nn.init.zeros_(module.bias)


class AbsorbingTransformer(TokenTransformer):
    """Masked tokens (int [B, h*w]) and labels (int [B]) to logits over the K codes."""

    def __init__(self, config: AbsorbingTransformerConfig) -> None:
        super().__init__(
            lambda: Attention(config.width, config.heads, config.dropout),
            vocabulary=config.codes + 1,
            codes=config.codes,
            positions=config.positions,
            classes=config.classes,
            width=config.width,
            layers=config.layers,
            dropout=config.dropout,
        )
        self.config = config

    def forward(self, tokens: Tensor, labels: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
        """Logits of the codes at every position, or only at ``rows``.

        ``tokens`` int [B, h*w] in 0 .. K (K: masked); ``labels`` int [B] in 0 .. classes (classes, or None: no label;
        ignored without classes); ``rows`` int [B, R], raster positions. Returns float [B, h*w or R, K].
        """
        x = self.tok_emb(tokens) + self.pos_emb[:, : tokens.shape[1]]
        x = self.drop(self.labelled(x, labels))
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            x = block(x, rows=rows if index == last else None)
        return self.output(at_rows(x, rows) if rows is not None and last < 0 else x)

    @torch.no_grad()
    def logits(self, tokens: Tensor, labels: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        """Logits (float32 [B, h*w, K]) for masked ``tokens``, with checks, without gradients; ``t`` is ignored.

        All imported priors have this method. Raises UsageError for tokens outside 0 .. K or labels outside
        0 .. classes.
        """
        del t
        self.check(tokens, labels, self.config.positions)
        return self(tokens, labels).float()
