"""From settings to draws: which sampler runs, and over which schedule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smalti import absorbing, autoregressive, confidence
from smalti.absorbing import Denoiser
from smalti.autoregressive import NextLogits
from smalti.errors import UsageError
from smalti.remasking import remasking_schedule
from smalti.schedule import call_sizes, make_schedule
from smalti.settings import Settings

Int32 = NDArray[np.int32]


@dataclass(frozen=True)
class Run:
    """A run that is laid out: nothing is drawn before its grids are asked for."""

    calls: int
    """How often the network will be asked."""
    grids: Iterator[Int32]
    """int32 [N, h, w] after each call, ``mask`` where a token is still to be drawn."""


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
    answers for grids of that size: see :func:`smalti.canvas.canvas_denoiser` for others than it was trained on.

    Raises UsageError when the settings are those of another family.
    """
    steps, schedule, order, remask = settings.steps, settings.schedule, settings.order, settings.remask
    if steps is None or schedule is None or order is None or remask is None:
        raise UsageError("these settings are of an autoregressive run; resolve them for this bundle")
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
