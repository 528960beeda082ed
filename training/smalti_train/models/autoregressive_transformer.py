"""Autoregressive priors: the baseline of Bond-Taylor et al. 2021, and taming's transformer (Esser et al. 2021).

Both are the transformer of ``absorbing_transformer`` with causal attention. The baseline (table 4) starts from a
learnt vector and reads the K codes. Taming's (a minGPT) starts from tokens of its own vocabulary: a class, a start
token, or the codes of another image. Parameters carry their published names.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smalti.errors import UsageError
from smalti_train.models.absorbing_transformer import Attention, TokenTransformer, TransformerConfig


@dataclass(frozen=True)
class AutoregressiveTransformerConfig(TransformerConfig):
    """Sizes of the autoregressive twin. It embeds the K codes and reads no mask."""

    @property
    def mask(self) -> int:
        """Placeholder that samplers use for tokens still to be drawn; the network never reads it."""
        return self.codes


@dataclass(frozen=True)
class Net2NetTransformerConfig:
    """Sizes of taming's transformer."""

    vocabulary: int = 16384
    """Number of tokens: codes 0 .. K - 1, also used for conditioning (classes, another image's codes)."""
    positions: int = 256
    """Longest sequence (published as block_size), conditioning included."""
    grid: tuple[int, int] | None = (16, 16)
    """Rows and columns of an image's tokens; None: unknown. The network itself does not need it."""
    width: int = 1536
    layers: int = 48
    heads: int = 24
    dropout: float = 0.0
    unmasked: int = 0
    """Leading (conditioning) positions that attend to each other in both directions (published as n_unmasked)."""
    classes: int = 0
    """Labels 0 .. classes - 1; label ``classes`` stands for "no label". A label is the token before an image's tokens.
    Without classes, token 0 starts every image."""

    @property
    def codes(self) -> int:
        """Number of tokens that it predicts."""
        return self.vocabulary

    @property
    def mask(self) -> int:
        """Placeholder that samplers use for tokens still to be drawn; the network never reads it."""
        return self.vocabulary


