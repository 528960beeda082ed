"""Golden inputs: inputs of each component, with the torch model's answers at export.

They are stored in one safetensors file. ``ROLE.I.in.NAME`` is an input of case I, ``ROLE.I.out.NAME`` an answer in
fp32:

* ``out.images`` (uint8 [n, H, W, 3]) of decoders and previews; ``out.tokens`` (int32 [n, h, w]) and
  ``out.embedding`` (float32 [n, D]) of encoders;
* ``out.logits`` of priors: float32 [n, r, K] at the first r ``rows`` of a denoiser, [n, K] of a predictor;
* ``out.draws`` of priors, the tokens drawn from all logits with the noise of :func:`draw`: int32 [n, R] of a denoiser,
  -1 where no token is drawn, and int32 [n, EACH] of a predictor;
* ``runs`` (int32 [N, h, w]): whole runs with the bundle's defaults; image i has seed i, and labels cycle.

They allow any machine to measure the figures of the parity certificate again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalti.bundle.manifest import AGAIN, Component, Role, TensorSpec
from smalti.bundle.reader import Bundle
from smalti.bundle.safetensors_reader import read_tensors
from smalti.errors import BundleError
from smalti_kernels import sample

Array = NDArray[Any]
Int32 = NDArray[np.int32]
Graph = Callable[[Mapping[str, Array]], Sequence[Array]]

EACH = 16
"""Draws from each of a predictor's distributions; one draw from its few distributions would tell little."""
RUNS = "runs"
GREATEST = float(np.finfo(np.float32).max)
"""Error assigned to an answer that is not a number."""
NAME = re.compile(r"([a-z]+)\.([0-9]{1,4})\.(in|out)\.([a-z]+)")


@dataclass(frozen=True)
class Case:
    """Inputs of a component's graph, with the expected answers."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]


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


ANSWERS: dict[Role, str] = {
    "denoiser": "draws",
    "predictor": "draws",
    "decoder": "images",
    "preview": "images",
    "encoder": "tokens",
}
"""The answer that every case must contain."""


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
    if ANSWERS[role] not in case.outputs:
        raise BundleError(f"{where}: a case of the {role} lacks its answer, {ANSWERS[role]}. {AGAIN}")


def draw(logits: NDArray[np.float32], places: Int32, width: int, length: int, temperature: float, case: int) -> Int32:
    """Draw tokens int32 [n, r] from logits [n, r, K] at raster ``places`` [n, r] of grids of ``length`` tokens.

    Truncation is off, because near the edge of top-k a tiny error of one logit would change many draws. The step is 0,
    and sample j has seed j + 1000 * ``case``.
    """
    count, each = places.shape
    samples: NDArray[np.int64] = np.arange(count, dtype=np.int64)
    which: NDArray[np.int64] = np.repeat(samples, each)
    drawn = sample(
        np.ascontiguousarray(logits).reshape(count * each, -1),
        np.zeros((count, length), np.int32),
        sample=which,
        position=places.reshape(-1),
        seeds=samples + 1000 * case,
        step=0,
        width=width,
        temperature=temperature,
    )
    return drawn.tokens[which, places.reshape(-1)].reshape(count, each)


def draw_next(logits: NDArray[np.float32], temperature: float, case: int) -> Int32:
    """Draw ``EACH`` tokens from every row of a predictor's logits [n, K]: int32 [n, EACH]."""
    places = np.tile(np.arange(EACH, dtype=np.int32), (len(logits), 1))
    return draw(np.repeat(logits[:, None], EACH, axis=1), places, EACH, EACH, temperature, case)


def compare(bundle: Bundle, role: Role, cases: Sequence[Case], graph: Graph) -> dict[str, float]:
    """Measure a component's ``graph`` on golden cases; return figures named as in the parity certificate.

    Priors have ``logit_error`` (greatest difference over the spread of the answers), ``draw_agreement`` and ``draws``;
    decoders ``psnr`` (dB) and ``greatest_difference`` (of 255); encoders ``token_agreement`` and the least ``cosine``
    of embeddings.

    Raises BundleError when cases do not fit.
    """
    where = f"{bundle.path}: the golden inputs of the {role}"
    errors: list[float] = []
    spreads: list[float] = []
    squares: list[float] = []
    same: list[NDArray[np.bool_]] = []
    cosines: list[float] = []
    drawn: list[NDArray[np.bool_]] = []
    for index, case in enumerate(cases):
        answers = graph(case.inputs)
        answer = np.asarray(answers[0])
        if "images" in case.outputs:
            difference = _fitting(answer, case.outputs["images"], where).astype(np.int16) - case.outputs["images"]
            errors.append(float(np.abs(difference).max()))
            squares.append(float(np.square(difference.astype(np.float64)).mean()))
        elif "tokens" in case.outputs:
            same.append(_fitting(answer, case.outputs["tokens"], where) == case.outputs["tokens"])
            if (known := case.outputs.get("embedding")) is not None:
                if len(answers) < 2:
                    raise BundleError(f"{where} have an embedding, and its graph gives none")
                cosines.append(likeness(_fitting(np.asarray(answers[1]), known, where), known))
        else:
            expected, known = case.outputs["draws"], case.outputs.get("logits")
            tokens = _fitting(_draws(bundle, role, answer, case, index), expected, where)
            drawn.append((tokens == expected)[expected >= 0])
            if known is not None:
                part = _fitting(answer[:, : known.shape[1]] if known.ndim == 3 else answer, known, where)
                errors.append(float(np.nan_to_num(np.abs(part - known), nan=GREATEST, posinf=GREATEST).max()))
                spreads.append(float(known.std()))
    figures: dict[str, float] = {}
    if spreads:
        figures["logit_error"] = max(errors) / max(max(spreads), 1e-12)
    if drawn:
        every = np.concatenate(drawn)
        if not every.size:
            raise BundleError(f"{where} have nothing that is to be drawn")
        figures |= {"draw_agreement": float(every.mean()), "draws": float(every.size)}
    if same:
        figures["token_agreement"] = float(np.mean([part.mean() for part in same]))
    if cosines:
        figures["cosine"] = float(np.min(cosines))  # NaN if one of them is NaN
    if squares:
        figures["psnr"] = float(10 * np.log10(255.0**2 / max(float(np.mean(squares)), 1e-6)))
        figures["greatest_difference"] = max(errors)
    return figures


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


def likeness(found: Array, known: Array) -> float:
    """Return the least cosine between vectors of length 1. A vector of ``found`` with another length lowers it."""
    return float((1 - np.square(found - known).sum(-1) / 2).min())


def _fitting(answer: Array, expected: Array, where: str) -> Array:
    if answer.shape != expected.shape:
        raise BundleError(
            f"{where} do not fit its graph: it answers {list(answer.shape)}, and stored is {list(expected.shape)}"
        )
    return answer
