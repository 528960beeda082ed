"""The hourglass transformer of McKinney and Willcocks 2022 as our own: ``sundae-hourglass``.

Our model carries the published names. A file also has the frequencies of its rotary positions; they are read off it and
not kept as weights. With learned positions (``pos_emb.weight``) it has none. It lacks a row for "no label"; that row
becomes zeros.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from smalti.errors import UsageError
from smalti_train.importers.fitting import Layout, Published, Slot, checked_config, fitted, shapes_of
from smalti_train.models.meta_init import unfilled
from smalti_train.models.sundae_transformer import HEAD_DIM, Depth, SundaeTransformer, SundaeTransformerConfig

CONFIG_KEYS = ("heads", "grid")
"""Keys of a user's config for a prior: heads of the attention (checked), rows and columns of tokens."""
WHAT = "sundae-hourglass"
TOP = "transformer"
PRE, VALLEY, POST = "pre_transformer", "valley_transformer", "post_transformer"
RESAMPLERS = ("attn_resampling_pre_valley", "attn_resampling_post_valley")
FREQUENCIES = "rotary_pos_emb.freqs"
CLASSES = "class_emb.weight"
POSITIONS = "pos_emb.weight"
DEEPEST = 3
"""Greatest number of nested hourglasses in :data:`Depth`."""


