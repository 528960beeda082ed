"""The predictor of an autoregressive bundle, with keys and values kept from call to call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalti.bundle.manifest import Component
from smalti.errors import BundleError
from smalti.families.autoregressive.sampler import NextLogits

Int32 = NDArray[np.int32]
Graph = Callable[[Mapping[str, NDArray[Any]]], list[NDArray[Any]]]


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


def next_logits(graph: Graph, start: int, shape: tuple[int, int, int], batch: int) -> NextLogits:
    """Return the function that :func:`smalti.families.autoregressive.sampler.run` asks, on top of a predictor's graph.

    The function keeps keys and values from call to call, so the graph reads every token once. A call that does not
    continue the previous one starts anew. The function serves one run at a time.

    Args:
        graph: takes ``tokens`` int32 [n, k], ``labels`` int32 [n] and ``past`` float32 [2*layers, n, heads, p, d]. It
            returns the logits [n, K] of the next token, and ``past`` with the keys and values of the k new tokens.
        start: the token that is read before the first one, K.
        shape: 2*layers, heads and d.
        batch: most samples in one call of the graph, which bounds its memory.
    """
    layers, heads, width = shape
    pasts: list[NDArray[np.float32]] = []
    known, under = np.empty((0, 0), np.int32), np.empty(0, np.int32)

    def predict(tokens: Int32, labels: Int32) -> NDArray[np.float32]:
        nonlocal pasts, known, under
        read = known.shape[1]
        continues = (
            bool(pasts)
            and tokens.shape[1] > read
            and np.array_equal(labels, under)
            and np.array_equal(tokens[:, :read], known)
        )
        parts = [slice(first, first + batch) for first in range(0, len(tokens), batch)]
        new = tokens[:, read:]
        if not continues:
            pasts = [np.empty((layers, len(labels[part]), heads, 0, width), np.float32) for part in parts]
            new = np.concatenate([np.full((len(tokens), 1), start, np.int32), tokens], axis=1)
        # Known again only when all of it has been read: an interrupt in between leaves pasts of different lengths.
        before, pasts = pasts[::-1], []
        answers: list[list[NDArray[Any]]] = []
        for part in parts:  # each past is let go of as soon as there is a longer one: they are the most of the memory
            answers.append(graph({"tokens": new[part], "labels": labels[part], "past": before.pop()}))
        pasts, known, under = [present for _, present in answers], tokens.copy(), labels.copy()
        return np.concatenate([logits for logits, _ in answers])

    return predict
