"""The parity certificate: every variant, run by the runtime, compared with the torch model in fp32.

All tolerances are listed here. A variant that misses one is not written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from smalti.bundle.manifest import Precision, Role
from smalti.families.autoregressive.past import Graph
from smalti.verification.golden import GREATEST, likeness
from smalti_export.precision.activation_ranges import Feed

Run = Callable[[Feed], NDArray[Any]]
"""One component: named inputs to its only output."""

TOLERANCES: dict[Role, dict[Precision, dict[str, float]]] = {
    "denoiser": {
        "fp32": {"logit_error": 1e-2, "draw_agreement": 0.995},
        "fp16": {
            "logit_error": 1e-1,
            "draw_agreement": 0.99,
            "rounded_logit_error": 1e-1,
            "rounded_draw_agreement": 0.99,
        },
        "int8": {"draw_agreement": 0.95},
    },
    "predictor": {
        "fp32": {"logit_error": 1e-2, "draw_agreement": 0.995},
        "fp16": {
            "logit_error": 1e-1,
            "draw_agreement": 0.99,
            "rounded_logit_error": 1e-1,
            "rounded_draw_agreement": 0.99,
        },
        "int8": {"draw_agreement": 0.95},
    },
    "decoder": {
        "fp32": {"psnr": 50.0},
        "fp16": {"psnr": 48.0, "rounded_psnr": 48.0},
        "int8": {"psnr": 40.0},
    },
    "encoder": {
        "fp32": {"token_agreement": 0.98, "cosine": 0.9999},
        "fp16": {"token_agreement": 0.97, "cosine": 0.999, "rounded_token_agreement": 0.97, "rounded_cosine": 0.999},
    },
    "preview": {
        "fp32": {"psnr": 50.0},
        "fp16": {"psnr": 40.0, "rounded_psnr": 40.0},
    },
}
"""Bounds of the gated figures: upper bounds for ``*_error``, lower bounds for the others. Logit errors are in units of
the logits' standard deviation.

Figures whose names begin with ``ROUNDED`` belong to the fp16 graph with every tensor rounded to fp16
(``precision.fp16``).

Weights are stored as fp16, which makes some neighbouring codes equal. So some of an encoder's tokens differ even in
fp32, more of them with a larger codebook, and decode to nearly the same pixels."""


def greatest_error(expected: NDArray[np.floating[Any]], found: NDArray[np.floating[Any]]) -> float:
    """Greatest absolute difference of two arrays; ``GREATEST`` when it is NaN or infinite."""
    return float(np.nan_to_num(np.abs(expected - found), nan=GREATEST, posinf=GREATEST).max())


def logit_figures(error: float, spread: float, same: int, drawn: int) -> dict[str, float]:
    """Figures of a prior: the greatest error over the logits' spread, and the share of equal draws."""
    return {"logit_error": error / max(spread, 1e-12), "draw_agreement": same / drawn, "draws": float(drawn)}


def run_figures(expected: NDArray[np.integer[Any]], found: NDArray[np.integer[Any]]) -> dict[str, float]:
    """Share of equal tokens in whole runs, whose first axis counts grids, and the number of grids."""
    return {"grid_agreement": float((expected == found).mean()), "grids": float(len(expected))}


def torch_graph(graph: torch.nn.Module) -> Graph:
    """A function that runs a wrapped torch model like a graph: inputs in their given order, outputs in a list."""

    @torch.no_grad()
    def run(inputs: Any) -> list[NDArray[Any]]:
        found = graph(*(torch.from_numpy(np.array(value)) for value in inputs.values()))
        return [output.numpy() for output in (found if isinstance(found, tuple) else (found,))]

    return run


def torch_run(graph: torch.nn.Module) -> Run:
    """Like :func:`torch_graph`, but returns only the first output."""
    run = torch_graph(graph)
    return lambda inputs: run(inputs)[0]


class Reference:
    """A torch codec's outputs on real inputs, computed once and compared with each variant."""

    def __init__(self, graph: Graph, feeds: list[Feed]) -> None:
        self.feeds = feeds
        self.outputs = [graph(feed) for feed in feeds]


def compare_decoders(reference: Reference, variant: Graph) -> dict[str, float]:
    """Compare a decoder's pixels with the reference's.

    Figures: the PSNR in dB, and the greatest difference (of 255).
    """
    squares, greatest = 0.0, 0
    for feed, expected in zip(reference.feeds, reference.outputs):
        difference = np.abs(expected[0].astype(np.int16) - variant(feed)[0])
        squares += float(np.square(difference.astype(np.float64)).mean()) / len(reference.feeds)
        greatest = max(greatest, int(difference.max()))
    return {"psnr": float(10 * np.log10(255.0**2 / max(squares, 1e-6))), "greatest_difference": float(greatest)}


def compare_encoders(reference: Reference, variant: Graph) -> dict[str, float]:
    """Measure an encoder: the share of tokens equal to the reference's, and the least cosine of embeddings."""
    found = [variant(feed) for feed in reference.feeds]
    pairs = list(zip(found, reference.outputs))
    return {
        "token_agreement": float(np.mean([(ours[0] == theirs[0]).mean() for ours, theirs in pairs])),
        "cosine": float(np.min([likeness(ours[1], theirs[1]) for ours, theirs in pairs])),
    }
