"""How close a graph comes to the answers expected of it: the figures of parity certificates.

There is one implementation. The export compares each variant with the torch models; ``verify --run`` compares it with
the golden inputs in the bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalti.errors import BundleError
from smalti.families.autoregressive.past import Graph
from smalti_kernels import sample

Array = NDArray[Any]
Int32 = NDArray[np.int32]

GREATEST = float(np.finfo(np.float32).max)
"""Error assigned to an answer that is not a number."""


@dataclass(frozen=True)
class Case:
    """Inputs of a component's graph, with the expected answers.

    These are ``images`` (uint8 [n, H, W, 3]) of decoders and previews; ``tokens`` (int32 [n, h, w]) of encoders and,
    with them, ``embedding`` (float32 [n, D]); ``draws`` of priors (int32 of any shape, below 0 where nothing is drawn)
    and, with them, ``logits``: float32 [n, K], or [n, r, K] of the first r rows.
    """

    inputs: dict[str, Array]
    outputs: dict[str, Array]


Draw = Callable[[NDArray[np.float32], Case, int], Int32]
"""From a prior's logits for a case, the case and its number to tokens of the shape of the case's ``draws``."""


def compare(
    cases: Iterable[Case], graph: Graph, draw: Draw | None = None, where: str = "the expected answers"
) -> dict[str, float]:
    """Figures of a component's ``graph`` on ``cases``, named as in the parity certificate.

    Priors have ``logit_error`` (greatest difference over the standard deviation of the answers), ``draw_agreement``
    (the share of equal tokens drawn with equal noise) and ``draws`` (their number); decoders ``psnr`` (dB) and
    ``greatest_difference`` (of 255); encoders ``token_agreement`` and the least ``cosine`` of embeddings.

    ``draw`` is needed for priors. ``where`` begins error messages. Raises BundleError when answers and expected ones do
    not fit.
    """
    errors: list[float] = []
    spreads: list[float] = []
    squares: list[float] = []
    same: list[float] = []
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
            same.append(float((_fitting(answer, case.outputs["tokens"], where) == case.outputs["tokens"]).mean()))
            if (known := case.outputs.get("embedding")) is not None:
                if len(answers) < 2:
                    raise BundleError(f"{where} have an embedding, and its graph gives none")
                cosines.append(likeness(_fitting(np.asarray(answers[1]), known, where), known))
        else:
            if draw is None:
                raise ValueError("priors are compared by what is drawn from their logits: draw is needed")
            expected, known = case.outputs["draws"], case.outputs.get("logits")
            tokens = _fitting(draw(answer, case, index), expected, where)
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
        figures["token_agreement"] = float(np.mean(same))
    if cosines:
        figures["cosine"] = float(np.min(cosines))  # NaN if one of them is NaN
    if squares:
        figures["psnr"] = float(decibels(sum(square / len(squares) for square in squares), 1e-6))
        figures["greatest_difference"] = max(errors)
    return figures


def compare_runs(found: Int32, expected: Int32) -> dict[str, float]:
    """Share of equal tokens in whole runs, int32 [N, ...], where one different draw changes all later ones; and N."""
    return {"grid_agreement": float((found == expected).mean()), "grids": float(len(expected))}


def run_labels(classes: Sequence[str], count: int) -> list[str | None]:
    """Labels of the whole runs that are compared, of which there are ``count``: the classes in turn, None without."""
    return [classes[index % len(classes)] if classes else None for index in range(count)]


def draw(
    logits: NDArray[np.float32],
    places: Int32,
    width: int,
    length: int,
    temperature: float,
    case: int,
    wanted: NDArray[np.bool_] | None = None,
) -> Int32:
    """Draw tokens int32 [n, r] from logits [n, r, K] at raster ``places`` [n, r] of grids of ``length`` tokens.

    Truncation is off, because near the edge of top-k a tiny error of one logit would change many draws. The step is 0,
    and sample j has seed j + 1000 * ``case``. Only where ``wanted`` (bool [n, r], by default everywhere) tokens are
    drawn; elsewhere they are -1. Raises SamplingError for logits of which nothing can be drawn.
    """
    rows, columns = np.ones(places.shape, np.bool_).nonzero() if wanted is None else wanted.nonzero()
    there = places[rows, columns]
    drawn = sample(
        np.ascontiguousarray(logits[rows, columns]),
        np.zeros((len(places), length), np.int32),
        sample=rows,
        position=there,
        seeds=np.arange(len(places)) + 1000 * case,
        step=0,
        width=width,
        temperature=temperature,
    )
    tokens = np.full(places.shape, -1, np.int32)
    tokens[rows, columns] = drawn.tokens[rows, there]
    return tokens


def likeness(found: Array, known: Array) -> float:
    """The least cosine of two arrays of vectors of length 1; less where vectors in ``found`` have another length."""
    return float((1 - np.square(found - known).sum(-1) / 2).min())


def decibels(error: float | NDArray[np.float64], least: float = 1e-10) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio in dB of mean squared differences of pixels of 0 .. 255, ``least`` or more each."""
    return 10 * np.log10(255.0**2 / np.maximum(error, least))


def _fitting(answer: Array, expected: Array, where: str) -> Array:
    if answer.shape != expected.shape:
        raise BundleError(
            f"{where} do not fit its graph: it answers {list(answer.shape)}, and stored is {list(expected.shape)}"
        )
    return answer
