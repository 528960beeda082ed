from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from helpers.checkpoints import SMALL, Saved, State
from smalti.errors import UsageError
from smalti_train.importers import SOURCES, import_checkpoint, recognised
from smalti_train.models.vqgan import VQGAN

FIXTURES = Path(__file__).parents[1] / "fixtures"
UNLEASHING, TAMING = FIXTURES / "ut_vqgan_nearest_small.th", FIXTURES / "taming_vqmodel_small.ckpt"


def small(seed: int, quantizer: Literal["nearest", "gumbel"] = "nearest") -> State:
    """A state dict in taming's layout."""
    torch.manual_seed(seed)
    return VQGAN(dataclasses.replace(SMALL, quantizer=quantizer)).state_dict()


def refusal(path: Path, source: str = "taming-vqgan", config: Any = None) -> str:
    with pytest.raises(UsageError) as caught:
        import_checkpoint(path, source, config)
    message = str(caught.value)
    assert message.startswith((f"{path}", "cannot read", "unknown source"))
    assert "\n" not in message
    assert len(message) < 1200
    return message


def holds(path: Path, state: State, source: str = "taming-vqgan") -> None:
    """The file imports as exactly ``state``."""
    loaded = import_checkpoint(path, source).state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


@pytest.mark.parametrize(("path", "source"), [(UNLEASHING, "unleashing-vqgan"), (TAMING, "taming-vqgan")])
def test_an_imported_model_is_ready_to_use(path: Path, source: str) -> None:
    model = import_checkpoint(str(path), source, {"resolution": 32, "attn_resolutions": [8]})
    assert isinstance(model, VQGAN)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert model.config.size == (32, 32)
    assert model.config.attention_levels == (2,)
    assert model.decode(model.encode(torch.zeros(1, 3, 32, 32))).numpy().shape == (1, 3, 32, 32)


def test_averaged_copies_beside_unleashings(saved: Saved) -> None:
    state = torch.load(UNLEASHING, weights_only=True)
    copies = {name.replace("ae.", "ae_ema.", 1): value + 1 for name, value in state.items() if name.startswith("ae.")}
    model = import_checkpoint(saved({**state, **copies}), "unleashing-vqgan")
    raw = import_checkpoint(UNLEASHING, "unleashing-vqgan").state_dict()
    assert all(torch.equal(value, raw[name] + 1) for name, value in model.state_dict().items())


def test_what_stands_beside_the_autoencoder_is_left_out(saved: Saved) -> None:
    judge = {"loss.discriminator.main.0.weight": torch.zeros(8, 3, 4, 4), "loss.logvar": torch.zeros(())}
    holds(saved({"state_dict": {**small(0), **judge}}), small(0))
    state = torch.load(UNLEASHING, weights_only=True)
    prior = {"_denoise_fn.pos_emb": torch.zeros(1, 64, 8), "Lt_history": torch.zeros(65)}
    assert isinstance(import_checkpoint(saved({**state, **prior}), "unleashing-vqgan"), VQGAN)


def test_unleashings_autoencoder_alone_and_without_its_head(saved: Saved) -> None:
    state = torch.load(UNLEASHING, weights_only=True)
    bare = {name[3:]: value for name, value in state.items() if name.startswith("ae.") and "logsigma" not in name}
    model = import_checkpoint(saved(bare), "unleashing-vqgan")
    assert isinstance(model, VQGAN)
    assert not model.config.probabilistic


def test_gumbel_of_both_systems(saved: Saved) -> None:
    state = small(0, "gumbel")
    holds(saved(state), state, "taming-gumbel")
    other = {name: value for name, value in torch.load(UNLEASHING, weights_only=True).items() if "quantize" not in name}
    quantizer = {"proj.weight": (9, 16, 1, 1), "proj.bias": (9,), "embed.weight": (9, 16)}
    drawn = {f"ae.quantize.{name}": torch.randn(shape) for name, shape in quantizer.items()}
    model = import_checkpoint(saved({**other, **drawn}), "unleashing-vqgan")
    assert isinstance(model, VQGAN)
    assert model.config.codes == 9
    z = model.features(torch.rand(1, 3, 32, 32))
    logits = torch.einsum("bchw,kc->bkhw", z, drawn["ae.quantize.proj.weight"][:, :, 0, 0])
    wanted = (logits + drawn["ae.quantize.proj.bias"][:, None, None]).argmax(1)
    assert torch.equal(model.quantize.nearest(z), wanted)


