"""Published priors as our own: ``unleashing-absorbing``, ``unleashing-autoregressive``, that of ``taming-net2net``.

Unleashing is Bond-Taylor et al. 2021, taming is Esser et al. 2021. Our models carry the published names, so a layout is
a model's own names behind a prefix, and what files hold besides. Every prior answers
``logits(tokens int [B, L], labels=None, t=None) -> float32 [B, L, V]``; each model says what its rows are about.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from smalti.errors import UsageError
from smalti_train.importers.fitting import Layout, Published, Slot, checked_config, fitted, shapes_of
from smalti_train.models.absorbing_transformer import AbsorbingTransformer, AbsorbingTransformerConfig
from smalti_train.models.autoregressive_transformer import (
    AutoregressiveTransformer,
    AutoregressiveTransformerConfig,
    Net2NetTransformer,
    Net2NetTransformerConfig,
)
from smalti_train.models.meta_init import unfilled

CONFIG_KEYS = ("heads", "grid")
"""Keys of a user's config for a prior: heads of the attention, rows and columns of tokens."""
HEADS = 8
"""Attention heads of every prior of Bond-Taylor et al. 2021 (appendix A)."""
HISTORIES = ("Lt_history", "Lt_count", "loss_history")
"""Losses by time that the published training kept beside the absorbing prior: float [T + 1] each."""

Model = TypeVar("Model", AbsorbingTransformer, AutoregressiveTransformer, Net2NetTransformer)


def import_unleashing_absorbing(
    state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None
) -> AbsorbingTransformer:
    """Import unleashing's absorbing prior, ``absorbing_<step>.th`` or ``absorbing_ema_<step>.th``, in eval mode.

    ``config`` may hold ``heads`` (8) and ``grid`` [h, w] (square by default). Left out are the losses by time and the
    start token that the file shares with the autoregressive twin. Raises UsageError for what does not fit.
    """
    known, published = checked_config(config, CONFIG_KEYS), _published(state, "_denoise_fn.")
    model = AbsorbingTransformerConfig(
        codes=_codes(published, masks=1),
        grid=_grid(published, known),
        heads=known.get("heads", HEADS),
        **_sizes(published),
    )
    besides: Layout = {f"{published.prefix}start_tok": Slot((1, 1, model.width), None)}
    histories = Published({name: shape for name, shape in shapes_of(state).items() if name in HISTORIES})
    if histories.shapes:
        times = histories.size(*((name, 0) for name in HISTORIES))
        besides |= {name: Slot((times,), None) for name in histories.shapes}
    return _built(lambda: AbsorbingTransformer(model), state, published, besides, "unleashing-absorbing")


def import_unleashing_autoregressive(
    state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None
) -> AutoregressiveTransformer:
    """Import unleashing's autoregressive baseline, ``autoregressive_<step>.th``, in eval mode.

    ``config`` may hold ``heads`` (8) and ``grid`` [h, w] (square by default). Its ``logits`` prepends the start token:
    n tokens give n + 1 rows. Raises UsageError for what does not fit.
    """
    known, published = checked_config(config, CONFIG_KEYS), _published(state, "net.")
    model = AutoregressiveTransformerConfig(
        codes=_codes(published),
        grid=_grid(published, known),
        heads=known.get("heads", HEADS),
        **_sizes(published),
    )
    besides, unmasked = _masks(state, published, model.positions)
    if unmasked:
        raise UsageError(f"its first {unmasked} positions see each other, as in no prior of unleashing-autoregressive")
    return _built(lambda: AutoregressiveTransformer(model), state, published, besides, "unleashing-autoregressive")


