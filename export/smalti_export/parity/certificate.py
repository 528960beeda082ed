"""The parity certificate: every variant, run by the runtime, compared with the torch model in fp32.

All tolerances are listed here. A variant that misses one is not written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smalti.bundle.manifest import Manifest, Precision, Role
from smalti.drawing.generator import EMBEDDING
from smalti.families.autoregressive.past import Graph
from smalti.families.base import Prior
from smalti.verification.comparison import Case, run_labels
from smalti_export.precision.activation_ranges import Feed
from smalti_train.data.tensors import from_numpy
from smalti_train.runs.torch_sampling import draw_tokens

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
        "int8": {"psnr": 35.0},
    },
}
"""Bounds of the gated figures: upper bounds for ``*_error``, lower bounds for the others. Logit errors are in units of
the logits' standard deviation.

Figures whose names begin with ``ROUNDED`` belong to the fp16 graph with every tensor rounded to fp16
(``precision.fp16``).

Weights are stored as fp16, which makes some neighbouring codes equal. So some of an encoder's tokens differ even in
fp32, more of them with a larger codebook, and decode to nearly the same pixels."""


def torch_graph(graph: torch.nn.Module) -> Graph:
    """A function that runs a wrapped torch model like a graph: inputs in their given order, outputs in a list."""

    @torch.no_grad()
    def run(inputs: Any) -> list[NDArray[Any]]:
        found: Tensor | tuple[Tensor, ...] = graph(*(from_numpy(np.array(value)) for value in inputs.values()))
        return [output.numpy() for output in (found if isinstance(found, tuple) else (found,))]

    return run


def torch_run(graph: torch.nn.Module) -> Run:
    """Like :func:`torch_graph`, but returns only the first output."""
    run = torch_graph(graph)
    return lambda inputs: run(inputs)[0]


def whole_runs(prior: Prior, manifest: Manifest, grids: int) -> NDArray[np.int32]:
    """Tokens (int32 [grids, h, w]) of whole runs with a manifest's defaults; image i has seed i, and labels cycle.

    Raises UsageError for defaults that the family does not allow.
    """
    return draw_tokens(prior, manifest, range(grids), run_labels(manifest.classes, grids))


class Reference:
    """A torch codec's answers to real inputs, computed once and compared with each variant's."""

    def __init__(self, role: Role, graph: Graph, feeds: list[Feed]) -> None:
        self.names = ("tokens", EMBEDDING) if role == "encoder" else ("images",)
        self.graph = graph
        self.cases = [self.answered(feed) for feed in feeds]

    def answered(self, feed: Feed) -> Case:
        """Inputs with the model's answers."""
        return Case(feed, dict(zip(self.names, self.graph(feed))))
