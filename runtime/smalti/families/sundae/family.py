"""The SUNDAE family (Savinov et al. 2022; McKinney and Willcocks 2022): random tokens are corrected, step by step."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
import numpy as np

from smalti.bundle.manifest import Manifest, SamplerDefaults
from smalti.errors import UsageError
from smalti.families.base import Asked, Family, Int32, Run, Settings, common_arguments, part_of
from smalti.families.canvas import at_least_a_window, canvas_denoiser
from smalti.families.checks import number, share_pair, whole, window_stride
from smalti.families.programs import program_of, windowed_canvas
from smalti.families.sundae import sampler
from smalti.families.sundae.program import annealed_steps


class SundaeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The options of SUNDAE runs."""

    of: ClassVar[str] = "a SUNDAE run"

    steps: Annotated[int, msgspec.Meta(description="Steps, 1 or more.")]
    final_temperature: Annotated[
        float,
        msgspec.Meta(description="SUNDAE: temperature of the last step, to which it goes from --temperature."),
    ]
    proportion: Annotated[
        tuple[float, float],
        msgspec.Meta(description="SUNDAE: share drawn anew per step, such as 0.5, or 0.8:0.3 from first to last."),
    ]
    min_steps: Annotated[int, msgspec.Meta(description="SUNDAE: steps before unchanged images are frozen.")]
    stride: Annotated[
        int | None, msgspec.Meta(description="Tokens between windows where the size is not the bundle's own.")
    ] = None


class Sundae(Family):
    """Start from random tokens and draw part of them anew at every step."""

    name = "sundae"
    role = "denoiser"
    way = "starts from random tokens and draws them anew, step by step"
    settings = SundaeSettings
    # McKinney and Willcocks's own for faces of 1024 x 1024 pixels: temperature 1 .. 0.7, half of the tokens at a time.
    defaults = SamplerDefaults(steps=50, temperature=1.0)

    def settle(self, asked: Asked, temperature: float, canvas: tuple[int, int], manifest: Manifest) -> SundaeSettings:
        """Check the options in ``asked``. The default final temperature is never above the first step's."""
        default = manifest.sampler
        steps = whole("steps", asked.get("steps", default.steps))
        final = asked.get("final_temperature", min(default.final_temperature, temperature))
        proportion = share_pair("proportion", asked["proportion"]) if "proportion" in asked else default.proportion
        if steps < sampler.SUBSET_STEPS:
            if "proportion" in asked and proportion != (1.0, 1.0):
                raise UsageError(
                    f"proportion {proportion[0]:g}:{proportion[1]:g}: a run of fewer than {sampler.SUBSET_STEPS} steps "
                    f"draws every token at every step; leave it out, or take at least {sampler.SUBSET_STEPS} steps"
                )
            proportion = (1.0, 1.0)
        final = number("final_temperature", final, 0.01, 100)
        min_steps = whole("min_steps", asked.get("min_steps", default.min_steps))
        sampler.annealing(steps, (temperature, final), proportion, min_steps)  # which says what else is allowed
        return SundaeSettings(
            steps=steps,
            final_temperature=final,
            proportion=proportion,
            min_steps=min_steps,
            stride=window_stride(asked.get("stride"), canvas, manifest.latent),
        )

    def lay_out(self, start: Int32, settings: Settings, manifest: Manifest) -> Run:
        """Lay out temperature and proportion of every step. The prior knows no mask, so masked tokens become random."""
        own: SundaeSettings = self.own(settings)
        latent = manifest.latent
        whole_grid, inside = at_least_a_window(start, latent.grid, latent.codes)
        count, height, width = whole_grid.shape
        tokens = whole_grid.reshape(count, -1)
        free = tokens == latent.codes
        first = np.where(free, sampler.start_tokens(settings.seeds, (height, width), latent.codes), tokens)
        table = sampler.annealing(
            own.steps, (settings.temperature, own.final_temperature), own.proportion, own.min_steps
        )
        stride = min(latent.grid) if own.stride is None else own.stride
        run = Run(
            own.steps if free.any() else 0,
            table,
            lambda prior, timed, draw: (
                grids.reshape(whole_grid.shape)
                for grids in sampler.run(
                    timed(canvas_denoiser(prior.logits, (height, width), latent.grid, stride=stride)),
                    first,
                    table,
                    free=free,
                    draw=draw,
                    **common_arguments(settings, manifest, width),
                )
            ),
            lambda: program_of(
                first,
                (height, width),
                annealed_steps(
                    table, free, settings.seeds, width, windowed_canvas((height, width), latent.grid, stride)
                ),
                settings,
                manifest,
            ),
        )
        return part_of(run, inside)
