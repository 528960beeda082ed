"""The absorbing family (Bond-Taylor et al. 2021): it fills a masked grid step by step, in any order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np

from smalti.bundle.manifest import Manifest, SamplerDefaults
from smalti.errors import UsageError
from smalti.families.absorbing import confidence, sampler
from smalti.families.absorbing.confidence import MAX_CHOICE_TEMPERATURE
from smalti.families.absorbing.program import confident_steps, scheduled_steps
from smalti.families.absorbing.remasking import remasking_schedule
from smalti.families.absorbing.schedule import Counts, Order, Remask, call_sizes, check, make_schedule
from smalti.families.base import Asked, Family, Int32, Prior, Run, Settings, common_arguments
from smalti.families.canvas import canvas_denoiser
from smalti.families.checks import number, whole, window_stride
from smalti.families.programs import program_of, windowed_canvas


class AbsorbingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The options of absorbing runs."""

    of: ClassVar[str] = "an absorbing run"

    steps: Annotated[int, msgspec.Meta(description="Steps, 1 or more.")]
    schedule: Annotated[Counts, msgspec.Meta(description="Tokens per step: exact (even), cosine or binomial.")]
    order: Annotated[Order, msgspec.Meta(description="Which tokens first: random, halton or confidence.")]
    choice_temperature: Annotated[float | None, msgspec.Meta(description="Chance in order confidence, 0 to 1e6.")] = (
        None
    )
    remask: Annotated[Remask, msgspec.Meta(description="How much is drawn again: 0 to 1, or mlm.")]
    stride: Annotated[
        int | None, msgspec.Meta(description="Tokens between windows where the size is not the bundle's own.")
    ] = None


class Absorbing(Family):
    """Fill a masked grid step by step; every step draws some of the masked tokens, given all others."""

    name = "absorbing"
    role = "denoiser"
    way = "unmasks its tokens step by step"
    settings = AbsorbingSettings
    defaults = SamplerDefaults(steps=16, temperature=1.0, schedule="cosine", order="halton")
    masks = True

    def settle(
        self, asked: Asked, temperature: float, canvas: tuple[int, int], manifest: Manifest
    ) -> AbsorbingSettings:
        """Check the options in ``asked``. Defaults give way where they do not fit them."""
        default = manifest.sampler
        steps = whole("steps", asked.get("steps", default.steps))
        counts, order, remask = asked.get("schedule", default.schedule), asked.get("order"), asked.get("remask")
        if order is None:
            order = "random" if counts == "binomial" or (default.order == "confidence" and remask) else default.order
        if remask is None:
            remask = 0.0 if order == "confidence" else default.remask
        check(steps, counts, order, remask)
        heat = asked.get("choice_temperature")
        if heat is not None and order != "confidence":
            raise UsageError(f"choice_temperature {heat}: it belongs to order confidence, and this order is {order}")
        heat = default.choice_temperature if heat is None else heat
        heat = number("choice_temperature", heat, 0, MAX_CHOICE_TEMPERATURE)
        return AbsorbingSettings(
            steps=steps,
            schedule=counts,
            order=order,
            choice_temperature=heat if order == "confidence" else None,
            remask="mlm" if remask == "mlm" else float(remask),
            stride=window_stride(asked.get("stride"), canvas, manifest.latent),
        )

    def check_defaults(self, chosen: SamplerDefaults) -> None:
        """Raise UsageError when steps, schedule, order and remasking do not fit each other."""
        check(chosen.steps, chosen.schedule, chosen.order, chosen.remask)

    def lay_out(self, start: Int32, settings: Settings, manifest: Manifest) -> Run:
        """Lay out the positions of every call. In order "confidence" the network's answers decide them later."""
        own: AbsorbingSettings = self.own(settings)
        latent, (count, height, width) = manifest.latent, start.shape
        tokens, grid, mask = start.reshape(count, -1), (height, width), latent.codes
        stride = min(latent.grid) if own.stride is None else own.stride
        wanted, windowed = tokens == mask, windowed_canvas(grid, latent.grid, stride)
        told: dict[str, Any] = {"temperature": settings.temperature, **common_arguments(settings, manifest, width)}

        def windows(prior: Prior) -> sampler.Denoiser:
            return canvas_denoiser(prior.logits, grid, latent.grid, stride=stride, mask=mask)

        def shaped(grids: Iterator[Int32]) -> Iterator[Int32]:
            return (tokens.reshape(start.shape) for tokens in grids)

        if own.order == "confidence":
            sizes, call_steps = call_sizes(wanted.sum(axis=1), own.steps, own.schedule)
            heat = own.choice_temperature or 0.0
            rule = confidence.Confidence(
                sizes, call_steps, own.steps, np.asarray(settings.seeds, np.uint64), width, heat
            )
            return Run(
                sizes.shape[1],
                None,
                lambda prior, timed, draw: shaped(
                    confidence.run(
                        timed(windows(prior)),
                        tokens,
                        sizes,
                        call_steps,
                        steps=own.steps,
                        mask=mask,
                        choice_temperature=heat,
                        draw=draw,
                        **told,
                    )
                ),
                lambda: program_of(
                    tokens,
                    grid,
                    confident_steps(tokens, rule, mask, settings.temperature, windowed),
                    settings,
                    manifest,
                ),
            )
        if own.remask == 0:
            table = make_schedule(settings.seeds, grid, own.steps, own.schedule, own.order, wanted)
        else:
            table = remasking_schedule(settings.seeds, grid, own.steps, own.schedule, own.order, own.remask, wanted)
        return Run(
            table.calls,
            table,
            lambda prior, timed, draw: shaped(
                sampler.run(timed(windows(prior)), tokens, table, mask=mask, draw=draw, **told)
            ),
            lambda: program_of(
                tokens,
                grid,
                scheduled_steps(table, settings.temperature, mask, windowed, tokens.shape[1]),
                settings,
                manifest,
            ),
        )
