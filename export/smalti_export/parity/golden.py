"""Golden inputs of a bundle: some inputs of its certificate, with the torch model's answers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from smalti.bundle.manifest import Manifest, Role
from smalti.verification.comparison import Case, draw
from smalti.verification.golden import RUNS, draw_next
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
                cases = [_denoiser_case(case, record, index) for index, case in enumerate(reference.cases[:BATCHES])]
                tensors[RUNS] = reference.runs
            case PredictorReference():
                small = [case for case in reference.cases if case.inputs["past"].nbytes <= PAST]
                chosen = small[:: max(1, len(small) // PREFIXES)]
                cases = [_predictor_case(case, record, index) for index, case in enumerate(chosen)]
                tensors[RUNS] = reference.runs
            case _:
                cases = [_codec_case(role, reference.cases[0])]
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


def _codec_case(role: Role, case: Case) -> Case:
    """The first images of a batch and their tokens."""
    pixels = (case.inputs if role == "encoder" else case.outputs)["images"]
    count = max(1, min(IMAGES, PIXELS // pixels[0].size))
    inputs, outputs = ({name: array[:count] for name, array in part.items()} for part in (case.inputs, case.outputs))
    return Case(inputs, outputs)
