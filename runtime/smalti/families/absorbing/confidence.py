"""Drawing the tokens that the network is surest of first (MaskGIT, Chang et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from smalti.errors import UsageError
from smalti.families.absorbing.sampler import Denoiser, Sample, ask
from smalti_kernels import STREAM_ORDER, random_words, sample
from smalti_kernels.spec.noise import FRACTION_BITS, gumbel

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

MAX_CHOICE_TEMPERATURE = 1e6
"""Beyond it nothing changes (the order is random), and fixed-point scores would not fit 64 bits."""


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
    """At each call draw every masked position, and keep the most confident; yields the grids after each call.

    A token's confidence is log p + choice_temperature * (1 - (step + 1) / steps) * Gumbel noise, where p is the
    probability that it was drawn with: as published, with noise that fades to nothing at the last step (4.5 is the
    published figure; 0 keeps the likeliest, a great one keeps tokens in random order). Log-probability and noise are
    whole numbers and the noise is a function of (seed, step, position), so that equal logits keep equal positions
    everywhere; the lower raster position wins a tie.

    Args:
        denoiser: answers at every masked position, not only at those that are kept.
        tokens: int32 [N, L], the start, ``mask`` where a token is to be drawn; not modified.
        sizes: int32 [N, C], how many positions each call keeps: all masked ones in all. See
            :func:`smalti.families.absorbing.schedule.call_sizes`.
        call_steps: int32 [N, C], the step, 0 .. steps - 1, that each call stands for; -1 after a sample's last.
        steps: S, diffusion steps in all.
        mask: the mask token.
        seeds: one for each sample.
        labels: int32 [N].
        width: columns of the grid.
        temperature: > 0, of the draw: a number, or one per sample.
        choice_temperature: 0 .. MAX_CHOICE_TEMPERATURE.
        top_k: 0 keeps every token; see ``smalti_kernels.sample``. Confidences are those before truncation.
        top_p: 1 keeps every token; likewise.
        guidance: as in :func:`smalti.families.absorbing.sampler.run`.
        no_label: label of the unguided question.

    Raises:
        UsageError: sizes that do not add up to the masked positions, or a choice temperature outside its range.
        SamplingError: logits that are NaN or leave nothing to draw.
    """
    check(choice_temperature)
    masks = (tokens == mask).sum(axis=1)
    if not np.array_equal(sizes.sum(axis=1), masks):
        raise UsageError(f"sizes add up to {sizes.sum(axis=1).tolist()}, and {masks.tolist()} positions are masked")
    seed_array = np.asarray(seeds, np.uint64)
    for call in range(sizes.shape[1]):
        active = np.flatnonzero(sizes[:, call])
        masked = tokens[active] == mask
        most = int(masked.sum(axis=1).max())
        rows = np.argsort(~masked, axis=1, kind="stable")[:, :most].astype(np.int32)  # masked ones first
        wanted = np.take_along_axis(masked, rows, axis=1)
        logits, uncond = ask(denoiser, tokens[active], labels[active], rows, guidance, no_label)
        which, _ = np.nonzero(wanted)
        samples, positions, step = active[which], rows[wanted], call_steps[active, call][which]
        drawn = draw(
            logits[wanted],
            tokens,
            sample=samples,
            position=positions,
            seeds=seed_array,
            step=step,
            width=width,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            uncond=None if uncond is None else uncond[wanted],
            guidance=guidance,
            logprob=True,
        )
        y, x = np.divmod(positions, width)
        noise = _gumbel(random_words(seed_array[samples], stream=STREAM_ORDER, step=step, y=y, x=x)[:, 0])
        assert drawn.logprob is not None
        score = confidence(drawn.logprob, noise, choice_temperature, step, steps)
        kept = _best(which, score, sizes[active, call])
        tokens = tokens.copy()
        tokens[samples[kept], positions[kept]] = drawn.tokens[samples[kept], positions[kept]]
        yield tokens


def check(choice_temperature: float) -> None:
    """Raise UsageError for a choice temperature outside 0 .. MAX_CHOICE_TEMPERATURE."""
    if not 0 <= choice_temperature <= MAX_CHOICE_TEMPERATURE:
        raise UsageError(f"choice_temperature {choice_temperature}: allowed are 0 .. {MAX_CHOICE_TEMPERATURE:g}")


def confidence(logprob: Int32, noise: Int32, choice_temperature: float, step: Int32, steps: int) -> Int64:
    """Score of each drawn token (int64 [R], in units of 2^-32 nats), the most confident highest.

    ``logprob`` and ``noise`` int32 [R] in units of 2^-16 nats; ``step`` int32 [R], 0 .. steps - 1. The temperature is
    rounded to 2^-16, after which all is whole numbers.
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
    """Rows of the ``sizes`` [n] best scores [R] of each sample, where ``which`` [R], ascending, names the samples."""
    order = np.lexsort((-score, which))  # stable: in a tie the lower position stays in front
    place = np.arange(len(which)) - np.searchsorted(which, which)
    return order[place < sizes[which]]
