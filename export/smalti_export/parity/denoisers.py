"""The parity of denoisers, which draw many tokens at once: their inputs and their comparison."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalti.bundle.manifest import Manifest, Noise
from smalti.errors import UsageError
from smalti.families.autoregressive.sampler import NextLogits
from smalti.families.multinomial.sampler import cosine_alphas
from smalti.families.registry import family_of
from smalti.verification.comparison import Case, compare, compare_runs, draw
from smalti_export.parity.certificate import Run, whole_runs
from smalti_export.precision.activation_ranges import Feed


def denoiser_feeds(
    tokens: NDArray[np.integer[Any]],
    labels: NDArray[np.integer[Any]],
    codes: int,
    no_label: int,
    batches: int,
    batch: int,
    *,
    masks: bool,
    noise: Noise | None = None,
    seed: int = 0,
) -> list[Feed]:
    """Inputs of a denoiser as in sampling: real grids (integers [N, L]), of which any share of tokens is replaced.

    All rows are requested. The first half of the batches uses the first half of the grids, the second half the others.
    If the batches need more grids than there are, a grid is used several times with other replacements. Replaced tokens
    become ``codes``, the mask, where the family ``masks``, and random tokens of 0 .. codes - 1 elsewhere. With
    ``noise``, each grid has a time that sets its share of replaced tokens. Random values depend on ``seed`` only. One
    label in eight becomes ``no_label``.
    """
    generator = np.random.default_rng(seed)
    lost = None if noise is None else 1 - cosine_alphas(noise.steps, noise.schedule).cumprod()
    length = tokens.shape[1]
    half, first = batches // 2, min(batches // 2 * batch, len(tokens) // 2)
    feeds: list[Feed] = []
    for index in range(batches):
        start, end, before = (0, first, 0) if index < half else (first, len(tokens), half)
        chosen = start + (np.arange(batch) + (index - before) * batch) % (end - start)
        grids = tokens[chosen].astype(np.int32)
        shares = (generator.permutation(batch) + generator.random()) / batch
        times: Feed = {}
        if lost is not None:
            times["times"] = (shares * len(lost)).astype(np.int32)
            shares = lost[times["times"]]
        spoilt = generator.random(grids.shape) < shares[:, None]
        grids[spoilt] = codes if masks else generator.integers(codes, size=int(spoilt.sum()))
        given = labels[chosen].astype(np.int32)
        feeds.append(
            {
                "tokens": grids,
                "labels": np.where(np.arange(batch) % 8 == 7, no_label, given).astype(np.int32),
                **times,
                "rows": np.tile(np.arange(length, dtype=np.int32), (batch, 1)),
            }
        )
    return feeds


def denoiser_batches(draws: int, batch: int, length: int, *, masks: bool) -> int:
    """Number of batches, each of ``batch`` grids of ``length`` tokens, that give at least ``draws`` draws.

    Where a family ``masks``, half of the tokens are masked on average; 0.45 allows for chance.
    """
    return math.ceil(draws / (batch * length * (0.45 if masks else 1)))


@dataclass(frozen=True)
class Drawing:
    """Sampling settings for comparing denoisers: the bundle's own defaults."""

    manifest: Manifest
    """Manifest of the bundle to be; only its sampling settings are read."""
    grids: int = 16
    """Number of whole runs; labels cycle, seeds are 0, 1, ..."""

    @property
    def masks(self) -> bool:
        """Whether only masked positions are drawn; else any may be, from grids of which some tokens are random."""
        return family_of(self.manifest).masks

    def whole_runs(self, run: Run) -> NDArray[np.int32]:
        """Tokens (int32 [grids, h, w]) of whole runs; UsageError for defaults that the family does not allow."""
        return whole_runs(_Asked(run), self.manifest, self.grids)

    def draws(self, logits: NDArray[np.float32], case: Case, index: int) -> NDArray[np.int32]:
        """Draw tokens (int32 [N, L]) from the logits [N, L, K] of all rows of the case of that number.

        They are -1 where no step would draw: families that mask draw what is masked, the others everything.
        """
        tokens, latent = case.inputs["tokens"], self.manifest.latent
        wanted = tokens == latent.codes if self.masks else np.ones(tokens.shape, np.bool_)
        heat = self.manifest.sampler.temperature
        return draw(logits, case.inputs["rows"], latent.grid[1], tokens.shape[1], heat, index, wanted)


class _Asked:
    """A denoiser's graph as families ask it."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def logits(
        self, tokens: NDArray[np.int32], labels: NDArray[np.int32], rows: NDArray[np.int32], *, time: int | None = None
    ) -> NDArray[np.float32]:
        times = {} if time is None else {"times": np.full(len(tokens), time, np.int32)}
        return self.run({"tokens": tokens, "labels": labels, **times, "rows": rows})

    def next_logits(self) -> NextLogits:
        raise UsageError("a denoiser predicts many tokens at once: use logits")


class DenoiserReference:
    """A torch model's logits on real inputs and its whole runs, computed once and compared with each variant."""

    def __init__(self, run: Run, feeds: list[Feed], drawing: Drawing) -> None:
        self.drawing = drawing
        self.cases: list[Case] = []
        for index, feed in enumerate(feeds):
            case = Case(feed, {"logits": run(feed)})
            case.outputs["draws"] = drawing.draws(case.outputs["logits"], case, index)
            self.cases.append(case)
        self.runs = drawing.whole_runs(run)


def compare_denoisers(reference: DenoiserReference, variant: Run, runs: bool = True) -> dict[str, float]:
    """Measure a denoiser on real grids with some tokens replaced and, with ``runs``, on whole runs.

    There is one draw for each position that a step may draw.
    """
    figures = compare(reference.cases, lambda inputs: [variant(dict(inputs))], reference.drawing.draws)
    return figures | (compare_runs(reference.drawing.whole_runs(variant), reference.runs) if runs else {})
