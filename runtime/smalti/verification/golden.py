"""Golden inputs: inputs of each component, with the torch model's answers at export.

They are stored in one safetensors file. ``ROLE.I.in.NAME`` is an input of case I, ``ROLE.I.out.NAME`` an answer in
fp32:

* ``out.images`` (uint8 [n, H, W, 3]) of decoders and previews; ``out.tokens`` (int32 [n, h, w]) and
  ``out.embedding`` (float32 [n, D]) of encoders;
* ``out.logits`` of priors: float32 [n, r, K] at the first r ``rows`` of a denoiser, [n, K] of a predictor;
* ``out.draws`` of priors, the tokens drawn from all logits with the noise of
  :func:`smalti.verification.comparison.draw`: int32 [n, R] of a denoiser, -1 where no token is drawn, and int32
  [n, EACH] of a predictor;
* ``runs`` (int32 [N, h, w]): whole runs with the bundle's defaults; image i has seed i, and labels cycle.

They allow any machine to measure the figures of the parity certificate again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smalti.bundle.manifest import AGAIN, Component, Role, TensorSpec
from smalti.bundle.reader import Bundle
from smalti.bundle.safetensors_reader import read_tensors
from smalti.errors import BundleError
from smalti.families.autoregressive.past import Graph
from smalti.verification.comparison import Array, Case, Int32, compare, draw

EACH = 16
"""Draws from each of a predictor's distributions; one draw from its few distributions would tell little."""
RUNS = "runs"
NAME = re.compile(r"([a-z]+(?:_[0-9]+)?)\.([0-9]{1,4})\.(in|out)\.([a-z]+)")


@dataclass(frozen=True)
class Golden:
    """The golden inputs of a bundle."""

    cases: dict[Role, list[Case]]
    runs: Int32 | None
    """int32 [N, h, w]; None where there are none."""


def read_golden(bundle: Bundle) -> Golden | None:
    """Read a bundle's golden inputs; None where it has none. Raises BundleError when they do not fit the bundle."""
    record = bundle.manifest.golden
    if record is None:
        return None
    where = f"{bundle.path}: {record.file}"
    found: dict[str, dict[int, Case]] = {}
    tensors = read_tensors(bundle.read(record.file), where)
    runs = tensors.pop(RUNS, None)
    for name, array in tensors.items():
        named = NAME.fullmatch(name)
        if named is None:
            raise BundleError(f"{where}: {name!r} is neither an input nor an answer of a case")
        role, index, way, key = named.groups()
        case = found.setdefault(role, {}).setdefault(int(index), Case({}, {}))
        (case.inputs if way == "in" else case.outputs)[key] = array
    if unknown := sorted(set(found) - set(bundle.manifest.components)):
        raise BundleError(f"{where}: it has cases of {', '.join(unknown)}, which the bundle has not")
    cases: dict[Role, list[Case]] = {
        role: [found[role][index] for index in sorted(found[role])]
        for role in bundle.manifest.components
        if role in found
    }
    for role, asked in cases.items():
        for case in asked:
            _check_case(bundle.manifest.components[role], role, case, where)
    latent = bundle.manifest.latent
    if runs is not None and (runs.dtype != np.int32 or runs.shape[1:] != latent.grid or not len(runs)):
        raise BundleError(f"{where}: runs must be int32 [N, {latent.grid[0]}, {latent.grid[1]}]")
    return Golden(cases, runs)


ANSWERS: dict[Role, str] = {"denoiser": "draws", "predictor": "draws", "encoder": "tokens"}
"""The answer that every case must contain; of decoders and previews it is "images"."""


def _check_case(component: Component, role: Role, case: Case, where: str) -> None:
    """Raise BundleError unless a case has its component's inputs and answer, with the right dtypes and axes."""
    draws = TensorSpec(name="draws", dtype="int32", shape=("n", "r"))
    kinds = {
        "in": (case.inputs, component.inputs),
        "out": (case.outputs, (*component.outputs, draws)),
    }
    for way, (arrays, specs) in kinds.items():
        axes = {spec.name: (spec.dtype, len(spec.shape)) for spec in specs}
        for name, array in arrays.items():
            wrong = f"{where}: {way}.{name} of the {role} is {array.dtype.name} {list(array.shape)}"
            if axes.get(name) != (array.dtype.name, array.ndim):
                raise BundleError(f"{wrong}, which its graph does not have. {AGAIN}")
            if way == "out" and (not array.size or not np.isfinite(array).all()):
                raise BundleError(f"{wrong}, and holds nothing, or what is no number. {AGAIN}")
    if lacking := [spec.name for spec in component.inputs if spec.name not in case.inputs]:
        raise BundleError(f"{where}: a case of the {role} lacks {', '.join(lacking)}. {AGAIN}")
    if (answer := ANSWERS.get(role, "images")) not in case.outputs:
        raise BundleError(f"{where}: a case of the {role} lacks its answer, {answer}. {AGAIN}")


def draw_next(logits: NDArray[np.float32], temperature: float, case: int) -> Int32:
    """Draw ``EACH`` tokens from every row of a predictor's logits [n, K]: int32 [n, EACH]."""
    places = np.tile(np.arange(EACH, dtype=np.int32), (len(logits), 1))
    return draw(np.repeat(logits[:, None], EACH, axis=1), places, EACH, EACH, temperature, case)


def compare_golden(bundle: Bundle, role: Role, cases: Sequence[Case], graph: Graph) -> dict[str, float]:
    """Measure a component's ``graph`` on golden cases; return figures named as in the parity certificate.

    See :func:`smalti.verification.comparison.compare` for the figures.

    Raises BundleError when cases do not fit.
    """
    where = f"{bundle.path}: the golden inputs of the {role}"
    return compare(cases, graph, lambda logits, case, index: _draws(bundle, role, logits, case, index), where)


def _draws(bundle: Bundle, role: Role, logits: Array, case: Case, index: int) -> Int32:
    """Draw tokens from a prior's logits with the noise of case ``index``; all are -2 if a logit is not finite."""
    temperature = bundle.manifest.sampler.temperature
    if not np.isfinite(logits).all():
        return np.full(case.outputs["draws"].shape, -2, np.int32)
    if role == "predictor":
        return draw_next(logits, temperature, index)
    height, width = bundle.manifest.latent.grid
    rows = case.inputs.get("rows")
    if rows is None or logits.shape[:2] != rows.shape or ((rows < 0) | (rows >= height * width)).any():
        raise BundleError(f"{bundle.path}: the golden inputs of the {role} ask for rows that are not in its grid")
    return draw(logits, rows, width, height * width, temperature, index)
