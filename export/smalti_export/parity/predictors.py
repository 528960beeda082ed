"""The parity of predictors, which draw one token after the other: their inputs and their comparison."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalti.families.autoregressive import sampler as autoregressive
from smalti.families.autoregressive.past import Graph, next_logits
from smalti_export.parity.certificate import greatest_error, logit_figures, run_figures
from smalti_export.precision.activation_ranges import Feed
from smalti_kernels import sample

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

    grid: tuple[int, int]
    codes: int
    classes: int
    past: tuple[int, int, int]
    """2 * layers, heads, d."""
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0
    grids: int = GRIDS
    """Number of whole runs; labels cycle, seeds are 0, 1, ..."""

    def whole_runs(self, graph: Graph) -> NDArray[np.int32]:
        """Tokens (int32 [grids, h*w]) of whole runs, drawn step by step as in the runtime."""
        *_, tokens = autoregressive.run(
            next_logits(graph, self.codes, self.past, self.grids),
            np.full((self.grids, self.grid[0] * self.grid[1]), self.codes, np.int32),
            mask=self.codes,
            seeds=range(self.grids),
            labels=(np.arange(self.grids) % max(1, self.classes)).astype(np.int32),
            width=self.grid[1],
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            guidance=self.guidance,
            no_label=self.classes,
        )
        return tokens

    def draws(self, logits: NDArray[np.float32], seed: int, each: int) -> NDArray[np.int32]:
        """Draw ``each`` tokens from every row of logits [n, K]; an equal ``seed`` gives equal noise.

        ``top_k`` is ignored: near its edge, a tiny error of one logit would change many draws.
        """
        rows = np.repeat(logits, each, axis=0)
        return sample(
            rows,
            np.full((len(rows), 1), self.codes, np.int32),
            sample=np.arange(len(rows)),
            position=np.zeros(len(rows), np.int64),
            seeds=np.arange(len(rows)) + 100_000 * seed,
            step=0,
            width=1,
            temperature=self.temperature,
        ).tokens[:, 0]


class PredictorReference:
    """A torch model's logits on real inputs and its whole runs, computed once and compared with each variant."""

    def __init__(self, graph: Graph, feeds: list[Feed], turns: Turns) -> None:
        self.feeds, self.turns = feeds, turns
        self.logits = [graph(feed)[0] for feed in feeds]
        self.runs = turns.whole_runs(graph)


def compare_predictors(
    reference: PredictorReference, variant: Graph, draws: int, runs: bool = True
) -> dict[str, float]:
    """Measure a predictor on prefixes of real grids and, with ``runs``, on whole runs; give the figures of denoisers.

    ``logit_error`` is the greatest difference over the standard deviation of the reference's logits. ``draw_agreement``
    is the share of equal tokens in at least ``draws`` draws with equal noise, as many from each distribution.
    ``grid_agreement`` is the share of equal tokens in whole runs.
    """
    error, spread, same, drawn = 0.0, 0.0, 0, 0
    turns = reference.turns
    each = math.ceil(draws / sum(map(len, reference.logits)))
    for index, (feed, expected) in enumerate(zip(reference.feeds, reference.logits)):
        found = variant(feed)[0]
        error = max(error, greatest_error(expected, found))
        spread = max(spread, float(expected.std()))
        one, other = (turns.draws(logits, index, each) for logits in (expected, found))
        same += int((one == other).sum())
        drawn += len(one)
    figures = logit_figures(error, spread, same, drawn)
    return figures | (run_figures(reference.runs, turns.whole_runs(variant)) if runs else {})
