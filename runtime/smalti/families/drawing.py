"""Which sampler draws a bundle's grids: that of its family, over windows where a canvas is larger than the prior's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from smalti.bundle.manifest import Manifest
from smalti.families.absorbing.sampler import Denoiser
from smalti.families.autoregressive.sampler import NextLogits
from smalti.families.canvas import at_least_a_window, canvas_denoiser
from smalti.families.sampling import Run, draw_absorbing, draw_autoregressive, draw_multinomial, draw_sundae
from smalti.families.settings import Settings

Int32 = NDArray[np.int32]
Timed = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Wraps a network so that its calls are counted."""


class Logits(Protocol):
    """:meth:`smalti.Generator.logits`."""

    def __call__(self, tokens: Int32, labels: Int32, rows: Int32, *, time: int | None = None) -> NDArray[np.float32]:
        """Float32 [N, R, K]."""
        ...


def draw(
    manifest: Manifest,
    logits: Logits,
    next_logits: Callable[[], NextLogits],
    start: Int32,
    settings: Settings,
    timed: Timed,
) -> Run:
    """Lay out a run of the bundle's family that draws what is masked in ``start`` (int32 [N, h, w]; K is the mask).

    ``logits`` and ``next_logits`` are those of :class:`smalti.Generator`, of which the family asks one. What ``start``
    has that is not masked is kept.
    """
    latent, family, classes = manifest.latent, manifest.family, manifest.classes
    indices = [len(classes) if name is None else classes.index(name) for name in settings.labels]
    given: dict[str, Any] = {"labels": np.asarray(indices, np.int32), "no_label": len(classes), "mask": latent.codes}
    if family == "autoregressive":
        return draw_autoregressive(timed(next_logits()), start, settings, **given)
    stride = min(latent.grid) if settings.stride is None else settings.stride
    if family == "absorbing":
        _, height, width = start.shape
        windows = canvas_denoiser(logits, (height, width), latent.grid, stride=stride, mask=latent.codes)
        return draw_absorbing(timed(windows), start, settings, **given)
    whole, inside = at_least_a_window(start, latent.grid, latent.codes)
    _, height, width = whole.shape

    def at(time: int | None) -> Denoiser:
        return timed(canvas_denoiser(partial(logits, time=time), (height, width), latent.grid, stride=stride))

    if manifest.noise is None:
        run = draw_sundae(at(None), whole, settings, **given)
    else:
        run = draw_multinomial(at, whole, settings, noise=manifest.noise, **given)
    return replace(run, grids=(grids[inside] for grids in run.grids))
