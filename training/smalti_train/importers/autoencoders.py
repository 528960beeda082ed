"""Published VQGANs as our own: ``unleashing-vqgan``, ``taming-vqgan`` and ``taming-gumbel``.

Unleashing is Bond-Taylor et al. 2021, taming is Esser et al. 2021.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from smalti.errors import UsageError
from smalti_train.importers.fitting import Published, checked_config, fitted, shapes_of
from smalti_train.importers.reading import split_off
from smalti_train.importers.taming_layout import has_gumbel, taming_config, taming_layout
from smalti_train.importers.unleashing_layout import unleashing_config, unleashing_layout
from smalti_train.models.meta_init import unfilled
from smalti_train.models.vqgan import VQGAN, VQGANConfig, attention_levels

CONFIG_KEYS = ("resolution", "attn_resolutions", "grid")
"""Keys of a user's config for an autoencoder; see :func:`sized`."""
RESOLUTION = 256
"""Pixels per side if neither weights nor user tell; the networks take any size anyway."""
UNLEASHING_REST = ("disc.", "perceptual.", "_denoise_fn.", "Lt_history", "Lt_count", "loss_history")
"""Prefixes of other tensors in unleashing's files: the networks of its training, a prior."""
TAMING_REST = "loss."
FIRST_STAGE = "first_stage_model."
"""Taming's prefix of the autoencoder in a file with its prior."""


def import_unleashing_vqgan(state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> VQGAN:
    """Import unleashing's VQGAN, ``vqgan_<step>.th`` or ``vqgan_ema_<step>.th``; images in [0, 1].

    The discriminator and the perceptual network are left out. Raises UsageError for what does not fit.
    """
    known = checked_config(config, CONFIG_KEYS)
    kept = {name: value for name, value in state.items() if not name.startswith(UNLEASHING_REST)}
    prefix = "ae." if any(name.startswith("ae.") for name in kept) else ""
    model = sized(unleashing_config(Published(shapes_of(kept), prefix)), known)
    return _built(model, fitted(kept, unleashing_layout(model, prefix), "unleashing-vqgan"))


def import_taming_vqgan(state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> VQGAN:
    """Import taming's VQModel (nearest code), alone or from a file with its prior; images in [-1, 1]."""
    return import_taming(state, config, gumbel=False)


def import_taming_gumbel(state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> VQGAN:
    """Import taming's GumbelVQ, alone or from a file with its prior; images in [-1, 1], tokens by likeliest code."""
    return import_taming(state, config, gumbel=True)


def import_taming(
    state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, gumbel: bool | None = None
) -> VQGAN:
    """Import taming's VQGAN with the quantiser that ``gumbel`` asks for; None: whichever the file has.

    The losses' networks are left out. Raises UsageError for what does not fit.
    """
    known = checked_config(config, CONFIG_KEYS)
    prefix = ""
    if any(name.startswith(FIRST_STAGE) for name in state):
        prefix = FIRST_STAGE
        state = split_off(state, prefix)
    kept = {name: value for name, value in state.items() if not name.startswith(prefix + TAMING_REST)}
    published = Published(shapes_of(kept), prefix)
    if gumbel is not None and published.has("quantize.") and gumbel != has_gumbel(published):
        holds, other = ("the nearest code", "taming-vqgan") if gumbel else ("a Gumbel quantiser", "taming-gumbel")
        raise UsageError(f"holds a VQGAN with {holds}: its source is {other}")
    model = sized(taming_config(published), known)
    what = "taming-gumbel" if has_gumbel(published) else "taming-vqgan"
    return _built(model, fitted(kept, taming_layout(model, prefix), what))


def sized(model: VQGANConfig, known: Mapping[str, Any]) -> VQGANConfig:
    """The sizes from the weights, completed by the user's image sizes ``known``.

    ``resolution`` is the side in pixels of the training images. ``attn_resolutions`` are the sides in cells with
    attention, checked against the weights. ``grid`` is the token grid [h, w] of the images to make, if it differs.
    Raises UsageError where these contradict the weights or each other.
    """
    levels = len(model.multipliers)
    resolution: int | None = known.get("resolution")
    sides: tuple[int, ...] | None = known.get("attn_resolutions")
    if resolution is None and sides and len(sides) == len(model.attention_levels):
        pairs = zip(sorted(sides, reverse=True), model.attention_levels)
        fitting = {side * 2**level for side, level in pairs}
        resolution = fitting.pop() if len(fitting) == 1 else None
    if resolution is not None and resolution % model.factor:
        raise UsageError(
            f"resolution {resolution} is not a multiple of the {model.factor} pixels that a token stands for"
        )
    if sides is not None:
        found = None if resolution is None else attention_levels(resolution, levels, sides)
        if found != model.attention_levels:
            at = "" if resolution is None else f" at resolution {resolution}"
            raise UsageError(
                f"attn_resolutions {list(sides)}{at} do not fit the weights, which have attention at the "
                f"levels {list(model.attention_levels)} of 0 .. {levels - 1} (0 = full resolution)"
            )
    side = resolution or RESOLUTION - RESOLUTION % model.factor or model.factor
    height, width = known.get("grid") or (side // model.factor, side // model.factor)
    return dataclasses.replace(model, size=(height * model.factor, width * model.factor))


def _built(config: VQGANConfig, weights: dict[str, Tensor]) -> VQGAN:
    with unfilled():
        model = VQGAN(config)
    model.load_state_dict(weights, assign=True)
    return model
