"""Optimisation profiles from a manifest: the sizes that the runtime uses, and the most common one."""

from __future__ import annotations

import re

from smalti.backends.device.ladder import rung
from smalti.bundle.engines import Profile
from smalti.bundle.manifest import Component, Latent, Resolution, Role, TensorSpec
from smalti.codec.batches import AT_ONCE
from smalti.codec.tiles import tile_of
from smalti.drawing.generator import NETWORK_BATCH
from smalti.errors import EngineError

Range = tuple[int, int, int]
"""Smallest, best and largest value of one size."""
CANVAS = 4
"""Largest canvas that is decoded in one piece: its sides in multiples of the trained grid's sides."""
SIDE = re.compile(r"(?:([0-9]{1,4})\*)?([A-Za-z]+)")


def make_profiles(
    role: Role, component: Component, latent: Latent, resolution: Resolution
) -> tuple[dict[str, Profile], ...]:
    """Profiles of a component's engine, by input; the first is for batches of the trained grid.

    ``resolution`` is that of a decoder's pictures, and the bundle's first for other components.

    Raises EngineError when an input has a free side that no range is known for.
    """
    return tuple(
        {spec.name: _profile(role, spec, ranges) for spec in component.inputs}
        for ranges in _ranges(role, latent, resolution)
    )


def _ranges(role: Role, latent: Latent, resolution: Resolution) -> list[dict[str, Range]]:
    """Ranges of the free sizes, by their names in the manifest, for each profile."""
    (height, width), batch = latent.grid, (1, 1, NETWORK_BATCH)
    length = height * width
    if role == "denoiser":  # the positions that are asked about are filled up to a rung
        return [{"n": batch, "r": (1, max(1, length // NETWORK_BATCH), rung(length))}]
    if role == "predictor":
        return [{"n": batch, "k": (1, 1, length), "p": (0, length // 2, length)}]
    halo = {"preview": latent.preview_halo, "encoder": latent.encoder_halo}.get(role, resolution.halo)
    if halo is None:
        rows, columns = ((1, side, CANVAS * side) for side in latent.grid)
    else:
        most = tile_of(latent.factor if role in ("encoder", "preview") else resolution.factor) + 2 * halo
        rows, columns = ((1, min(side, most), most) for side in latent.grid)
    canvas: dict[str, Range] = {"n": (1, 1, 1), "h": rows, "w": columns}
    if (latent.preview_halo if role == "preview" else resolution.halo) is None:
        return [canvas]
    # The runtime's batch size: see smalti.codec.batches.
    images = (1, 1, max(1, min(NETWORK_BATCH, AT_ONCE // (length * resolution.factor**2))))
    return [{"n": images, "h": (height, height, height), "w": (width, width, width)}, canvas]


def _profile(role: Role, spec: TensorSpec, ranges: dict[str, Range]) -> Profile:
    sides: list[Range] = []
    for side in spec.shape:
        named = SIDE.fullmatch(side) if isinstance(side, str) else None
        if isinstance(side, int):
            sides.append((side, side, side))
        elif named and named[2] in ranges:
            factor = int(named[1] or 1)
            least, best, most = ranges[named[2]]
            sides.append((factor * least, factor * best, factor * most))
        else:
            raise EngineError(
                f"the {role}'s input {spec.name} has a free side {side!r}, of which nothing says how large it gets; an "
                f"engine can be built of {', '.join(ranges)}: export the bundle again"
            )
    least, best, most = (tuple(sizes) for sizes in zip(*sides))
    return Profile(least=least, best=best, most=most)