class Past:
    """Cache of keys and values, layer by layer, of the tokens that a model has read.

    Starts empty; a model that is called with it appends to it.
    """

    def __init__(self) -> None:
        self.length = 0
        """Positions read, a start token and conditioning included."""
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values [B, heads, n, d] of new tokens; returns those of all tokens."""
        if layer in self.layers:
            before = self.layers[layer]
            keys, values = torch.cat((before[0], keys), dim=2), torch.cat((before[1], values), dim=2)
        self.layers[layer] = keys, values
        return keys, values


class CausalAttention(Attention):
    """Attention of every token to itself and to those before it; the first ``unmasked`` attend to each other too."""

    def __init__(self, width: int, heads: int, dropout: float, unmasked: int = 0) -> None:
        super().__init__(width, heads, dropout)
        self.unmasked = unmasked

    def forward(self, x: Tensor, past: Past | None = None, layer: int = 0) -> Tensor:
        """Float [B, n, width] to the same shape; the tokens in ``past`` come before these."""
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        if past is not None:
            k, v = past.extend(layer, k, v)
        new, total = q.shape[2], k.shape[2]
        if new == total and self.unmasked < 2:
            return self.attend(q, k, v, causal=True)
        if new == 1:
            return self.attend(q, k, v)
        seen = torch.arange(total, device=x.device)
        seeing = seen[total - new :, None]
        return self.attend(q, k, v, mask=(seen <= seeing) | (seen < self.unmasked))


class AutoregressiveTransformer(TokenTransformer):
    """Tokens (int [B, n]) and labels (int [B]) to logits of each token given those before it, and of the next token."""

    def __init__(self, config: AutoregressiveTransformerConfig) -> None:
        super().__init__(
            lambda: CausalAttention(config.width, config.heads, config.dropout),
            vocabulary=config.codes,
            codes=config.codes,
            positions=config.positions,
            classes=config.classes,
            width=config.width,
            layers=config.layers,
            dropout=config.dropout,
        )
        self.config = config
        self.start_tok = nn.Parameter(torch.zeros(1, 1, config.width))

    def forward(self, tokens: Tensor, labels: Tensor | None = None, past: Past | None = None) -> Tensor:
        """Logits (float [B, n + 1, K]): row i is for token i, given the tokens before it (Bond-Taylor et al., eq. 1).

        ``tokens`` int [B, n] in 0 .. K - 1, n < h*w; ``labels`` int [B] in 0 .. classes (classes, or None: no label;
        ignored without classes). Where ``past`` holds tokens already, ``tokens`` are the next ones, n >= 1, and there
        are n rows.
        """
        x = self.tok_emb(tokens)
        first = past.length if past is not None else 0
        if not first:
            x = torch.cat((self.start_tok.expand(len(x), -1, -1), x), dim=1)
        x = self.drop(self.labelled(x + self.pos_emb[:, first : first + x.shape[1]], labels))
        return self.output(_through(self.blocks, x, past))

    @torch.no_grad()
    def logits(self, tokens: Tensor, labels: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        """Logits (float32 [B, n + 1, K]) of each of n tokens and of the next, with checks, without gradients.

        All imported priors have this method; ``t`` is ignored. Raises UsageError for h*w tokens or more, tokens outside
        0 .. K - 1 or labels outside 0 .. classes.
        """
        del t
        self.check(tokens, labels, self.config.positions - 1)
        return self(tokens, labels).float()


class Net2NetTransformer(TokenTransformer):
    """Conditioning and tokens to logits of each token given the conditioning and the tokens before it."""

    def __init__(self, config: Net2NetTransformerConfig) -> None:
        super().__init__(
            lambda: CausalAttention(config.width, config.heads, config.dropout, config.unmasked),
            vocabulary=config.vocabulary,
            codes=config.vocabulary,
            positions=config.positions,
            classes=0,
            width=config.width,
            layers=config.layers,
            dropout=config.dropout,
        )
        self.config = config

    def forward(self, tokens: Tensor, conditioning: Tensor | None = None, past: Past | None = None) -> Tensor:
        """Logits over the vocabulary V.

        ``tokens`` int [B, n]; ``conditioning`` int [B] (a class or a start token) or [B, C], which is put before them.
        Returns float [B, n + 1, V], row i for token i. Without conditioning, row i of [B, n, V] is for the token after
        token i. Where ``past`` holds tokens already, ``tokens`` are the next ones, n >= 1, ``conditioning`` is ignored,
        and there are n rows.
        """
        first = past.length if past is not None else 0
        if 0 < first < self.config.unmasked:
            raise UsageError(f"the first {self.config.unmasked} tokens see each other: give them all in one call")
        known = 0
        if conditioning is not None and not first:
            conditioning = conditioning.reshape(len(tokens), -1)
            tokens = torch.cat((conditioning, tokens), dim=1)
            known = conditioning.shape[1] - 1
        x = self.drop(self.tok_emb(tokens) + self.pos_emb[:, first : first + tokens.shape[1]])
        return self.output(_through(self.blocks, x, past)[:, known:])

    @torch.no_grad()
    def logits(self, tokens: Tensor, labels: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        """Logits (float32 [B, n, V]), with checks, without gradients; all imported priors have this method.

        Without ``labels``, ``tokens`` int [B, n] begin with their conditioning, and row i is for the token after token
        i. With ``labels`` int [B] (a class or start token) or [B, C], ``tokens`` are an image's, and row i is for token
        i given the labels and the tokens before it (the last token is not read), as in the published training. ``t`` is
        ignored. Raises UsageError for tokens or labels outside 0 .. V - 1, and for more of both than there are
        positions.
        """
        del t
        if labels is None:
            self.check(tokens, None, self.config.positions)
            return self(tokens).float()
        if labels.ndim not in (1, 2) or len(labels) != len(tokens) or not labels.numel():
            raise UsageError(f"labels must be integers [{len(tokens)}] or [{len(tokens)}, C]; got {list(labels.shape)}")
        conditioning = labels.reshape(len(labels), -1)
        self.check(conditioning, None, self.config.positions)
        self.check(tokens, None, self.config.positions - conditioning.shape[1] + 1)
        return self(tokens[:, :-1], conditioning).float()


def _through(blocks: nn.ModuleList, x: Tensor, past: Past | None) -> Tensor:
    """Send float [B, n, width] through the layers, after the tokens of ``past``, and append them to it."""
    for layer, block in enumerate(blocks):
        x = block(x, past, layer)
    if past is not None:
        past.length += x.shape[1]
    return x