def test_size_of_images() -> None:
    def size(**config: object) -> tuple[int, int]:
        model = import_checkpoint(TAMING, "taming-vqgan", config)
        assert isinstance(model, VQGAN)
        return model.config.size

    assert size() == (256, 256)
    assert size(resolution=64) == (64, 64)
    assert size(attn_resolutions=[8]) == (32, 32)
    assert size(grid=[5, 9]) == (20, 36)
    assert size(resolution=32, attn_resolutions=[8], grid=[5, 9]) == (20, 36)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"colour": 1}, "unknown key colour in the configuration; allowed are: resolution, attn_resolutions, grid"),
        ({"heads": 4}, "unknown key heads"),
        ({"resolution": "32"}, "whole number"),
        ({"resolution": True}, "whole number"),
        ({"resolution": 33}, "multiple of the 4 pixels"),
        ({"grid": [8]}, "two whole numbers"),
        ({"grid": 8}, "two whole numbers"),
        ({"attn_resolutions": [8.5]}, "whole numbers"),
        ({"attn_resolutions": [16], "resolution": 32}, r"do not fit the weights"),
        ({"attn_resolutions": [8, 16]}, r"do not fit the weights"),
        ({"attn_resolutions": [24], "resolution": 32}, "no level has the side 24"),
        ([("grid", 8)], "not names with values"),
    ],
)
def test_configurations_that_are_refused(config: Any, words: str) -> None:
    assert words in refusal(TAMING, "taming-vqgan", config)


def test_unknown_sources_are_answered_with_the_known_ones() -> None:
    message = refusal(TAMING, "stylegan")
    assert all(source in message for source in SOURCES)


@pytest.mark.parametrize(
    ("path", "source", "name"),
    [
        (UNLEASHING, "unleashing-vqgan", "ae.encoder.blocks.5.conv1.weight"),
        (UNLEASHING, "unleashing-vqgan", "ae.encoder.blocks.1.conv_out.bias"),
        (UNLEASHING, "unleashing-vqgan", "ae.encoder.blocks.0.weight"),
        (UNLEASHING, "unleashing-vqgan", "ae.quantize.embedding.weight"),
        (UNLEASHING, "unleashing-vqgan", "ae.generator.logsigma.2.bias"),
        (UNLEASHING, "unleashing-vqgan", "ae.generator.blocks.11.weight"),
        (TAMING, "taming-vqgan", "encoder.conv_in.weight"),
        (TAMING, "taming-vqgan", "encoder.down.2.block.0.conv1.weight"),
        (TAMING, "taming-vqgan", "decoder.up.0.block.0.norm1.bias"),
        (TAMING, "taming-vqgan", "quantize.embedding.weight"),
        (TAMING, "taming-vqgan", "post_quant_conv.weight"),
    ],
)
def test_missing_and_misshapen_keys_are_named(path: Path, source: str, name: str, saved: Saved) -> None:
    held = torch.load(path, weights_only=True)
    state: State = held.get("state_dict", held)
    missing = {key: value for key, value in state.items() if key != name}
    message = refusal(saved(missing), source)
    assert "lacks" in message
    assert name in message
    if "embedding" not in name:  # any number of codes is right
        assert name in refusal(saved({**state, name: torch.cat([state[name], state[name]])}), source)
    assert name in refusal(saved({**state, name: state[name][None]}), source)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_no_numbers_are_named(value: float, saved: Saved) -> None:
    state = small(0)
    state["decoder.mid.attn_1.q.bias"][3] = value
    assert "damaged: not every value is a finite number in decoder.mid.attn_1.q.bias" in refusal(saved(state))


def test_unknown_keys_are_named(saved: Saved) -> None:
    strange = {**small(0), "encoder.extra.weight": torch.zeros(1), "line\nbreak": torch.zeros(1)}
    message = refusal(saved(strange))
    assert r"encoder.extra.weight, line\nbreak" in message
    many = {**small(0), **{f"extra.{index}": torch.zeros(1) for index in range(9)}}
    assert "extra.3 and 5 more" in refusal(saved(many))


def test_the_other_quantizer_is_named(saved: Saved) -> None:
    assert "its source is taming-vqgan" in refusal(saved(small(0)), "taming-gumbel")
    assert "its source is taming-gumbel" in refusal(saved(small(0, "gumbel")), "taming-vqgan")


@pytest.mark.parametrize(
    ("path", "source", "right"),
    [
        (UNLEASHING, "taming-vqgan", "unleashing-vqgan"),
        (TAMING, "unleashing-vqgan", "taming-vqgan"),
        (FIXTURES / "ut_absorbing_small.th", "taming-vqgan", "unleashing-absorbing"),
        (UNLEASHING, "taming-net2net", "unleashing-vqgan"),
    ],
)
def test_checkpoints_of_another_system_are_recognised(path: Path, source: str, right: str) -> None:
    assert refusal(path, source).endswith(f"try the source {right}")


def test_nothing_is_recommended_that_does_not_help(saved: Saved) -> None:
    """A hint is for a file of something else, and not for a fault of the right one."""
    lacking = {name: value for name, value in small(0).items() if name != "decoder.conv_out.bias"}
    assert "try the source" not in refusal(saved(lacking))
    both = {f"first_stage_model.{name}": value for name, value in lacking.items()} | {"transformer.x": torch.zeros(1)}
    assert recognised(both) == "taming-net2net"
    assert "try the source" not in refusal(saved(both))
    assert refusal(saved(both), "unleashing-vqgan").endswith("try the source taming-net2net")
    message = refusal(saved(small(0, "gumbel")))
    assert message.count("taming-gumbel") == 1


def test_nothing_is_recognised_in_strange_names() -> None:
    assert recognised({"a.b": torch.zeros(1)}) is None
