"""Golden inputs of a bundle: some inputs of its certificate, with the torch model's answers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from smalti.bundle.manifest import Manifest, Role
from smalti.verification.comparison import Case, draw
from smalti.verification.golden import RUNS, draw_next
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
LOGITS = 2**16
"""Most logits stored per batch; at other positions only the drawn tokens are stored."""
IMAGES, BYTES = 4, 5 * 2**16
"""Images stored for a codec: at most this many, and at most this many bytes. Of a larger image a corner is stored, or
all where every pixel depends on all of it."""


def golden_file(figures: Figures, record: Manifest) -> bytes:
    """The safetensors file of :mod:`smalti.verification.golden`; equal models give equal bytes.

    ``figures`` must have measured every component, which computes the answers. ``record`` holds the sampling settings.
    """
    tensors: dict[str, NDArray[Any]] = {}
    for role, reference in figures.references.items():
        match reference:
            case DenoiserReference():
                cases = [_denoiser_case(case, record, index) for index, case in enumerate(reference.cases[:BATCHES])]
                tensors[RUNS] = reference.runs
            case PredictorReference():
                small = [case for case in reference.cases if case.inputs["past"].nbytes <= PAST]
                chosen = small[:: max(1, len(small) // PREFIXES)]
                cases = [_predictor_case(case, record, index) for index, case in enumerate(chosen)]
                tensors[RUNS] = reference.runs
            case _:
                cases = [_codec_case(role, reference, record)]
        for index, case in enumerate(cases):
            for way, arrays in (("in", case.inputs), ("out", case.outputs)):
                tensors |= {f"{role}.{index}.{way}.{name}": np.ascontiguousarray(a) for name, a in arrays.items()}
    return save(tensors)


def _denoiser_case(case: Case, record: Manifest, index: int) -> Case:
    """A case with rows in random order, so that rows with stored logits are spread over the grid."""
    logits, wanted = case.outputs["logits"], case.outputs["draws"] >= 0
    count, length, codes = logits.shape
    order = np.random.default_rng(index).permutation(length)
    inputs = {**case.inputs, "rows": case.inputs["rows"][:, order]}
    heat, width = record.sampler.temperature, record.latent.grid[1]
    draws = draw(logits[:, order], inputs["rows"], width, length, heat, index, wanted[:, order])
    stored = logits[:, order[: min(length, max(1, LOGITS // (count * codes)))]]
    return Case(inputs, {"draws": draws, "logits": stored})


def _predictor_case(case: Case, record: Manifest, index: int) -> Case:
    logits = case.outputs["logits"]
    return Case(case.inputs, {"draws": draw_next(logits, record.sampler.temperature, index), "logits": logits})


def _codec_case(role: Role, reference: Reference, record: Manifest) -> Case:
    """The first images of a batch, or a corner of the first, with the model's answers."""
    (name, array), *_ = reference.cases[0].inputs.items()
    factor = record.resolution_of(role).factor
    rows, columns = record.latent.grid
    whole = rows * columns * factor**2 * 3
    if whole > BYTES and record.resolution_of(role).halo is not None:
        side = max(1, math.isqrt(BYTES // (3 * factor**2)))
        unit = factor if name == "images" else 1
        part = array[:1, : min(rows, side) * unit, : min(columns, side) * unit]
    else:
        part = array[: max(1, min(IMAGES, BYTES // whole))]
    return reference.answered({name: np.ascontiguousarray(part)})
