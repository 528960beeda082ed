"""Sampling of multinomial diffusion (Hu et al. 2022): tokens start as noise, and every step takes some of it away.

Equations and sections are theirs.

Times count as in training: t = T - 1 is the noisiest, 0 the least noisy, and CLEAN (-1) the grid itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalti.bundle.manifest import NoiseKind
from smalti.errors import UsageError
from smalti.families.absorbing.sampler import Denoiser, Sample, ask
from smalti.families.batching import Bools, Int32, Integers, movable_places, of_rows, portions, side_by_side
from smalti_kernels import STREAM_SUBSET, random_words, sample

AtTime = Callable[[int], Denoiser]
"""The denoiser of a time 0 .. T - 1: the network is told how noisy what it sees is."""
Float64 = NDArray[np.float64]

CLEAN = -1
"""The time of the grid without noise."""
OFFSET = 0.008
"""s of eq. 19."""
LEAST_ALPHA = 0.001
"""A step keeps no smaller share of the squared chance than this (Nichol and Dhariwal 2021 clip beta at 0.999)."""


def cosine_alphas(steps: int, kind: NoiseKind) -> Float64:
    """The chance that each step t = 0 .. T - 1 keeps a token as it is, float64 [T], T = ``steps``.

    Cosine schedule: the chance that all of steps 0 .. t keep it is f(t + 1) / f(0), f(t) = cos^2((t/T + s) / (1 + s) *
    pi/2) (eq. 19). ``printed`` is just that. ``released`` is the square root of each step's alpha, which published
    models were trained with: noise comes later (half of T keeps 0.70 of the tokens and not 0.49). In both the last
    alphas, which fall to zero, stop at ``LEAST_ALPHA`` before the root. Raises UsageError unless ``steps`` is at
    least 1.
    """
    if steps < 1:
        raise UsageError(f"steps {steps}: at least 1 is needed")
    kept = np.cos((np.arange(steps + 1) / steps + OFFSET) / (1 + OFFSET) * (np.pi / 2)) ** 2
    alphas = (kept[1:] / kept[:-1]).clip(LEAST_ALPHA, 1)
    return np.sqrt(alphas) if kind == "released" else alphas


@dataclass(frozen=True)
class Strides:
    """What every step of a run does: a table that can be printed, tested and replayed. Arrays are [S]."""

    times: Integers
    """t of each step, T - 1 at first; the step goes to the next one's, and the last to CLEAN."""
    kept: Float64
    """Chance that a token stays as it is from where the step ends to where it begins, noise being added."""
    clean: Float64
    """Chance that a token where the step ends is still that of the clean grid; 1 at the last."""
    seen: Float64
    """The same where the step begins."""

    @property
    def steps(self) -> int:
        """S: calls of the network."""
        return len(self.times)


def strides(steps: int, alphas: Float64) -> Strides:
    """Lay out a run of ``steps`` even strides, 1 .. T, over the noise ``alphas`` (float64 [T], see cosine_alphas).

    As many steps as T are the process as published. Fewer go by q(z_{t-d} | z_t, x0), the posterior of d steps at once,
    which is of the same form (eq. 20 with the products of d alphas). Raises UsageError for fewer than 1 or more than T.
    """
    if not 1 <= steps <= len(alphas):
        raise UsageError(f"steps {steps}: allowed are 1 .. {len(alphas)}, the steps that this prior was trained with")
    stops = np.rint(np.linspace(len(alphas) - 1, CLEAN, steps + 1)).astype(np.intp)
    since_clean = np.concatenate(([0.0], np.log(alphas).cumsum()))  # at time t: of t + 1 steps
    begin, end = since_clean[stops[:-1] + 1], since_clean[stops[1:] + 1]
    return Strides(stops[:-1], np.exp(begin - end), np.exp(end), np.exp(begin))


