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
    """Whatever predicts the next token: a torch module behind a function, an ONNX session, a table in a test."""

    def __call__(self, tokens: Int32, labels: Int32, /) -> NDArray[np.float32] | NDArray[np.float16]:
        """Logits [N, K] of the token that follows the first n tokens (int32 [N, n], n >= 0) of grids under ``labels``.

        Within one run n only grows, so that whoever answers may keep what it computed for the tokens before.
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
    """Draw every masked token given those before it; yields the grids (int32 [N, L]) after each call.

    ``tokens`` int32 [N, L] is the start and is not modified: ``mask`` where a token is to be drawn, and a token to be
    kept elsewhere. What is kept steers only what comes after it in raster order, as any token does; a start that keeps
    the first rows continues an image, and one that keeps others fills what lies between with no regard for what
    follows. ``labels`` int32 [N] (or whatever else the predictor takes, one row per sample); ``width`` is the grid's
    columns. ``temperature`` > 0, ``top_k`` (0: all) and ``top_p`` (1: all) are numbers or one per sample: see
    ``smalti_kernels.sample``. With ``guidance`` other than 1 the network is also asked with label ``no_label``, and
    logits are uncond + guidance * (cond - uncond) (Ho and Salimans 2022).

    The draw at a position is that of (seed, step = position), so a sample is the same alone and in any batch. There is
    one call for each position that any sample has to draw, so none when nothing is masked.

    Raises UsageError for tokens of another shape, SamplingError when logits leave nothing to draw.
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
