"""The parity of predictors, which draw one token after the other: their inputs and their comparison."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalti.bundle.manifest import Manifest
from smalti.errors import UsageError
from smalti.families.autoregressive.past import Graph, next_logits
from smalti.families.autoregressive.sampler import NextLogits
from smalti.verification.comparison import Case, compare, compare_runs, draw
from smalti_export.parity.certificate import whole_runs
from smalti_export.precision.activation_ranges import Feed

GRIDS = 16
"""Most whole runs that are compared."""
PAST = 2**29
"""Most bytes for the keys and values of all whole runs; large models are compared on fewer runs."""


def prefix_feeds(
    tokens: NDArray[np.integer[Any]],
    labels: NDArray[np.integer[Any]],
    start: int,
    past: tuple[int, int, int],
    batches: int,
    batch: int,
) -> list[Feed]:
    """Inputs of a predictor: prefixes of real grids (integers [N, L]) without a past, two lengths per batch of grids.

    Lengths in each half of the list span the whole grid, longest first; each half uses its own half of the grids.
    ``past`` is (2 * layers, heads, d).
    """
    length, count, middle = tokens.shape[1], 2 * batches, len(tokens) // 2
    feeds: list[Feed] = []
    for index in range(count):
        half, place = divmod(index, batches)
        begin, end = (middle, len(tokens)) if half else (0, middle)
        before = (count - 2 - 2 * place + half) * length // count
        chosen = begin + (np.arange(batch) + place // 2 * batch) % (end - begin)
        first = np.full((batch, 1), start, np.int32)
        feeds.append(
            {
                "tokens": np.concatenate([first, tokens[chosen, :before].astype(np.int32)], axis=1),
                "labels": labels[chosen].astype(np.int32),
                "past": np.zeros((past[0], batch, past[1], 0, past[2]), np.float32),
            }
        )
    return feeds


def with_past(graph: Graph, feeds: list[Feed], grids: int) -> list[Feed]:
    """The same feeds; before each half, add a feed with the last tokens of its longest feed and a past.

    ``graph`` computes that past from the tokens before the last. Sampling asks a predictor in this way, and the past
    may be too large for fp16, which is its type inside an fp16 graph. Only the first ``grids`` grids of the longest
    feed are used.
    """
    middle, halves = len(feeds) // 2, list[Feed]()
    for half in (feeds[:middle], feeds[middle:]):
        tokens, labels = half[0]["tokens"][:grids], half[0]["labels"][:grids]
        if tokens.shape[1] > 1:
            _, past = graph({"tokens": tokens[:, :-1], "labels": labels, "past": half[0]["past"][:, :grids]})
            halves.append({"tokens": tokens[:, -1:], "labels": labels, "past": past})
        halves += half
    return halves


def runs_compared(grid: tuple[int, int], past: tuple[int, int, int]) -> int:
    """Number of whole runs of such a predictor that fit in ``PAST`` bytes: at least 1, at most ``GRIDS``."""
    return max(1, min(GRIDS, PAST // (4 * math.prod((*grid, *past)))))


@dataclass(frozen=True)
class Turns:
    """Sampling settings for comparing predictors: the bundle's own defaults."""

    manifest: Manifest
    """Manifest of the bundle to be; only its sampling settings are read."""
    past: tuple[int, int, int]
    """2 * layers, heads, d."""
    grids: int = GRIDS
    """Number of whole runs; labels cycle, seeds are 0, 1, ..."""

    def whole_runs(self, graph: Graph) -> NDArray[np.int32]:
        """Tokens (int32 [grids, h, w]) of whole runs; UsageError for defaults that the family does not allow."""
        return whole_runs(_Asked(graph, self), self.manifest, self.grids)

    def draws(self, logits: NDArray[np.float32], seed: int, each: int) -> NDArray[np.int32]:
        """Draw ``each`` tokens from each row of logits [n, K]: int32 [n, each]. An equal ``seed`` gives equal noise."""
        rows = np.repeat(logits, each, axis=0)[:, None]
        places = np.zeros((len(rows), 1), np.int32)
        return draw(rows, places, 1, 1, self.manifest.sampler.temperature, 100 * seed).reshape(len(logits), each)


class _Asked:
    """A predictor's graph as families ask it."""

    def __init__(self, graph: Graph, turns: Turns) -> None:
        self.graph, self.turns = graph, turns

    def logits(
        self, tokens: NDArray[np.int32], labels: NDArray[np.int32], rows: NDArray[np.int32], *, time: int | None = None
    ) -> NDArray[np.float32]:
        raise UsageError("a predictor predicts one token after the other: use next_logits")

    def next_logits(self) -> NextLogits:
        return next_logits(self.graph, self.turns.manifest.latent.codes, self.turns.past, self.turns.grids)


class PredictorReference:
    """A torch model's logits on real inputs and its whole runs, computed once and compared with each variant.

    From all inputs together, at least ``draws`` tokens are drawn, as many from each distribution.
    """

    def __init__(self, graph: Graph, feeds: list[Feed], turns: Turns, draws: int) -> None:
        self.turns = turns
        self.each = math.ceil(draws / sum(len(feed["tokens"]) for feed in feeds))
        self.cases: list[Case] = []
        for index, feed in enumerate(feeds):
            case = Case(feed, {"logits": graph(feed)[0]})
            case.outputs["draws"] = self.draws(case.outputs["logits"], case, index)
            self.cases.append(case)
        self.runs = turns.whole_runs(graph)

    def draws(self, logits: NDArray[np.float32], case: Case, index: int) -> NDArray[np.int32]:
        """Draw tokens int32 [n, each] from the logits [n, K] of the case of that number."""
        del case
        return self.turns.draws(logits, index, self.each)


def compare_predictors(reference: PredictorReference, variant: Graph, runs: bool = True) -> dict[str, float]:
    """Measure a predictor on prefixes of real grids and, with ``runs``, on whole runs."""
    figures = compare(reference.cases, variant, reference.draws)
    return figures | (compare_runs(reference.turns.whole_runs(variant), reference.runs) if runs else {})
