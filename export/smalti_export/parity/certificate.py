"""The parity certificate: every variant, run by the runtime, against the torch model in fp32.

Tolerances are data and stand here, in one place. A variant that misses one is not written.
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
"""Bounds of the gated figures: upper for ``*_error``, lower for the others. Errors of logits are in their spread.

Figures that begin with ``ROUNDED`` are of the fp16 graph with every tensor rounded to fp16 (``precision.fp16``).

Weights are stored as fp16, which tells some codes apart from their neighbours no more: of an encoder's tokens some
differ in fp32 too, the more the larger the codebook, and decode to nearly the same pixels.
"""


def greatest_error(expected: NDArray[np.floating[Any]], found: NDArray[np.floating[Any]]) -> float:
    """The greatest difference of two arrays; that of an answer that is not a number is the greatest there is."""
    return float(np.nan_to_num(np.abs(expected - found), nan=GREATEST, posinf=GREATEST).max())


def logit_figures(error: float, spread: float, same: int, drawn: int) -> dict[str, float]:
    """Figures of a prior: its greatest error in units of the logits' spread, and how many draws are the same."""
    return {"logit_error": error / max(spread, 1e-12), "draw_agreement": same / drawn, "draws": float(drawn)}


def run_figures(expected: NDArray[np.integer[Any]], found: NDArray[np.integer[Any]]) -> dict[str, float]:
    """How many tokens of whole runs (first axis: which grid) are the same, and of how many grids they are."""
    return {"grid_agreement": float((expected == found).mean()), "grids": float(len(expected))}


def torch_graph(graph: torch.nn.Module) -> Graph:
    """Run a wrapped torch model as if it were a graph; inputs in the order given, outputs in a list."""

    @torch.no_grad()
    def run(inputs: Any) -> list[NDArray[Any]]:
        found = graph(*(torch.from_numpy(np.array(value)) for value in inputs.values()))
        return [output.numpy() for output in (found if isinstance(found, tuple) else (found,))]

    return run


def torch_run(graph: torch.nn.Module) -> Run:
    """The same for the first output alone."""
    run = torch_graph(graph)
    return lambda inputs: run(inputs)[0]


class Reference:
    """A torch codec's outputs on real inputs, computed once and compared with every variant."""

    def __init__(self, graph: Graph, feeds: list[Feed]) -> None:
        self.feeds = feeds
        self.outputs = [graph(feed) for feed in feeds]


def compare_decoders(reference: Reference, variant: Graph) -> dict[str, float]:
    """Measure a decoder: PSNR in dB between its pixels and the reference's, and the greatest difference (of 255)."""
    squares, greatest = 0.0, 0
    for feed, expected in zip(reference.feeds, reference.outputs):
        difference = np.abs(expected[0].astype(np.int16) - variant(feed)[0])
        squares += float(np.square(difference.astype(np.float64)).mean()) / len(reference.feeds)
        greatest = max(greatest, int(difference.max()))
    return {"psnr": float(10 * np.log10(255.0**2 / max(squares, 1e-6))), "greatest_difference": float(greatest)}


def compare_encoders(reference: Reference, variant: Graph) -> dict[str, float]:
    """Measure an encoder: the fraction of tokens that are the reference's, and the least cosine of two embeddings."""
    found = [variant(feed) for feed in reference.feeds]
    pairs = list(zip(found, reference.outputs))
    return {
        "token_agreement": float(np.mean([(ours[0] == theirs[0]).mean() for ours, theirs in pairs])),
        "cosine": float(np.min([likeness(ours[1], theirs[1]) for ours, theirs in pairs])),
    }
