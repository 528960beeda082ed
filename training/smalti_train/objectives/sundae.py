"""What SUNDAE priors are trained on and measured by: correcting a corrupted grid, step after step (paper 003, 3.4).

A grid is corrupted with uniform random tokens; the prior says what it should be, what it says is drawn, and the drawn
grid is corrected again, ``unrolls`` times in all. So in training the prior meets grids as sampling leaves them (Savinov
et al. 2022). Losses are per sample, in nats per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def corrupt(tokens: Tensor, rates: Tensor, codes: int, generator: torch.Generator) -> Tensor:
    """Replace each token by a random one of ``codes`` with its sample's chance: q(z_0 | z) of eq. 4.

    ``tokens`` int64 [B, L]; ``rates`` float [B] in 0 .. 1 (the t of the paper: uniform in training); returns int64
    [B, L]. A random token may happen to be the right one.
    """
    chosen = torch.rand(tokens.shape, generator=generator) < rates[:, None]
    random = torch.randint(codes, tokens.shape, generator=generator)
    return torch.where(chosen.to(tokens.device), random.to(tokens.device), tokens)


def drawn(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Draw a token from each distribution (int64 [B, L]); no gradient passes.

    ``logits`` float [B, L, K]; ``uniforms`` float32 [B, L] in [0, 1), one number for each draw: the token is the one
    whose share of the cumulated probabilities it falls into. Sample by sample, so that memory stays that of one.
    """
    found: list[Tensor] = []
    for one, places in zip(logits.detach().float(), uniforms):
        shares = one.softmax(-1).cumsum(-1)
        # What they cumulate to is 1 but for rounding; a token without any probability is never drawn.
        found.append(torch.searchsorted(shares, places[:, None] * shares[:, -1:], right=True)[:, 0])
    return torch.stack(found).clamp(max=logits.shape[-1] - 1)


def unrolled_losses(
    predict: Callable[[Tensor], Tensor], tokens: Tensor, start: Tensor, uniforms: Tensor
) -> Iterator[Tensor]:
    """Each unroll's part of every sample's loss (float [B]); their sum is L^(1:T), the mean of all T (section 2.4).

    ``predict`` maps grids int64 [B, L] to logits float [B, L, K]; ``tokens`` int64 [B, L] is what they should be, at
    all positions; ``start`` int64 [B, L] is the corrupted grid; ``uniforms`` float32 [B, T - 1, L] are what the grids
    in between are drawn by. As these carry no gradient, a part may go backward before the next is asked for, and memory
    is that of one unroll.
    """
    unrolls = uniforms.shape[1] + 1
    logits = predict(start)
    yield _cross_entropy(logits, tokens) / unrolls
    for numbers in uniforms.unbind(1):
        logits = predict(drawn(logits, numbers))
        yield _cross_entropy(logits, tokens) / unrolls


def _cross_entropy(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean over all positions: float [B] of logits float [B, L, K] and tokens int64 [B, L]."""
    return F.cross_entropy(logits.float().transpose(1, 2), tokens, reduction="none").mean(1)
