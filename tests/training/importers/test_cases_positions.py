"""Hourglasses with learned positions: what is imported computes what the published option computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.checkpoints import Saved, State
from smalti.errors import UsageError
from smalti_train.importers import import_checkpoint
from smalti_train.importers.sundae import import_sundae_hourglass
from smalti_train.models.sundae_transformer import SundaeTransformer, SundaeTransformerConfig
from smalti_train.runs.config import PriorRun
from smalti_train.runs.config_files import read_run, to_json

FLAT = SundaeTransformerConfig(
    codes=12, grid=(4, 8), width=16, heads=2, head_dim=64, depth=(1, 2, 1), published=True, positions=32
)
NESTED = SundaeTransformerConfig(
    codes=9,
    grid=(4, 4),
    width=12,
    heads=3,
    head_dim=6,
    depth=(1, (1, 1, 1), 2),
    published=True,
    positions=64,
    classes=4,
)


def state_of(config: SundaeTransformerConfig) -> State:
    generator = torch.Generator().manual_seed(0)
    state = SundaeTransformer(config).state_dict()
    state = {name: torch.randn(value.shape, generator=generator) * 0.4 for name, value in state.items()}
    if config.classes:
        state["class_emb.weight"] = state["class_emb.weight"][:-1]  # published files know no "no label"
    return state


def reference(state: State, tokens: Tensor, labels: Tensor | None, config: SundaeTransformerConfig) -> Tensor:
    """The published network with its option of learned positions, written out."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def layers(x: Tensor, name: str, context: Tensor | None = None) -> Tensor:
        layer = 0
        while f"{name}.layers.{layer}.0.norm.weight" in state:
            first, second = f"{name}.layers.{layer}.0", f"{name}.layers.{layer}.1"
            normed = norm(x, f"{first}.norm")
            q = linear(normed, f"{first}.fn.to_q")
            k, v = linear(normed if context is None else context, f"{first}.fn.to_kv").chunk(2, -1)
            q, k, v = (part.unflatten(-1, (config.heads, -1)) for part in (q, k, v))
            weights = (torch.einsum("bihd,bjhd->bhij", q, k) * config.head_dim**-0.5).softmax(-1)
            x = x + linear(torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2), f"{first}.fn.to_out")
            hidden = F.gelu(linear(norm(x, f"{second}.norm"), f"{second}.fn.0"))
            x = x + linear(hidden, f"{second}.fn.3")
            layer += 1
        return x

    def hourglass(x: Tensor, name: str, h: int, w: int) -> Tensor:
        x = layers(x, f"{name}.pre_transformer")
        batch, count, width = x.shape
        image = x.transpose(1, 2).unflatten(2, (h, w))
        short = linear(F.pixel_unshuffle(image, 2).flatten(2).transpose(1, 2), f"{name}.downsample.proj")
        groups = x.reshape(batch * count // 4, 4, width)  # four tokens in raster order, as published
        short = layers(short.reshape(-1, 1, width), f"{name}.attn_resampling_pre_valley", groups)
        short = short.reshape(batch, count // 4, width)
        valley = f"{name}.valley_transformer"
        nested = f"{valley}.downsample.proj.weight" in state
        short = hourglass(short, valley, h // 2, w // 2) if nested else layers(short, valley)
        up = linear(short, f"{name}.upsample.proj").transpose(1, 2).unflatten(2, (h // 2, w // 2))
        x = x + F.pixel_shuffle(up, 2).flatten(2).transpose(1, 2)
        x = layers(x.reshape(-1, 4, width), f"{name}.attn_resampling_post_valley", short.reshape(-1, 1, width))
        return layers(x.reshape(batch, count, width), f"{name}.post_transformer")

    x = state["token_emb.weight"][tokens]
    if labels is not None:
        x = x + state["class_emb.weight"][labels][:, None]
    x = x + state["pos_emb.weight"][torch.arange(tokens.shape[1])]
    assert config.grid is not None
    return linear(norm(hourglass(x, "transformer", *config.grid), "transformer.norm_out"), "to_logits")


@pytest.mark.parametrize("config", [FLAT, NESTED], ids=["flat", "nested"])
@pytest.mark.parametrize("prefix", ["", "net.", "module."])
def test_cases_of_learned_positions_compute_what_the_published_code_does(
    prefix: str, config: SundaeTransformerConfig, saved: Saved
) -> None:
    state = state_of(config)
    assert config.grid is not None
    told: dict[str, Any] = {"grid": list(config.grid), "heads": config.heads}
    model = import_checkpoint(saved({prefix + name: v for name, v in state.items()}), "sundae-hourglass", told)
    assert model.config == config
    tokens = torch.randint(config.codes, (3, config.grid[0] * config.grid[1]))
    labels = torch.tensor([0, 3, 1]) if config.classes else None
    found = model.logits(tokens, labels)
    torch.testing.assert_close(found, reference(state, tokens, labels, config), atol=2e-4, rtol=2e-4)
    shifted = {**state, "pos_emb.weight": state["pos_emb.weight"].roll(1, 0)}
    assert (found - reference(shifted, tokens, labels, config)).abs().max() > 0.01


def test_cases_of_heads_that_weights_do_not_tell() -> None:
    assert import_sundae_hourglass(state_of(FLAT)).config.heads == 2  # of the published 64 dimensions
    with pytest.raises(UsageError, match='18 dimensions, which are no heads of 64: give "heads"'):
        import_sundae_hourglass(state_of(NESTED))
    with pytest.raises(UsageError, match="which 5 heads do not divide"):
        import_sundae_hourglass(state_of(NESTED), {"heads": 5})


def test_cases_of_grids_larger_than_what_was_learned_are_refused() -> None:
    assert import_sundae_hourglass(state_of(FLAT), {"grid": [4, 4]}).config.grid == (4, 4)
    with pytest.raises(UsageError, match="learned 32 positions"):
        import_sundae_hourglass(state_of(FLAT), {"grid": [8, 8]})
    with pytest.raises(UsageError, match="learned 32 positions"):
        import_sundae_hourglass(state_of(FLAT)).logits(torch.zeros(1, 64).long())


def test_cases_of_damage_to_positions_are_named() -> None:
    state = state_of(FLAT)
    with pytest.raises(UsageError, match=r"pos_emb.weight \[32, 15\] where \[32, 16\] belongs"):
        import_sundae_hourglass({**state, "pos_emb.weight": torch.zeros(32, 15)}, {"grid": [4, 8]})
    del state["pos_emb.weight"]
    with pytest.raises(UsageError, match="which tell a size"):
        import_sundae_hourglass(state)


def test_cases_of_learned_positions_in_a_run(tmp_path: Path) -> None:
    run = PriorRun(preset="sundae-hourglass", model=NESTED, objective="sundae")
    (tmp_path / "config.json").write_bytes(to_json(run))
    assert read_run(tmp_path / "config.json") == run
    with pytest.raises(UsageError, match="positions 64: only published weights embed them"):
        SundaeTransformerConfig(positions=64)
