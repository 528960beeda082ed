"""Sampling of multinomial diffusion (Hu et al. 2022): tokens start as noise, and every step takes some of it away.

Equations and sections are those of that paper. Times count as in training: T - 1 is the noisiest, 0 the least noisy,
and CLEAN (-1) is the grid without noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smalti.bundle.manifest import NoiseKind
from smalti.errors import UsageError
from smalti.families.absorbing.sampler import Denoiser, Sample, ask
from smalti.families.batching import Bools, Int32, Integers, movable_places, of_rows, portions, side_by_side
from smalti_kernels import STREAM_SUBSET, random_words, sample
from smalti_kernels.spec import mixtures
from smalti_kernels.spec.guidance import guided

AtTime = Callable[[int], Denoiser]
"""Function from a time, 0 .. T - 1, to the denoiser for grids that are as noisy as that."""
Float64 = NDArray[np.float64]

CLEAN = -1
"""The time of the grid without noise."""
OFFSET = 0.008
"""s of eq. 19."""
GREATEST_FAVOUR = 64.0
"""Nats by which a step that adds no noise favours a token over all others: they are never drawn."""
LEAST_ALPHA = 0.001
"""Least alpha of a step, before the root (Nichol and Dhariwal 2021 clip beta at 0.999)."""


def cosine_alphas(steps: int, kind: NoiseKind) -> Float64:
    """Return the probability that step t = 0 .. T - 1 keeps a token as it is: float64 [T], with T = ``steps``.

    This is a cosine schedule: steps 0 .. t together keep a token with probability f(t + 1) / f(0), where f(t) is
    cos^2((t/T + s) / (1 + s) * pi/2) (eq. 19). ``printed`` is that schedule. ``released`` takes the square root of each
    step's alpha; the published models were trained with it. Its noise comes later: half of T keeps 0.70 of the tokens,
    and not 0.49. In both, the last alphas would fall to zero; they stop at ``LEAST_ALPHA`` before the root.

    Raises UsageError unless ``steps`` is at least 1.
    """
    if steps < 1:
        raise UsageError(f"steps {steps}: at least 1 is needed")
    kept = np.cos((np.arange(steps + 1) / steps + OFFSET) / (1 + OFFSET) * (np.pi / 2)) ** 2
    alphas = (kept[1:] / kept[:-1]).clip(LEAST_ALPHA, 1)
    return np.sqrt(alphas) if kind == "released" else alphas


@dataclass(frozen=True)
class Strides:
    """Table of what every step of a run does. It can be printed, tested and replayed. Arrays are [S]."""

    times: Integers
    """Time at which each step begins, T - 1 first. A step ends at the time of the next one, the last at CLEAN."""
    kept: Float64
    """Probability that noise keeps a token, from the time where the step ends to the time where it begins."""
    clean: Float64
    """Probability that a token at the step's end is still the clean grid's; 1 at the last step."""
    seen: Float64
    """Probability that a token at the step's beginning is still the clean grid's."""

    @property
    def steps(self) -> int:
        """S: number of network calls."""
        return len(self.times)


def strides(steps: int, alphas: Float64) -> Strides:
    """Lay out a run of ``steps`` even strides, 1 .. T, over ``alphas`` (float64 [T], see :func:`cosine_alphas`).

    T steps are the published process. Fewer steps use q(z_{t-d} | z_t, x0), the posterior of d steps at once. It has
    the same form: eq. 20 with products of d alphas. Raises UsageError for fewer than 1 step or more than T.
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
    """Take noise away, step by step, by z_s ~ p(z_s | z_t) (eq. 22), and yield the grids int32 [N, L] after each step.

    Inpainting (section 3.3): before each step, tokens that are not free get noise of the step's time, drawn anew from
    q(z_t | x0). So the network sees one level of noise everywhere. The yielded grids hold these tokens without noise.
    (The paper's formula has the mask the wrong way round; its text does not.)

    Args:
        at: gives the denoiser of a time. It is asked at the free positions only.
        tokens: int32 [N, L], the start, 0 .. K - 1; not modified. Free positions hold uniform noise (see
            :func:`smalti.families.sundae.sampler.start_tokens`), the others the tokens that stay.
        table: see :func:`strides`.
        codes: K.
        seeds: one for each sample.
        labels: int32 [N].
        width: columns of the grid.
        free: bool [N, L], the positions that may change; None frees all. A sample without a free position is left
            alone.
        temperature: temperature of x0_hat, above 0. It does not change the noise.
        top_k: cuts x0_hat to its k likeliest codes, ties included; 0 keeps all.
        top_p: then cuts it to the fewest codes that together have this probability, ties included; 1 keeps all.
        guidance: as in :func:`smalti.families.absorbing.sampler.run`.
        no_label: label of the unguided question.

    Raises:
        UsageError: tokens, labels or ``free`` have another shape.
        SamplingError: logits are NaN or leave nothing to draw.
    """
    movable = movable_places(tokens, labels, free)
    weights = [posterior_weights(*chances, codes) for chances in zip(table.kept, table.clean)]
    seed_array = np.asarray(seeds, np.uint64)
    owner, position = np.nonzero(movable)
    for step in range(table.steps if len(owner) else 0):
        denoiser, now = at(int(table.times[step])), tokens
        shown = noised(tokens, movable, seed_array, step, float(table.seen[step]), codes, width)
        for part in portions(owner):
            own, place = owner[part], position[part]
            who, line, column, rows = side_by_side(own, place)
            logits, uncond = ask(denoiser, shown[who], labels[who], rows, guidance, no_label)
            wanted = of_rows(logits, line, column)
            if uncond is not None:
                wanted = guided(wanted, of_rows(uncond, line, column), guidance)
            clean = mixtures.shares(wanted, temperature, top_k, top_p)
            tokens = draw(
                mixtures.posterior(clean, now[own, place], *weights[step]),
                tokens,
                sample=own,
                position=place,
                seeds=seed_array,
                step=step,
                width=width,
                temperature=1.0,
            ).tokens
        yield tokens


def posterior_weights(kept: float, share: float, codes: int) -> tuple[int, int, int]:
    """Weights of p(z_s | z_t), eq. 20 to 22 over any stride, for :func:`smalti_kernels.spec.mixtures.posterior`.

    p is proportional to q(z_t | z_s) * (share * x0_hat + (1 - share) / K). Noise keeps a token from s to t with
    probability ``kept``, and from the clean grid to s with probability ``share``. The token z_t is favoured by the
    logarithm of what q gives it over what it gives others.
    """
    other = (1 - kept) / codes
    favour = math.log((kept + other) / other) if other > 0 else GREATEST_FAVOUR
    return (
        round(share * 2**mixtures.SHARE_BITS),
        round((1 - share) / codes * 2 ** (2 * mixtures.SHARE_BITS)),
        round(min(favour, GREATEST_FAVOUR) * 2**16),
    )


def noised(
    tokens: Int32, free: Bools, seeds: NDArray[np.uint64], step: int, seen: float, codes: int, width: int
) -> Int32:
    """Return the grids with noise on the tokens that are not free; each stays with probability ``seen``."""
    owner, position = np.nonzero(~free)
    y, x = np.divmod(position, width)
    words = random_words(seeds[owner], stream=STREAM_SUBSET, step=step, y=y, x=x)
    loses = words[:, 0] >= int(seen * 2**32)
    shown = tokens.copy()
    any_code = words[loses, 1].astype(np.uint64) * np.uint64(codes) >> np.uint64(32)
    shown[owner[loses], position[loses]] = any_code.astype(np.int32)
    return shown
