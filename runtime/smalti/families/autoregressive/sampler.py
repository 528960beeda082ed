"""Sampling of autoregressive priors (Esser et al. 2021): one token after the other, in raster order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from smalti.errors import UsageError
from smalti.families.absorbing.sampler import Sample
from smalti_kernels import sample

Int32 = NDArray[np.int32]


class NextLogits(Protocol):
    """A prior that predicts the next token: an ONNX session, a torch module, a table in a test."""

    def __call__(self, tokens: Int32, labels: Int32, /) -> NDArray[np.float32] | NDArray[np.float16]:
        """Return the logits [N, K] of the token after the first n tokens (int32 [N, n], n >= 0); ``labels`` int32 [N].

        Within one run n only grows, so a prior may keep what it computed for earlier tokens.
        """
        ...


def run(
    predictor: NextLogits,
    tokens: Int32,
    *,
    mask: int,
    seeds: Sequence[int],
    labels: Int32,
    width: int,
    temperature: float | NDArray[np.float32] = 1.0,
    top_k: int | NDArray[np.int32] = 0,
    top_p: float | NDArray[np.float32] = 1.0,
    guidance: float = 1.0,
    no_label: int = 0,
    draw: Sample = sample,
) -> Iterator[Int32]:
    """Draw every masked token given the tokens before it, and yield the grids (int32 [N, L]) after each call.

    A kept token steers only the tokens after it in raster order. So a start that keeps the first rows continues an
    image, and a start that keeps later rows is filled with no regard for them. The noise at a position is that of
    (seed, step = position), so a sample is the same alone and in any batch. There is one call for each position that
    any sample has to draw.

    Args:
        predictor: the prior.
        tokens: int32 [N, L], the start: ``mask`` where a token is to be drawn, else the token to keep. It is not
            modified.
        mask: the mask token.
        seeds: one for each sample.
        labels: int32 [N], or another array that the predictor takes, one row per sample.
        width: columns of the grid.
        temperature: above 0: a number, or one per sample.
        top_k: 0 keeps every token; a number, or one per sample: see ``smalti_kernels.sample``.
        top_p: 1 keeps every token; likewise.
        guidance: as in :func:`smalti.families.absorbing.sampler.run`.
        no_label: label of the unguided question.
        draw: draws tokens from logits.

    Raises:
        UsageError: tokens or labels have another shape.
        SamplingError: logits leave nothing to draw.
    """
    if tokens.ndim != 2 or labels.shape[:1] != tokens.shape[:1]:
        raise UsageError(
            f"tokens must be int32 [N, L] with one label each; got {list(tokens.shape)} and labels {list(labels.shape)}"
        )
    wanted = tokens == mask
    seed_array = np.asarray(seeds, np.uint64)
    unlabelled = np.full_like(labels, no_label)
    for position in np.flatnonzero(wanted.any(axis=0)):
        drawn = np.flatnonzero(wanted[:, position])
        before = tokens[:, :position]
        uncond = None
        if guidance == 1.0:
            logits = predictor(before, labels)
        else:
            both = predictor(np.concatenate([before] * 2), np.concatenate([labels, unlabelled]))
            logits, uncond = both[: len(tokens)], both[len(tokens) :][drawn]
        tokens = draw(
            logits[drawn],
            tokens,
            sample=drawn,
            position=np.full(len(drawn), position),
            seeds=seed_array,
            step=int(position),
            width=width,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            uncond=uncond,
            guidance=guidance,
        ).tokens
        yield tokens