def import_sundae_hourglass(state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> SundaeTransformer:
    """Import the released prior, plain, class-conditional or nested, in eval mode.

    ``config`` may hold ``grid`` [h, w], which weights do not tell (without it the model takes any square of tokens, and
    cannot become a run), and ``heads``, which is then checked; with learned positions, the weights do not tell it
    either, and without it heads have the published 64 dimensions. Sizes are read off the weights, with the published
    2x2 shortening. Raises UsageError for what does not fit.
    """
    known = checked_config(config, CONFIG_KEYS)
    prefix = "net." if any(name.startswith("net.") for name in state) else ""
    published = Published(shapes_of(state), prefix)
    sizes = sundae_config(published, known.get("grid"), known.get("heads"))
    if known.get("heads", sizes.heads) != sizes.heads:
        raise UsageError(f"heads {known['heads']}: the weights have {sizes.heads} heads of {sizes.head_dim} dimensions")
    layout = sundae_layout(sizes, prefix)
    weights = fitted(state, layout, WHAT)
    rotary = [name for name in layout if name.endswith(FREQUENCIES)]
    frequencies = _highest(state, rotary) if rotary else sizes.published_frequencies
    if CLASSES in weights:
        weights[CLASSES] = torch.cat((weights[CLASSES], torch.zeros(1, sizes.width)))
    with unfilled():
        model = SundaeTransformer(dataclasses.replace(sizes, published_frequencies=frequencies))
    model.load_state_dict(weights, assign=True)
    return model.eval()


def sundae_config(
    published: Published, grid: tuple[int, int] | None, heads: int | None = None
) -> SundaeTransformerConfig:
    """Sizes of a prior with ``token_emb.``, ``transformer.`` and ``to_logits.``, without its frequencies' values.

    ``heads`` counts only where positions are learned. Raises UsageError when a tensor that shows a size is missing, or
    when no published hourglass has such sizes.
    """
    depth = _depth(published, TOP)
    width = published.size(
        ("token_emb.weight", 1),
        ("to_logits.weight", 1),
        (f"{TOP}.norm_out.weight", 0),
        (f"{TOP}.norm_out.bias", 0),
        (f"{TOP}.downsample.proj.bias", 0),
    )
    stacks = _stacks(depth, TOP, resampled=False)
    firsts = [f"{stack}.layers.0.0.fn" for stack in stacks]
    queries = published.size(
        *((f"{first}.to_q.weight", 0) for first in firsts), *((f"{first}.to_out.weight", 1) for first in firsts)
    )
    positions = published.size((POSITIONS, 0)) if _learned(published) else 0
    if positions:
        head_dim = queries // heads if heads else HEAD_DIM
        if head_dim < 1 or queries != head_dim * (heads or queries // head_dim) or queries < head_dim:
            raise UsageError(
                f"its attention has {queries} dimensions, which "
                + (f"{heads} heads do not divide" if heads else f'are no heads of {HEAD_DIM}: give "heads"')
            )
    else:
        frequencies = published.size(*((f"{stack}.{FREQUENCIES}", 0) for stack in stacks))
        head_dim = 4 * frequencies  # on two axes, each frequency turns one pair of dimensions
        if head_dim < 1 or queries < 1 or queries % head_dim:
            raise UsageError(
                f"its attention has {queries} dimensions, which {frequencies} frequencies per axis, as in heads of "
                f"{head_dim}, do not divide"
            )
    if width < 1:
        raise UsageError("its tokens have no dimensions")
    patch, side = _patch(published, width)
    if patch != side**2:
        raise UsageError(f"it shortens {patch} tokens to one, which is no square patch as published hourglasses have")
    return SundaeTransformerConfig(
        codes=published.size(("token_emb.weight", 0), ("to_logits.weight", 0), ("to_logits.bias", 0)),
        grid=grid,
        classes=published.size((CLASSES, 0)) if published.has("class_emb.") else 0,
        width=width,
        heads=queries // head_dim,
        head_dim=head_dim,
        depth=depth,
        shorten=(side, side),
        attention_resampling=any(published.has(f"{TOP}.{name}.") for name in RESAMPLERS),
        published=True,
        positions=positions,
    )


def _learned(published: Published) -> bool:
    """Whether positions are learned: embedded at the start, and no layer has rotary ones."""
    return POSITIONS in published.shapes and not any(name.endswith(FREQUENCIES) for name in published.shapes)


def sundae_layout(config: SundaeTransformerConfig, prefix: str = "") -> Layout:
    """The tensors of a file of that configuration below ``prefix``."""
    with unfilled():
        state = SundaeTransformer(config).state_dict()
    layout = {prefix + name: Slot(tuple(value.shape), name) for name, value in state.items()}
    if config.classes:
        layout[prefix + CLASSES] = Slot((config.classes, config.width), CLASSES)
    stacks = () if config.positions else _stacks(config.depth, TOP, config.attention_resampling)
    for stack in stacks:
        layout[f"{prefix}{stack}.{FREQUENCIES}"] = Slot((config.head_dim // 4,), None)
    return layout


def _depth(published: Published, stack: str, level: int = 1) -> Depth:
    """Layers of an hourglass, which may hold another. Raises UsageError when there are none."""
    before, after = (len(published.members(f"{stack}.{part}.layers")) for part in (PRE, POST))
    inner = f"{stack}.{VALLEY}"
    if published.has(f"{inner}.{VALLEY}."):
        if level == DEEPEST:
            raise UsageError(
                f"has more than {DEEPEST} hourglasses within each other: {published.prefix}{inner}.{VALLEY}"
            )
        return before, _depth(published, inner, level + 1), after  # pyright: ignore[reportReturnType] - by the level
    between = len(published.members(f"{inner}.layers"))
    if not between:
        raise UsageError(f"has no layers below {published.prefix}{inner}.layers, which every hourglass has")
    return before, between, after


def _stacks(depth: Depth, stack: str, resampled: bool) -> list[str]:
    """Names of the stacks of layers with rotary positions (unused ones too), from outside to inside."""
    between = depth[1]
    names = [f"{stack}.{part}" for part in (PRE, POST, *(RESAMPLERS if resampled else ()))]
    if isinstance(between, int):
        return [*names, f"{stack}.{VALLEY}"]
    return [*names, *_stacks(between, f"{stack}.{VALLEY}", resampled)]


def _patch(published: Published, width: int) -> tuple[int, int]:
    """Number of tokens in a patch that becomes one token, and the patch's side."""
    down, up = f"{TOP}.downsample.proj.weight", f"{TOP}.upsample.proj.weight"
    tokens = published.size((down, 1), (up, 0), (f"{TOP}.upsample.proj.bias", 0)) // width
    return tokens, math.isqrt(tokens)


def _highest(state: Mapping[str, Tensor], names: list[str]) -> tuple[float, float]:
    """The highest frequency around the shortened grids, and on the innermost, in the config's units.

    Raises UsageError for frequencies that are not evenly spaced from pi upwards, or that differ between stacks in which
    published ones are equal.
    """
    found: dict[bool, tuple[float, str]] = {}
    for name in names:
        stack = name.removesuffix(f".{FREQUENCIES}")
        if stack.endswith(RESAMPLERS):
            continue  # never used: resampled tokens attend to their own patch, without positions
        values = state[name].double().cpu() / math.pi
        expected = torch.linspace(1.0, float(values[-1]), len(values), dtype=torch.float64)
        highest, innermost = 2 * float(values[-1]), stack.endswith(VALLEY)
        before, first = found.setdefault(innermost, (highest, name))
        if not torch.allclose(values, expected, atol=1e-3) or not math.isclose(before, highest, rel_tol=1e-4):
            raise UsageError(
                f"{name} holds other frequencies than a published hourglass: evenly spaced ones from pi, the same as "
                f"in {first}"
            )
    return round(found[False][0], 3), round(found[True][0], 3)
