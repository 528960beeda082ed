from __future__ import annotations

import dataclasses
from typing import Any, Literal

import pytest
import torch

from helpers.checkpoints import SMALL, Saved, State
from smalti.errors import UsageError
from smalti_train.importers import import_checkpoint
from smalti_train.models.autoregressive_transformer import Net2NetTransformer, Net2NetTransformerConfig
from smalti_train.models.vqgan import VQGAN

PRIOR = Net2NetTransformerConfig(vocabulary=8, positions=16, grid=(4, 4), width=16, layers=2, heads=2)
Kind = Literal["nearest", "gumbel"]


def combined(quantizer: Kind = "nearest") -> tuple[State, VQGAN, Net2NetTransformer]:
    """A state dict in the layout of taming's Net2NetTransformer, and the models in it."""
    torch.manual_seed(0)
    autoencoder, prior = VQGAN(dataclasses.replace(SMALL, quantizer=quantizer)), Net2NetTransformer(PRIOR)
    first = {f"first_stage_model.{name}": value for name, value in autoencoder.state_dict().items()}
    second = {f"transformer.{name}": value for name, value in prior.state_dict().items()}
    masks = {f"transformer.blocks.{i}.attn.mask": torch.ones(16, 16).tril()[None, None] for i in range(2)}
    rest = {"cond_stage_model.x": torch.zeros(2), "first_stage_model.loss.discriminator.main.0.weight": torch.zeros(1)}
    return {**first, **second, **masks, **rest}, autoencoder.eval(), prior.eval()


@pytest.mark.parametrize("quantizer", ["nearest", "gumbel"])
def test_a_file_with_both_stages(quantizer: Kind, saved: Saved) -> None:
    state, autoencoder, prior = combined(quantizer)
    path = saved({"state_dict": state, "global_step": 5})
    pair: Any = import_checkpoint(path, "taming-net2net", {"heads": 2, "resolution": 8, "attn_resolutions": [4]})
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    ids = pair.autoencoder.encode(images)
    assert torch.equal(ids, autoencoder.encode(images))
    torch.testing.assert_close(pair.autoencoder.decode(ids), autoencoder.decode(ids))
    tokens = ids.flatten(1)
    torch.testing.assert_close(pair.prior.logits(tokens), prior.logits(tokens))
    assert pair.autoencoder.config.grid == pair.prior.config.grid == (4, 4)
    assert not any(module.training for module in pair.modules())
    assert not any(parameter.requires_grad for parameter in pair.parameters())


def test_the_grid_is_the_users_where_there_is_one(saved: Saved) -> None:
    path = saved(combined()[0])
    pair: Any = import_checkpoint(path, "taming-net2net", {"heads": 2, "grid": [2, 8]})
    assert pair.prior.config.grid == (2, 8)


@pytest.mark.parametrize("quantizer", ["nearest", "gumbel"])
def test_its_first_stage_alone(quantizer: Kind, saved: Saved) -> None:
    state, autoencoder, _ = combined(quantizer)
    source = "taming-gumbel" if quantizer == "gumbel" else "taming-vqgan"
    alone = import_checkpoint(saved(state), source).state_dict()
    wanted = autoencoder.state_dict()
    assert alone.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in alone.items())


def test_averaged_copies_within_a_stage(saved: Saved) -> None:
    state, autoencoder, _ = combined()
    copies = {
        f"first_stage_model.model_ema.{name.replace('.', '')}": value + 1
        for name, value in autoencoder.state_dict().items()
    }
    pair: Any = import_checkpoint(saved({**state, **copies}), "taming-net2net", {"heads": 2})
    wanted = autoencoder.state_dict()
    assert all(torch.equal(value, wanted[name] + 1) for name, value in pair.autoencoder.state_dict().items())


@pytest.mark.parametrize(
    "name",
    ["first_stage_model.encoder.mid.block_1.conv1.bias", "transformer.blocks.1.ln2.bias", "transformer.pos_emb"],
)
def test_missing_and_misshapen_keys_are_named(name: str, saved: Saved) -> None:
    state = combined()[0]
    lacking = {key: value for key, value in state.items() if key != name}
    for held in (lacking, {**state, name: state[name][None]}):
        with pytest.raises(UsageError, match=name):
            import_checkpoint(saved(held), "taming-net2net", {"heads": 2})


def test_other_faults(saved: Saved) -> None:
    state = combined()[0]
    with pytest.raises(UsageError, match=r"unknown what\.ever"):
        import_checkpoint(saved({**state, "what.ever": torch.zeros(1)}), "taming-net2net", {"heads": 2})
    alone = {name: value for name, value in state.items() if not name.startswith("transformer.")}
    with pytest.raises(UsageError, match=r"nothing below transformer\."):
        import_checkpoint(saved(alone), "taming-net2net", {"heads": 2})
    with pytest.raises(UsageError, match="allowed are: heads, grid, resolution, attn_resolutions"):
        import_checkpoint(saved(state), "taming-net2net", {"head": 2})
