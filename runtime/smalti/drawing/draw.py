"""Draw the tokens of a run and decode them, at once or step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smalti.backends.base import Backend, ProviderReport, Session
from smalti.backends.device.backend import DeviceBackend
from smalti.backends.device.plan import Program
from smalti.bundle.manifest import PRIOR_ROLES, Manifest, Resolution, Role
from smalti.bundle.reader import Bundle
from smalti.codec import grey
from smalti.codec.batches import decode_images
from smalti.codec.on_device import run_decoded
from smalti.codec.tiles import Decode
from smalti.drawing.result import FROM_NOTHING, Result, Step, Timings
from smalti.drawing.watch import Watch
from smalti.families.absorbing.sampler import fill_masked
from smalti.families.base import Prior, Run, Settings
from smalti.families.registry import family_of
from smalti.saving.recipe import Origin

Int32 = NDArray[np.int32]
Images = list[Image.Image]
Finish = Callable[[Images], Images]
"""What becomes of decoded pictures, at the size of the draw or of a preview."""


class Model(Prior, Protocol):
    """A loaded bundle, as :class:`smalti.Generator` is one."""

    bundle: Bundle
    manifest: Manifest
    backend: Backend
    report: ProviderReport

    def session(self, role: Role) -> Session:
        """Return a component, ready to run."""
        ...


def as_they_are(images: Images) -> Images:
    """Leave pictures as they are decoded."""
    return images


@dataclass(frozen=True)
class Plan:
    """What is to be drawn."""

    start: Int32
    """int32 [N, h, w]; K stands where a token is to be drawn."""
    settings: Settings
    finish: Finish = as_they_are
    origin: Origin = FROM_NOTHING
    """What the draw begins from."""


def draw(model: Model, plan: Plan, watch: Watch, started: float) -> Result:
    """Draw and decode. ``started`` is when the call began, for its timings. Raises Cancelled when it is cancelled."""
    timings, run = Timings(), _laid_out(model, plan)
    if isinstance(model.backend, DeviceBackend) and run.program and watch.on_step is None:
        tokens, images = _on_device(model, model.backend, run.program(), plan, timings, watch)
    else:
        tokens = plan.start
        for step in _steps(model, run, plan, timings, watch):
            tokens = step.tokens
            if watch.on_step is not None:
                watch.on_step(step)
        tokens = tokens.copy()  # a result's may be written to
        images = decoded(model, tokens, timings, plan.settings.resolution, watch)
    timings.host = time.perf_counter() - started - timings.total
    return _result(model, plan, plan.finish(images), tokens, timings)


def stream(model: Model, plan: Plan, watch: Watch) -> Iterator[Step]:
    """Lay out the run now, and draw it step by step as the steps are asked for."""
    return _steps(model, _laid_out(model, plan), plan, Timings(), watch)


def decoded(model: Model, tokens: Int32, timings: Timings, resolution: int | None, watch: Watch) -> Images:
    """Decode tokens int32 [N, h, w] of 0 .. K - 1 at a resolution, by default the first."""
    wanted = model.manifest.resolution(resolution)
    decoder = decoder_of(model, wanted)

    def decode(part: Int32) -> NDArray[np.uint8]:
        watch.check()
        started = time.perf_counter()
        pixels = decoder(part)
        timings.decoder += time.perf_counter() - started
        return pixels

    return decode_images(decode, tokens, wanted.factor, wanted.halo)


def decoder_of(model: Model, resolution: Resolution) -> Decode:
    """Return what turns tokens (int32 [N, h, w]) into pixels (uint8 [N, H, W, 3])."""
    if model.manifest.latent.pixels:
        return partial(grey.to_pixels, codes=model.manifest.latent.codes)
    session = model.session(resolution.decoder)
    return lambda tokens: session({"tokens": tokens})[0]


def _laid_out(model: Model, plan: Plan) -> Run:
    return family_of(model.manifest).lay_out(plan.start, plan.settings, model.manifest)


def _result(model: Model, plan: Plan, images: Images, tokens: Int32, timings: Timings) -> Result:
    return Result(images, tokens, plan.settings, timings, model.report, model.bundle, plan.origin)


def _on_device(
    model: Model, backend: DeviceBackend, program: Program, plan: Plan, timings: Timings, watch: Watch
) -> tuple[Int32, Images]:
    """Draw and decode on the device; return tokens and images."""
    started = time.perf_counter()
    latent, prior = model.manifest.latent, model.session(PRIOR_ROLES[model.manifest.family])
    watch.check()
    with backend.run(program, prior, latent.grid) as run:
        for _ in run.steps():
            timings.calls += 1
            watch.check()
        tokens = run.result()
        timings.network = time.perf_counter() - started  # draws included
        wanted = model.manifest.resolution(plan.settings.resolution)
        if latent.pixels or not tokens.size:
            return tokens, decoded(model, tokens, timings, plan.settings.resolution, watch)
        images = run_decoded(run, backend.bound(model.session(wanted.decoder)), wanted)
        timings.decoder = time.perf_counter() - started - timings.network
    return tokens, images


def _drawn(model: Model, run: Run, timings: Timings) -> Iterator[Int32]:
    """Yield the grids after each step, wherever they are drawn."""
    if not (isinstance(model.backend, DeviceBackend) and run.program):
        yield from run.draw(model, timings.timed, model.backend.sample)
        return
    prior = model.session(PRIOR_ROLES[model.manifest.family])
    with model.backend.run(run.program(), prior, model.manifest.latent.grid) as drawn:
        for _ in drawn.steps():
            timings.calls += 1
            yield drawn.result()


def _steps(model: Model, run: Run, plan: Plan, timings: Timings, watch: Watch) -> Iterator[Step]:
    """Draw call by call."""
    drawn = _drawn(model, run, timings)
    index, codes = 0, model.manifest.latent.codes

    def images(tokens: Int32, spent: Timings) -> Images:
        return plan.finish(decoded(model, tokens, spent, plan.settings.resolution, Watch()))

    def result(tokens: Int32, spent: Timings, step: int) -> Result:
        taken = None if step + 1 == run.calls else step
        partly = replace(plan, origin=msgspec.structs.replace(plan.origin, step=taken))
        return _result(model, partly, images(tokens, spent), tokens, spent)

    while True:
        watch.check()
        started, before = time.perf_counter(), timings.network
        grids = next(drawn, None)
        timings.draw += time.perf_counter() - started - (timings.network - before)
        if grids is None:
            return
        seen = grids.copy()  # the run goes on with its own, whatever is done with these
        seen.setflags(write=False)
        spent, preview = replace(timings), partial(_preview, model, plan)
        yield Step(index, run.calls, seen, plan.settings, spent, images, preview, result, codes)
        index += 1


def _preview(model: Model, plan: Plan, tokens: Int32) -> Images:
    """Rough images of tokens int32 [N, h, w] of 0 .. K, at the first resolution."""
    manifest = model.manifest
    if "preview" not in manifest.components:
        filled = fill_masked(tokens, manifest.latent.codes)
        return plan.finish(decoded(model, filled, Timings(), None, Watch()))
    session, latent = model.session("preview"), manifest.latent
    rough = decode_images(lambda part: session({"tokens": part})[0], tokens, latent.factor, latent.preview_halo)
    return plan.finish(rough)
