"""The autoregressive family: one token after the other, in raster order (Esser et al. 2021)."""

from __future__ import annotations

from typing import ClassVar

import msgspec
import numpy as np

from smalti.bundle.manifest import Manifest, SamplerDefaults
from smalti.errors import UsageError
from smalti.families.autoregressive import sampler
from smalti.families.base import Asked, Family, Int32, Run, Settings, common_arguments


class AutoregressiveSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The options of autoregressive runs: there are none."""

    of: ClassVar[str] = "an autoregressive run"


class Autoregressive(Family):
    """Draw every token given those before it."""

    name = "autoregressive"
    role = "predictor"
    way = "draws one token after the other in raster order"
    settings = AutoregressiveSettings
    defaults = SamplerDefaults(steps=1, temperature=1.0)  # steps mean nothing here

    def settle(
        self, asked: Asked, temperature: float, canvas: tuple[int, int], manifest: Manifest
    ) -> AutoregressiveSettings:
        """Raise UsageError for a size other than the bundle's own."""
        if canvas != manifest.latent.grid:
            (height, width), (own_height, own_width) = canvas, manifest.latent.grid
            raise UsageError(
                f"size: these are {width}x{height} tokens, and bundle {manifest.name} draws images of "
                f"{own_width}x{own_height} tokens only"
            )
        return AutoregressiveSettings()

    def lay_out(self, start: Int32, settings: Settings, manifest: Manifest) -> Run:
        """Lay out one call for each position that any sample has to draw."""
        self.own(settings)
        count, _, width = start.shape
        tokens, mask = start.reshape(count, -1), manifest.latent.codes
        positions = np.flatnonzero((tokens == mask).any(axis=0))
        return Run(
            len(positions),
            positions,
            lambda prior, timed, draw: (
                grids.reshape(start.shape)
                for grids in sampler.run(
                    timed(prior.next_logits()),
                    tokens,
                    mask=mask,
                    temperature=settings.temperature,
                    draw=draw,
                    **common_arguments(settings, manifest, width),
                )
            ),
        )
