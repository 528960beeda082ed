"""From settings to draws: which sampler runs, and over which schedule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smalti.bundle.manifest import Noise
from smalti.errors import UsageError
from smalti.families import multinomial, sundae
from smalti.families.absorbing import confidence
from smalti.families.absorbing import sampler as absorbing
from smalti.families.absorbing.remasking import remasking_schedule
from smalti.families.absorbing.sampler import Denoiser
from smalti.families.absorbing.schedule import call_sizes, make_schedule
from smalti.families.autoregressive import sampler as autoregressive
from smalti.families.autoregressive.sampler import NextLogits
from smalti.families.multinomial import AtTime
from smalti.families.settings import Settings

Int32 = NDArray[np.int32]


@dataclass(frozen=True)
class Run:
    """A run that is laid out: nothing is drawn before its grids are asked for."""

    calls: int
    """How many grids there are, one for each call of the network. Of the families sundae and multinomial, one for each
    step, and with sundae the most there can be: the run may end sooner. A step that draws nothing makes no call, one of
    many positions makes several.
    """
    grids: Iterator[Int32]
    """int32 [N, h, w], ``mask`` where a token is still to be drawn."""


def _foreign(settings: Settings) -> UsageError:
    if settings.steps is None:
        whose = "an autoregressive"
    elif settings.proportion:
        whose = "a SUNDAE"
    else:
        whose = "an absorbing" if settings.schedule else "a multinomial"
    return UsageError(f"these settings are of {whose} run; resolve them for this bundle")


def draw_absorbing(
    denoiser: Denoiser,
    start: Int32,
    settings: Settings,
    *,
    labels: Int32,
    no_label: int,
    mask: int,
) -> Run:
    """Lay out how the masked tokens of grids ``start`` (int32 [N, h, w]) are drawn by an absorbing prior.

    ``settings`` says how; ``labels`` int32 [N] and ``no_label`` are what the denoiser calls its labels. ``denoiser``
    answers for grids of that size: see :func:`~smalti.families.canvas.canvas_denoiser` for others than it
    was trained on.

    Raises UsageError when the settings are those of another family.
    """
    steps, schedule, order, remask = settings.steps, settings.schedule, settings.order, settings.remask
    if steps is None or schedule is None or order is None or remask is None:
        raise _foreign(settings)
    count, height, width = start.shape
    tokens, grid = start.reshape(count, -1), (height, width)
    wanted = tokens == mask
    if order == "confidence":
        sizes, call_steps = call_sizes(wanted.sum(axis=1), steps, schedule)
        grids = confidence.run(
            denoiser,
            tokens,
            sizes,
            call_steps,
            steps=steps,
            mask=mask,
            seeds=settings.seeds,
            labels=labels,
            width=width,
            temperature=settings.temperature,
            choice_temperature=settings.choice_temperature or 0.0,
            top_k=settings.top_k,
            top_p=settings.top_p,
            guidance=settings.guidance,
            no_label=no_label,
        )
        return Run(sizes.shape[1], (tokens.reshape(start.shape) for tokens in grids))
    if remask == 0:
        table = make_schedule(settings.seeds, grid, steps, schedule, order, wanted)
    else:
        table = remasking_schedule(settings.seeds, grid, steps, schedule, order, remask, wanted)
    grids = absorbing.run(
        denoiser,
        tokens,
        table,
        seeds=settings.seeds,
        labels=labels,
        width=width,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        guidance=settings.guidance,
        no_label=no_label,
        mask=mask,
    )
    return Run(table.calls, (tokens.reshape(start.shape) for tokens in grids))


def draw_autoregressive(
    predictor: NextLogits,
    start: Int32,
    settings: Settings,
    *,
    labels: Int32,
    no_label: int,
    mask: int,
) -> Run:
    """Lay out how the masked tokens of grids ``start`` (int32 [N, h, w]) are drawn one after the other.

    The arguments are those of :func:`draw_absorbing`; ``mask`` stands where a token is to be drawn.
    """
    count, _, width = start.shape
    tokens = start.reshape(count, -1)
    grids = autoregressive.run(
        predictor,
        tokens,
        mask=mask,
        seeds=settings.seeds,
        labels=labels,
        width=width,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        guidance=settings.guidance,
        no_label=no_label,
    )
    calls = int(np.count_nonzero((tokens == mask).sum(axis=0)))
    return Run(calls, (tokens.reshape(start.shape) for tokens in grids))


def draw_sundae(
    denoiser: Denoiser,
    start: Int32,
    settings: Settings,
    *,
    labels: Int32,
    no_label: int,
    mask: int,
) -> Run:
    """Lay out how the masked tokens of grids ``start`` (int32 [N, h, w]) are drawn by a SUNDAE prior (paper 003).

    The arguments are those of :func:`draw_absorbing`. ``mask`` is the number of codes; where it stands, which may be
    elsewhere in each grid, a uniform random token is put before the network is asked, for the prior knows no mask, and
    only there tokens change.

    Raises UsageError when the settings are those of another family.
    """
    steps, final, proportion = settings.steps, settings.final_temperature, settings.proportion
    if steps is None or final is None or proportion is None or settings.min_steps is None:
        raise _foreign(settings)
    count, height, width = start.shape
    tokens = start.reshape(count, -1)
    free = tokens == mask
    grids = sundae.run(
        denoiser,
        np.where(free, sundae.start_tokens(settings.seeds, (height, width), mask), tokens),
        sundae.annealing(steps, (settings.temperature, final), proportion, settings.min_steps),
        seeds=settings.seeds,
        labels=labels,
        width=width,
        free=free,
        top_k=settings.top_k,
        top_p=settings.top_p,
        guidance=settings.guidance,
        no_label=no_label,
    )
    return Run(steps if free.any() else 0, (tokens.reshape(start.shape) for tokens in grids))


def draw_multinomial(
    at: AtTime,
    start: Int32,
    settings: Settings,
    *,
    labels: Int32,
    no_label: int,
    mask: int,
    noise: Noise,
) -> Run:
    """Lay out how the masked tokens of grids ``start`` (int32 [N, h, w]) are drawn by multinomial diffusion.

    The arguments are those of :func:`draw_sundae`, but that ``at`` gives the denoiser of each time; ``noise`` says what
    the times mean.

    Raises UsageError when the settings are those of another family.
    """
    if settings.steps is None or settings.proportion is not None or settings.schedule is not None:
        raise _foreign(settings)
    count, height, width = start.shape
    tokens = start.reshape(count, -1)
    free = tokens == mask
    table = multinomial.strides(settings.steps, multinomial.cosine_alphas(noise.steps, noise.schedule))
    grids = multinomial.run(
        at,
        np.where(free, sundae.start_tokens(settings.seeds, (height, width), mask), tokens),
        table,
        codes=mask,
        seeds=settings.seeds,
        labels=labels,
        width=width,
        free=free,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        guidance=settings.guidance,
        no_label=no_label,
    )
    return Run(table.steps if free.any() else 0, (tokens.reshape(start.shape) for tokens in grids))
