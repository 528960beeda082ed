"""The sampler that first draws the tokens of which the network is surest (MaskGIT, Chang et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalti.errors import UsageError
from smalti.families.absorbing.sampler import Denoiser, Sample, ask, asked_rows
from smalti_kernels import STREAM_ORDER, random_words, sample
from smalti_kernels.spec.noise import FRACTION_BITS, gumbel

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

MAX_CHOICE_TEMPERATURE = 1e6
"""Largest choice temperature. The order is random there already, and larger scores would not fit 64 bits."""


@dataclass(frozen=True)
class Confidence:
    """The rule by which each call keeps some of the tokens that were drawn; see :func:`run`."""

    sizes: Int32
    """int32 [N, C], how many positions each call keeps."""
    call_steps: Int32
    """int32 [N, C], the step of each call."""
    steps: int
    seeds: NDArray[np.uint64]
    width: int
    choice_temperature: float

    @property
    def calls(self) -> int:
        """C."""
        return self.sizes.shape[1]

    def rows(self, masked: NDArray[np.bool_], call: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return samples, ascending, and raster positions that a call draws; ``masked`` is bool [N, L]."""
        active = np.flatnonzero(self.sizes[:, call])
        line, position = np.nonzero(masked[active])
        return active[line], position

    def keep(
        self, samples: NDArray[np.intp], positions: NDArray[np.integer[Any]], logprob: Int32, call: int
    ) -> NDArray[np.intp]:
        """Return which of the drawn rows [R] a call keeps. ``samples`` ascend; ``logprob`` is int32 [R]."""
        y, x = np.divmod(positions, self.width)
        step = self.call_steps[samples, call]
        noise = _gumbel(random_words(self.seeds[samples], stream=STREAM_ORDER, step=step, y=y, x=x)[:, 0])
        score = confidence(logprob, noise, self.choice_temperature, step, self.steps)
        return _best(samples, score, self.sizes[:, call])


def run(
    denoiser: Denoiser,
    tokens: Int32,
    sizes: Int32,
    call_steps: Int32,
    *,
    steps: int,
    mask: int,
    seeds: Sequence[int],
    labels: Int32,
    width: int,
    temperature: float | NDArray[np.float32],
    choice_temperature: float = 4.5,
    top_k: int | NDArray[np.int32] = 0,
    top_p: float | NDArray[np.float32] = 1.0,
    guidance: float = 1.0,
    no_label: int = 0,
    draw: Sample = sample,
) -> Iterator[Int32]:
    """Draw every masked position at each call, keep the most confident tokens, and yield the grids after each call.

    The confidence of a token is log p + choice_temperature * (1 - (step + 1) / steps) * Gumbel noise, where p is the
    probability of the drawn token. This is the published rule; the noise fades to nothing at the last step. A choice
    temperature of 4.5 is the published value, 0 keeps the likeliest tokens, and a large one keeps tokens in random
    order. Log-probability and noise are whole numbers, and the noise is a function of (seed, step, position). So equal
    logits keep equal positions on every machine. The lower raster position wins a tie.

    Args:
        denoiser: the prior. It is asked at every masked position, because all of them are drawn.
        tokens: int32 [N, L], the start; ``mask`` stands where a token is to be drawn. It is not modified.
        sizes: int32 [N, C], how many positions each call keeps; their sum is the number of masked positions. See
            :func:`smalti.families.absorbing.schedule.call_sizes`.
        call_steps: int32 [N, C], the step of each call, 0 .. steps - 1; -1 after a sample's last call.
        steps: number of diffusion steps.
        mask: the mask token.
        seeds: one for each sample.
        labels: int32 [N].
        width: columns of the grid.
        temperature: temperature of the draw, above 0: a number, or one per sample.
        choice_temperature: 0 .. MAX_CHOICE_TEMPERATURE.
        top_k: 0 keeps every token; see ``smalti_kernels.sample``. Confidence is measured before truncation.
        top_p: 1 keeps every token; likewise.
        guidance: as in :func:`smalti.families.absorbing.sampler.run`.
        no_label: label of the unguided question.

    Raises:
        UsageError: ``sizes`` do not add up to the masked positions, or the choice temperature is out of range.
        SamplingError: logits are NaN or leave nothing to draw.
    """
    check(choice_temperature)
    masks = (tokens == mask).sum(axis=1)
    if not np.array_equal(sizes.sum(axis=1), masks):
        raise UsageError(f"sizes add up to {sizes.sum(axis=1).tolist()}, and {masks.tolist()} positions are masked")
    seed_array = np.asarray(seeds, np.uint64)
    rule = Confidence(sizes, call_steps, steps, seed_array, width, choice_temperature)
    for call in range(rule.calls):
        active = np.flatnonzero(sizes[:, call])
        masked = tokens[active] == mask
        most = int(masked.sum(axis=1).max())
        rows = np.argsort(~masked, axis=1, kind="stable")[:, :most].astype(np.int32)  # masked ones first
        wanted = np.take_along_axis(masked, rows, axis=1)
        logits, uncond = ask(denoiser, tokens[active], labels[active], rows, guidance, no_label)
        which, _ = np.nonzero(wanted)
        samples, positions, step = active[which], rows[wanted], call_steps[active, call][which]
        drawn = draw(
            asked_rows(logits, wanted),
            tokens,
            sample=samples,
            position=positions,
            seeds=seed_array,
            step=step,
            width=width,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            uncond=None if uncond is None else asked_rows(uncond, wanted),
            guidance=guidance,
            logprob=True,
        )
        assert drawn.logprob is not None
        kept = rule.keep(samples, positions, drawn.logprob, call)
        tokens = tokens.copy()
        tokens[samples[kept], positions[kept]] = drawn.tokens[samples[kept], positions[kept]]
        yield tokens


def check(choice_temperature: float) -> None:
    """Raise UsageError for a choice temperature outside 0 .. MAX_CHOICE_TEMPERATURE."""
    if not 0 <= choice_temperature <= MAX_CHOICE_TEMPERATURE:
        raise UsageError(f"choice_temperature {choice_temperature}: allowed are 0 .. {MAX_CHOICE_TEMPERATURE:g}")


def confidence(logprob: Int32, noise: Int32, choice_temperature: float, step: Int32, steps: int) -> Int64:
    """Return the score of each drawn token (int64 [R], in units of 2^-32 nats); the most confident has the highest.

    ``logprob`` and ``noise`` are int32 [R] in units of 2^-16 nats, ``step`` is int32 [R], 0 .. steps - 1. The choice
    temperature is rounded to a multiple of 2^-16; after that the arithmetic is exact.
    """
    heat = round(choice_temperature * (1 << FRACTION_BITS)) * (steps - 1 - step.astype(np.int64)) // steps
    return (logprob.astype(np.int64) << FRACTION_BITS) + heat * noise


def _gumbel(words: NDArray[np.uint32]) -> Int32:
    """Fixed-point Gumbel noise (int32, in units of 2^-16) of random words."""
    noise, scratch = words.copy(), np.empty_like(words)
    out = np.empty(words.shape, np.int32)
    gumbel(noise, out=out, scratch=scratch, index=np.empty(words.shape, np.intp))
    return out


def _best(which: NDArray[np.intp], score: Int64, sizes: Int32) -> NDArray[np.intp]:
    """Return the rows of each sample's best scores, ``sizes`` [n] of them. ``which`` [R], ascending, is the sample."""
    order = np.lexsort((-score, which))  # stable: in a tie the lower position stays in front
    place = np.arange(len(which)) - np.searchsorted(which, which)
    return order[place < sizes[which]]
