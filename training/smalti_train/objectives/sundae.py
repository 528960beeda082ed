"""Corruption and unrolled losses of SUNDAE priors (Savinov et al. 2022).

A grid is corrupted with uniform random tokens. The prior predicts the clean tokens; a grid is drawn from its prediction
and corrected again, ``unrolls`` times in all. So training shows the prior grids like those met in sampling. Equations
and sections are those of McKinney and Willcocks 2022 (training: section 3.4). Losses are per sample, in nats per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from smalti_train.objectives.absorbing import cross_entropies


def corrupt(tokens: Tensor, rates: Tensor, codes: int, generator: torch.Generator) -> Tensor:
    """Replace each token by a random one of ``codes`` with the chance ``rates`` of its sample: q(z_0 | z) of eq. 4.

    ``tokens`` int64 [B, L]; ``rates`` float [B] in 0 .. 1 (the paper's t, uniform in training); returns int64 [B, L].
    A random token may happen to be the right one.
    """
    chosen = torch.rand(tokens.shape, generator=generator) < rates[:, None]
    random = torch.randint(codes, tokens.shape, generator=generator)
    return torch.where(chosen.to(tokens.device), random.to(tokens.device), tokens)


def drawn(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Draw a token from each distribution (int64 [B, L]); no gradient passes.

    ``logits`` float [B, L, K]; ``uniforms`` float32 [B, L] in [0, 1), one number per draw, which is looked up in the
    cumulated probabilities. Works sample by sample to save memory.
    """
    found: list[Tensor] = []
    for one, places in zip(logits.detach().float(), uniforms):
        shares = one.softmax(-1).cumsum(-1)
        # The sums end at 1 up to rounding; scaling by them never draws a token without probability.
        found.append(torch.searchsorted(shares, places[:, None] * shares[:, -1:], right=True)[:, 0])
    return torch.stack(found).clamp(max=logits.shape[-1] - 1)


def unrolled_losses(
    predict: Callable[..., Tensor], tokens: Tensor, start: Tensor, uniforms: Tensor, rows: Tensor | None = None
) -> Iterator[Tensor]:
    """Each unroll's part of every sample's loss (float [B]); they add up to L^(1:T), the mean over T (section 2.4).

    ``predict`` maps grids int64 [B, L] to logits float [B, L, K]; ``tokens`` int64 [B, L] are the clean ones, predicted
    at all positions; ``start`` int64 [B, L] is the corrupted grid; ``uniforms`` float32 [B, T - 1, L] are the random
    numbers for the grids in between. No gradient passes between unrolls, so each part can go backward before the next
    is computed, in the memory of one unroll. With ``rows`` int64 [B, R] the last unroll predicts these positions alone,
    by ``predict(grids, rows)``; others need all, to draw the next grid.
    """
    unrolls = uniforms.shape[1] + 1
    shown = start
    for numbers in uniforms.unbind(1):
        logits = predict(shown)
        yield cross_entropies(logits, tokens).mean(1) / unrolls
        shown = drawn(logits, numbers)
    if rows is not None:
        yield cross_entropies(predict(shown, rows), tokens.gather(1, rows)).mean(1) / unrolls
    else:
        yield cross_entropies(predict(shown), tokens).mean(1) / unrolls
