"""The multinomial family (Hoogeboom et al. 2021; Hu et al. 2022): it takes noise from the tokens, step by step."""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from smalti.bundle.manifest import Manifest, SamplerDefaults
from smalti.errors import UsageError
from smalti.families.absorbing.sampler import Denoiser
from smalti.families.base import Asked, Family, Int32, Prior, Run, Settings, common_arguments, part_of
from smalti.families.canvas import at_least_a_window, canvas_denoiser
from smalti.families.checks import whole, window_stride
from smalti.families.multinomial import sampler
from smalti.families.multinomial.program import denoising_steps
from smalti.families.programs import program_of, windowed_canvas
from smalti.families.sundae.sampler import start_tokens


class MultinomialSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The options of multinomial runs."""

    of: ClassVar[str] = "a multinomial run"

    steps: Annotated[int, msgspec.Meta(description="Steps, 1 or more.")]
    stride: Annotated[
        int | None, msgspec.Meta(description="Tokens between windows where the size is not the bundle's own.")
    ] = None


class Multinomial(Family):
    """Start from uniform noise and take part of it away at every step."""

    name = "multinomial"
    role = "denoiser"
    way = "starts from noise and takes it away, step by step"
    settings = MultinomialSettings
    defaults = SamplerDefaults(steps=50, temperature=1.0)

    def settle(
        self, asked: Asked, temperature: float, canvas: tuple[int, int], manifest: Manifest
    ) -> MultinomialSettings:
        """Check the options in ``asked``. There are at most as many steps as the prior was trained with."""
        steps = whole("steps", asked.get("steps", manifest.sampler.steps))
        most = manifest.noise.steps if manifest.noise else 1
        if not 1 <= steps <= most:
            raise UsageError(f"steps {steps}: allowed are 1 .. {most}, the steps that this prior was trained with")
        return MultinomialSettings(steps=steps, stride=window_stride(asked.get("stride"), canvas, manifest.latent))

    def lay_out(self, start: Int32, settings: Settings, manifest: Manifest) -> Run:
        """Lay out the time of every step. Raises UsageError for a manifest without noise."""
        own: MultinomialSettings = self.own(settings)
        latent, noise = manifest.latent, manifest.noise
        if noise is None:
            raise UsageError(f"bundle {manifest.name} does not say how much noise there is at each time")
        whole_grid, inside = at_least_a_window(start, latent.grid, latent.codes)
        count, height, width = whole_grid.shape
        tokens = whole_grid.reshape(count, -1)
        free = tokens == latent.codes
        table = sampler.strides(own.steps, sampler.cosine_alphas(noise.steps, noise.schedule))
        stride = min(latent.grid) if own.stride is None else own.stride
        first = np.where(free, start_tokens(settings.seeds, (height, width), latent.codes), tokens)

        def at(prior: Prior, time: int) -> Denoiser:
            return canvas_denoiser(partial(prior.logits, time=time), (height, width), latent.grid, stride=stride)

        run = Run(
            table.steps if free.any() else 0,
            table,
            lambda prior, timed, draw: (
                grids.reshape(whole_grid.shape)
                for grids in sampler.run(
                    lambda time: timed(at(prior, time)),
                    first,
                    table,
                    codes=latent.codes,
                    free=free,
                    temperature=settings.temperature,
                    draw=draw,
                    **common_arguments(settings, manifest, width),
                )
            ),
            lambda: program_of(
                first,
                (height, width),
                denoising_steps(
                    table,
                    first,
                    free,
                    settings.temperature,
                    seeds=settings.seeds,
                    codes=latent.codes,
                    width=width,
                    windowed=windowed_canvas((height, width), latent.grid, stride),
                ),
                settings,
                manifest,
            ),
        )
        return part_of(run, inside)
