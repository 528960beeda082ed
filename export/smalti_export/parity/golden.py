"""Golden inputs of a bundle: some inputs of its certificate, with the torch model's answers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from smalti.bundle.manifest import Manifest, Role
from smalti.generator import EMBEDDING
from smalti.verification.golden import RUNS, draw, draw_next
from smalti_export.parity.certificate import Reference
from smalti_export.parity.denoisers import DenoiserReference
from smalti_export.parity.measure import Figures
from smalti_export.parity.predictors import PredictorReference

FILE = "golden.safetensors"
BATCHES = 2
"""Batches stored for a denoiser: usually 32 grids, with half of their tokens drawn."""
PREFIXES = 8
"""Batches stored for a predictor, each with its own length."""
PAST = 2**22
"""Most bytes of keys and values in a stored input."""
LOGITS = 2**17
"""Most logits stored per batch; at other positions only the drawn tokens are stored."""
IMAGES, PIXELS = 4, 2**20
"""Images stored for a codec: at most this many and at most this many bytes, but at least one."""


def golden_file(figures: Figures, record: Manifest) -> bytes:
    """The safetensors file of :mod:`smalti.verification.golden`; equal models give equal bytes.

    ``figures`` must have measured every component, which computes the answers. ``record`` holds the sampling settings.
    """
    tensors: dict[str, NDArray[Any]] = {}
    for role, reference in figures.references.items():
        match reference:
            case DenoiserReference():
                cases = [
                    _denoiser_case(reference, record, index) for index in range(BATCHES) if index < len(reference.feeds)
                ]
                tensors[RUNS] = reference.runs
            case PredictorReference():
                small = [index for index, feed in enumerate(reference.feeds) if feed["past"].nbytes <= PAST]
                chosen = small[:: max(1, len(small) // PREFIXES)]
                cases = [_predictor_case(reference, record, where, case) for case, where in enumerate(chosen)]
                tensors[RUNS] = reference.runs.reshape(len(reference.runs), *record.latent.grid)
            case _:
                cases = [_codec_case(role, reference)]
        for index, (inputs, outputs) in enumerate(cases):
            for way, arrays in (("in", inputs), ("out", outputs)):
                tensors |= {f"{role}.{index}.{way}.{name}": np.ascontiguousarray(a) for name, a in arrays.items()}
    return save(tensors)


Case = tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]
"""Inputs and outputs by name."""


def _denoiser_case(reference: DenoiserReference, record: Manifest, index: int) -> Case:
    """A case with rows in random order, so that rows with stored logits are spread over the grid."""
    feed, logits = reference.feeds[index], reference.logits[index]
    count, length, codes = logits.shape
    order = np.random.default_rng(index).permutation(length)
    inputs = {**feed, "rows": feed["rows"][:, order]}
    tokens = draw(logits[:, order], inputs["rows"], record.latent.grid[1], length, record.sampler.temperature, index)
    wanted = reference.drawing.drawn_from(feed["tokens"])[:, order]
    stored = logits[:, order[: min(length, max(1, LOGITS // (count * codes)))]]
    return inputs, {"draws": np.where(wanted, tokens, -1).astype(np.int32), "logits": stored}


def _predictor_case(reference: PredictorReference, record: Manifest, where: int, case: int) -> Case:
    logits = reference.logits[where]
    return reference.feeds[where], {"draws": draw_next(logits, record.sampler.temperature, case), "logits": logits}


def _codec_case(role: Role, reference: Reference) -> Case:
    """The first images of the first batch and their tokens; the role decides which are inputs and which outputs."""
    ((name, given),), answers = reference.feeds[0].items(), reference.outputs[0]
    pixels = given if role == "encoder" else answers[0]
    count = max(1, min(IMAGES, PIXELS // pixels[0].size))
    names = ("tokens", EMBEDDING) if role == "encoder" else ("images",)
    return {name: given[:count]}, {name: answer[:count] for name, answer in zip(names, answers)}
