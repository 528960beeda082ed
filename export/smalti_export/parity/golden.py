"""Golden inputs of a bundle: some of what its certificate was measured with, and the torch model's answers."""

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
"""Of a denoiser: 32 grids as a rule, of which half of the tokens are drawn."""
PREFIXES = 8
"""Batches of a predictor, each with a length of its own."""
PAST = 2**22
"""Bytes of keys and values that a stored input may have at most."""
LOGITS = 2**17
"""Numbers per batch whose logits are stored; of the other positions the tokens drawn are enough."""
IMAGES, PIXELS = 4, 2**20
"""Images of a codec: so many, or as many as have so many bytes, but one at least."""


def golden_file(figures: Figures, record: Manifest) -> bytes:
    """The safetensors file of :mod:`smalti.verification.golden`, the same bytes for the same model.

    ``figures`` have measured every component, so that the answers are known; ``record`` says how is drawn.
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
    """Rows in a random order, so that those whose logits are stored are spread over the grid."""
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
    """The first images of the first batch, and their tokens, whichever of them is asked for."""
    ((name, given),), answers = reference.feeds[0].items(), reference.outputs[0]
    pixels = given if role == "encoder" else answers[0]
    count = max(1, min(IMAGES, PIXELS // pixels[0].size))
    names = ("tokens", EMBEDDING) if role == "encoder" else ("images",)
    return {name: given[:count]}, {name: answer[:count] for name, answer in zip(names, answers)}
