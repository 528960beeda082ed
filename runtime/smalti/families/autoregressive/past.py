"""Predictors as the callables that the autoregressive sampler asks: what is kept from call to call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from smalti.bundle.manifest import Component
from smalti.errors import BundleError
from smalti.families.autoregressive.sampler import NextLogits

Int32 = NDArray[np.int32]
Graph = Callable[[Mapping[str, NDArray[Any]]], list[NDArray[Any]]]
Past = TypeVar("Past")
"""What is kept of the tokens read before, such as keys and values."""


def past_shape(component: Component, where: str) -> tuple[int, int, int]:
    """Return 2*layers, heads and d of the predictor's input ``past`` [2*layers, n, heads, p, d].

    Raises BundleError when the component has no such input.
    """
    shape = next((spec.shape for spec in component.inputs if spec.name == "past"), ())
    fixed = [side for axis, side in enumerate(shape) if axis in (0, 2, 4) and isinstance(side, int)]
    if len(shape) != 5 or len(fixed) != 3:
        raise BundleError(
            f"{where}: the predictor's input past must be [2*layers, n, heads, p, d] with numbers for layers, heads "
            f"and d; it is {list(shape)}"
        )
    return fixed[0], fixed[1], fixed[2]


def reading_once(read: Callable[[Int32, Int32, Past | None], tuple[NDArray[np.float32], Past]]) -> NextLogits:
    """Let :func:`smalti.families.autoregressive.sampler.run` ask ``read``, to which every token is shown once.

    What ``read`` keeps of the tokens before goes from call to call; a call that does not continue the one before, or
    that follows one which failed, starts anew. What is returned belongs to one run at a time.

    Args:
        read: from the new tokens int32 [N, k], the labels int32 [N, ...] and what was kept of the tokens before (None:
            there are none) to the logits float32 [N, K] of the token that follows, and what to keep of all. It may
            change what it is given to keep.
    """
    past: Past | None = None
    known, under = np.empty((0, 0), np.int32), np.empty(0, np.int32)

    def predict(tokens: Int32, labels: Int32) -> NDArray[np.float32]:
        nonlocal past, known, under
        before = known.shape[1]
        continues = (
            past is not None
            and tokens.shape[1] > before
            and np.array_equal(labels, under)
            and np.array_equal(tokens[:, :before], known)
        )
        # Kept again only when all of it has been read: an interrupt in between leaves a past that is half changed.
        kept, past = past if continues else None, None
        logits, past = read(tokens[:, before:] if continues else tokens, labels, kept)
        known, under = tokens.copy(), labels.copy()
        return logits

    return predict


def next_logits(graph: Graph, start: int, shape: tuple[int, int, int], batch: int) -> NextLogits:
    """Let the sampler ask a predictor's graph, which reads every token once: see :func:`reading_once`.

    Args:
        graph: takes ``tokens`` int32 [n, k], ``labels`` int32 [n] and ``past`` float32 [2*layers, n, heads, p, d]. It
            returns the logits [n, K] of the next token, and ``past`` with the keys and values of the k new tokens.
        start: the token that is read before the first one, K.
        shape: 2*layers, heads and d.
        batch: most samples in one call of the graph, which bounds its memory.
    """
    layers, heads, width = shape

    def read(
        new: Int32, labels: Int32, pasts: list[NDArray[np.float32]] | None
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        parts = [slice(first, first + batch) for first in range(0, len(new), batch)]
        if pasts is None:
            pasts = [np.empty((layers, len(labels[part]), heads, 0, width), np.float32) for part in parts]
            new = np.concatenate([np.full((len(new), 1), start, np.int32), new], axis=1)
        pasts.reverse()
        answers: list[list[NDArray[Any]]] = []
        for part in parts:  # each past is let go of as soon as there is a longer one: they are the most of the memory
            answers.append(graph({"tokens": new[part], "labels": labels[part], "past": pasts.pop()}))
        return np.concatenate([logits for logits, _ in answers]), [present for _, present in answers]

    return reading_once(read)
