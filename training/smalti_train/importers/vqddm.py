"""The prior of Hu et al. 2022 (VQ-DDM) as our own: U-Net and noise schedule from a Lightning checkpoint.

The file holds the network twice, as ``_nn.`` and inside the diffusion as ``_denoising._denoise_fn.``, and the schedule
as buffers. All values of the buffers are compared to find out which of the two cosine schedules they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from smalti.bundle.manifest import NoiseKind
from smalti.errors import UsageError
from smalti_train.data.tensors import listed
from smalti_train.importers.fitting import Layout, Published, Slot, checked_config, fitted, shapes_of
from smalti_train.importers.reading import some
from smalti_train.models.meta_init import unfilled
from smalti_train.models.multinomial_unet import MultinomialUNet, MultinomialUNetConfig
from smalti_train.objectives.multinomial import cosine_schedule

CONFIG_KEYS = ("grid",)
"""Keys of a user's config for the prior: rows and columns of tokens, which a U-Net's weights do not show."""
NETWORKS = ("_nn.", "_denoising._denoise_fn.")
"""Prefixes of the network's weights; published files have a copy below each."""
DIFFUSION = "_denoising."
SCHEDULE = ("log_alpha", "log_1_min_alpha", "log_cumprod_alpha", "log_1_min_cumprod_alpha")
"""Buffers of the schedule below ``DIFFUSION``: float [T] each."""
HISTORIES = ("Lt_history", "Lt_count")
"""Losses by time from the published training, also below ``DIFFUSION``: float [T] each."""


def import_vqddm(state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> MultinomialUNet:
    """Import VQ-DDM's released prior, in eval mode.

    ``config`` may hold ``grid`` [h, w] (16x16 by default, as published). Steps and schedule are read off the buffers; a
    file of the network alone gets the published ones (4000 steps, ``released``). The losses by time are left out. The
    outputs are taken as x0_hat's logits, as in all published configurations; for a network trained by eq. 23, replace
    ``parameterisation`` in the model's config. Raises UsageError for what does not fit, for a schedule that is neither
    of the two, and when the two copies of the network differ.
    """
    known = checked_config(config, CONFIG_KEYS)
    present = [prefix for prefix in NETWORKS if any(name.startswith(prefix) for name in state)] or [""]
    published = Published(shapes_of(state), present[0])
    buffers = Published(shapes_of(state), DIFFUSION)
    buffers.shapes = {name: buffers.shapes[name] for name in (*SCHEDULE, *HISTORIES) if name in buffers.shapes}
    sizes = vqddm_config(published, known.get("grid", MultinomialUNetConfig.grid))
    if buffers.shapes:
        sizes = dataclasses.replace(sizes, steps=buffers.size(*((name, 0) for name in buffers.shapes)))
    with unfilled():  # skip random values that are about to be replaced
        model = MultinomialUNet(sizes)
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    layout: Layout = {present[0] + name: Slot(shape, name) for name, shape in own.items()}
    layout |= {prefix + name: Slot(shape, None) for prefix in present[1:] for name, shape in own.items()}
    times = (*SCHEDULE, *(name for name in HISTORIES if name in buffers.shapes)) if buffers.shapes else ()
    layout |= {DIFFUSION + name: Slot((sizes.steps,), None) for name in times}
    weights = fitted(state, layout, "vqddm")
    _check_copies(state, present, own)
    if buffers.shapes:
        model.config = dataclasses.replace(sizes, schedule=recognised_schedule(state, DIFFUSION))
    model.load_state_dict(weights, assign=True)
    return model.eval()


def vqddm_config(published: Published, grid: tuple[int, int]) -> MultinomialUNetConfig:
    """Sizes of a network for ``grid`` [h, w] tokens, on which most of its tensors agree, with the published diffusion.

    Raises UsageError when a tensor that shows a size is missing, or when no U-Net has such sizes.
    """
    levels = len(published.members("downs"))
    blocks = sum("mlp" in parts for parts in published.members("downs.0").values())
    if not levels or not blocks:
        raise UsageError(f"has no residual blocks: there is nothing like {published.prefix}downs.0.0.mlp.1.weight")
    width = published.size(
        ("embedding.weight", 1), ("mlp.0.weight", 1), ("mlp.2.weight", 0), ("mlp.2.bias", 0), ("final_conv.1.weight", 1)
    )
    widths = [
        published.size(
            *((f"downs.{level}.0.{part}", 0) for part in ("mlp.1.bias", "block1.block.0.bias", "mlp.1.weight"))
        )
        for level in range(levels)
    ]
    return MultinomialUNetConfig(
        codes=published.size(("embedding.weight", 0), ("final_conv.1.weight", 0), ("final_conv.1.bias", 0)),
        grid=grid,
        width=width,
        multipliers=published.multipliers(widths, width, "embedding.weight"),
        blocks=blocks,
    )


def recognised_schedule(state: Mapping[str, Tensor], prefix: str = "") -> NoiseKind:
    """The kind of cosine schedule in the four buffers below ``prefix`` (float [T] each), compared at their precision.

    Raises UsageError for another schedule, saying where it differs from the released one.
    """
    tables = {name: state[prefix + name] for name in SCHEDULE}
    steps = len(tables[SCHEDULE[0]])
    off: dict[NoiseKind, list[str]] = {}
    for kind in ("released", "printed"):
        wanted = cosine_schedule(steps, kind)
        off[kind] = []
        for name, found in tables.items():
            # The two differ by a factor of two, so half precision is enough to distinguish them.
            tolerance = max(1e-4, 4 * torch.finfo(found.dtype).eps if found.is_floating_point() else 0.0)
            right = torch.isclose(found.double(), getattr(wanted, name), rtol=tolerance, atol=1e-6)
            if wrong := listed((~right).nonzero().flatten()):
                t = wrong[0]
                off[kind].append(
                    f"{prefix}{name} is {float(found[t]):.6g} at t = {t} where {float(getattr(wanted, name)[t]):.6g} "
                    "belongs"
                )
        if not off[kind]:
            return kind
    raise UsageError(
        f"its noise is neither the released nor the printed cosine schedule of {steps} steps ({off['released'][0]} in "
        "the released one): models of other schedules cannot be imported"
    )


def _check_copies(state: Mapping[str, Tensor], prefixes: list[str], names: Mapping[str, object]) -> None:
    """Raise UsageError when the two copies of the network differ."""
    for other in prefixes[1:]:
        differing = [name for name in names if not torch.equal(state[prefixes[0] + name], state[other + name])]
        if differing:
            raise UsageError(
                f"holds two different networks, below {prefixes[0]} and {other} ({some(differing)}): save the wanted "
                "one alone"
            )