def run(
    at: AtTime,
    tokens: Int32,
    table: Strides,
    *,
    codes: int,
    seeds: Sequence[int],
    labels: Int32,
    width: int,
    free: Bools | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance: float = 1.0,
    no_label: int = 0,
    draw: Sample = sample,
) -> Iterator[Int32]:
    """Take noise away, step by step, by z_s ~ p(z_s | z_t) (eq. 22); yields the grids (int32 [N, L]) after each step.

    Inpainting (section 3.3). Before each step the tokens that are not free are given the noise of its time, drawn from
    q(z_t | x0) anew, so that the network sees a grid of one noise level; what is yielded has them without noise. (The
    paper's formula has the mask the wrong way round; its text does not.)

    Args:
        at: the denoiser of a time; asked at the free positions only.
        tokens: the start, int32 [N, L], 0 .. K - 1, not modified: uniform noise where free (see
            ``smalti.families.sundae.sampler.start_tokens``), and elsewhere the tokens that stay.
        table: see :func:`strides`.
        codes: K.
        seeds: one for each sample.
        labels: int32 [N].
        width: columns of the grid.
        free: bool [N, L], positions that may change, all by default. Each sample may have its own; a sample with none
            is left alone.
        temperature: of x0_hat, above 0. The noise that is taken away, and the noise that stays, are what they are.
        top_k: x0_hat is cut to its k likeliest codes, ties included; 0 keeps all.
        top_p: then to the fewest that hold this share of the chance, ties included; 1 keeps all.
        guidance: as in :func:`smalti.families.absorbing.sampler.run`.
        no_label: label of the unguided question.

    Raises:
        UsageError: tokens, labels or ``free`` of another shape.
        SamplingError: logits that are NaN or leave nothing to draw.
    """
    movable = movable_places(tokens, labels, free)
    seed_array = np.asarray(seeds, np.uint64)
    owner, position = np.nonzero(movable)
    for step in range(table.steps if len(owner) else 0):
        denoiser, now = at(int(table.times[step])), tokens
        shown = _noised(tokens, movable, seed_array, step, float(table.seen[step]), codes, width)
        for part in portions(owner):
            own, place = owner[part], position[part]
            who, line, column, rows = side_by_side(own, place)
            logits, uncond = ask(denoiser, shown[who], labels[who], rows, guidance, no_label)
            wanted = of_rows(logits, line, column)
            if uncond is not None:
                base = of_rows(uncond, line, column)
                wanted = base + np.float32(guidance) * (wanted - base)
            clean = clean_chances(wanted, temperature, top_k, top_p)
            tokens = draw(
                posterior(clean, now[own, place], float(table.kept[step]), float(table.clean[step])),
                tokens,
                sample=own,
                position=place,
                seeds=seed_array,
                step=step,
                width=width,
                temperature=1.0,
            ).tokens
        yield tokens


def clean_chances(
    logits: NDArray[np.floating[Any]], temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Float64:
    """x0_hat: softmax(logits / temperature) (float64 [R, K]) of ``logits`` [R, K], cut to its likeliest codes.

    ``top_k`` and ``top_p`` as in :func:`run`. A row that is no distribution (NaN, or all -inf) becomes NaN.
    """
    scaled = logits.astype(np.float64) / temperature
    if 0 < top_k < scaled.shape[1]:
        last = -np.partition(-scaled, top_k - 1, axis=1)[:, top_k - 1]
        scaled = np.where(scaled >= last[:, None], scaled, -np.inf)
    with np.errstate(invalid="ignore"):
        weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        chances: Float64 = weights / weights.sum(axis=1, keepdims=True)
    if top_p < 1:
        falling = -np.sort(-chances, axis=1)
        fewest = (falling.cumsum(axis=1) < top_p).sum(axis=1).clip(max=chances.shape[1] - 1)
        least = np.take_along_axis(falling, fewest[:, None], axis=1)
        chances = np.where(chances < least, 0.0, chances)
        chances /= chances.sum(axis=1, keepdims=True)
    return chances


def posterior(clean: Float64, tokens: Int32, kept: float, share: float) -> NDArray[np.float32]:
    """Log of p(z_s | z_t) up to a factor (float32 [R, K]), eq. 20 to 22 over any stride.

    q(z_t | z_s) * (share * x0_hat + (1 - share) / K): ``clean`` float64 [R, K] is x0_hat, ``tokens`` int [R] are z_t,
    ``kept`` is the chance that a token stays from s to t, and ``share`` that it stays from the clean grid to s.
    """
    codes = clean.shape[1]
    before = share * clean + (1 - share) / codes
    stays = np.arange(len(tokens)), tokens
    own = before[stays] * (kept + (1 - kept) / codes)
    before *= (1 - kept) / codes
    before[stays] = own
    with np.errstate(divide="ignore"):  # a code without any chance is -inf, which is never drawn
        return np.log(before).astype(np.float32)


def _noised(
    tokens: Int32, free: Bools, seeds: NDArray[np.uint64], step: int, seen: float, codes: int, width: int
) -> Int32:
    """The grids with the noise of a step's time on the tokens that are not free: each stays with chance ``seen``."""
    owner, position = np.nonzero(~free)
    y, x = np.divmod(position, width)
    words = random_words(seeds[owner], stream=STREAM_SUBSET, step=step, y=y, x=x)
    loses = words[:, 0] >= int(seen * 2**32)
    shown = tokens.copy()
    any_code = words[loses, 1].astype(np.uint64) * np.uint64(codes) >> np.uint64(32)
    shown[owner[loses], position[loses]] = any_code.astype(np.int32)
    return shown