def import_net2net_transformer(
    state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None
) -> Net2NetTransformer:
    """Import the transformer (a minGPT) of taming's Net2NetTransformer, in eval mode.

    ``config`` must hold ``heads``, which weights do not show and which differs between published models. It may hold
    ``grid`` [h, w]; the default is a square, if the positions make one or two of them (conditioning and image). The
    number of leading positions that see each other is read off the attention masks in the file. Raises UsageError for
    what does not fit.
    """
    known, published = checked_config(config, CONFIG_KEYS), _published(state, "transformer.")
    vocabulary, sizes = _codes(published), _sizes(published)
    if "heads" not in known:
        raise UsageError(
            f"the weights do not tell how many heads share the {sizes['width']} dimensions of its attention: give "
            'n_head of its training as the configuration, such as {"heads": 16}'
        )
    positions = published.size(("pos_emb", 1))
    besides, unmasked = _masks(state, published, positions)
    grid = known.get("grid") or _square(positions) or (_square(positions // 2) if positions % 2 == 0 else None)
    if grid is not None and math.prod(grid) > positions:
        raise UsageError(f"grid {list(grid)} has more tokens than {published.prefix}pos_emb has positions, {positions}")
    model = Net2NetTransformerConfig(
        vocabulary=vocabulary, positions=positions, grid=grid, heads=known["heads"], unmasked=unmasked, **sizes
    )
    return _built(lambda: Net2NetTransformer(model), state, published, besides, "taming-net2net")


def _published(state: Mapping[str, Tensor], prefix: str) -> Published:
    """The tensors below the prefix, or all if none has it (files of the network alone)."""
    return Published(shapes_of(state), prefix if any(name.startswith(prefix) for name in state) else "")


def _sizes(published: Published) -> dict[str, int]:
    """Width and number of layers."""
    width = published.size(
        ("pos_emb", 2), ("tok_emb.weight", 1), ("head.weight", 1), ("ln_f.weight", 0), ("ln_f.bias", 0)
    )
    layers = len(published.members("blocks"))  # a gap among them is reported later as a missing and an unknown layer
    if width < 1 or not layers:
        raise UsageError(f"has no layers: there is nothing below {published.prefix}blocks.")
    return {"width": width, "layers": layers}


def _codes(published: Published, masks: int = 0) -> int:
    """Number of codes that the head predicts; the embedding must have ``masks`` more.

    Raises UsageError, naming both tensors, when it has not.
    """
    codes = published.size(("head.weight", 0))
    embedded = published.shapes.get("tok_emb.weight", ())
    if codes < 1 or (len(embedded) == 2 and embedded[0] != codes + masks):
        both = {name: published.shapes[name] for name in ("head.weight", "tok_emb.weight") if name in published.shapes}
        names = (f"{published.prefix}{name} {list(shape)}" for name, shape in both.items())
        rule = "the embedding should have one row more" if masks else "both should have as many rows"
        raise UsageError(f"has {' and '.join(names)}, which do not belong together: {rule}")
    return codes


def _square(positions: int) -> tuple[int, int] | None:
    side = math.isqrt(positions)
    return (side, side) if side and side * side == positions else None


def _grid(published: Published, known: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns for a prior with one position per token."""
    positions = published.size(("pos_emb", 1))
    grid: tuple[int, int] | None = known.get("grid") or _square(positions)
    if grid is None:
        raise UsageError(f'its {positions} tokens are no square: give the configuration "grid": [rows, columns]')
    if math.prod(grid) != positions:
        raise UsageError(f"grid {list(grid)} does not fit the {positions} positions of {published.prefix}pos_emb")
    return grid


def _masks(state: Mapping[str, Tensor], published: Published, positions: int) -> tuple[Layout, int]:
    """Slots of the attention masks in causal files, and the number of leading positions that see each other.

    Raises UsageError for a mask that shows other positions than the earlier and the leading ones.
    """
    names = [published.prefix + name for name in published.shapes if re.fullmatch(r"blocks\.\d+\.attn\.mask", name)]
    layout: Layout = {name: Slot((1, 1, positions, positions), None) for name in names}
    found: dict[int, str] = {}
    for name in names:
        if tuple(state[name].shape) != layout[name].shape:
            continue  # reported later, with everything else that does not fit
        visible = state[name][0, 0] != 0
        leading = int(visible[0].sum())
        expected = torch.ones_like(visible).tril()
        expected[:leading, :leading] = True
        found.setdefault(leading, name)
        if not torch.equal(visible, expected) or len(found) > 1:
            raise UsageError(f"{name} is no causal mask, or another than those of other layers")
    return layout, max((leading for leading in found if leading > 1), default=0)


def _built(
    build: Callable[[], Model], state: Mapping[str, Tensor], published: Published, besides: Layout, what: str
) -> Model:
    """The model with the weights of ``state``; tensors in ``besides`` may be missing and are not used."""
    with unfilled():  # skip random values that are about to be replaced
        model = build()
    layout = {published.prefix + name: Slot(tuple(value.shape), name) for name, value in model.state_dict().items()}
    layout |= {name: slot for name, slot in besides.items() if name in state}
    model.load_state_dict(fitted(state, layout, what), assign=True)
    return model.eval()
