from __future__ import annotations

import ast
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.checkpoints import Saved, State
from smalti.cli.main import _run
from smalti.errors import UsageError
from smalti_train.importers import import_checkpoint
from smalti_train.importers.fitting import Published
from smalti_train.importers.sundae import import_sundae_hourglass, sundae_config, sundae_layout
from smalti_train.models.sundae_transformer import SundaeTransformer, SundaeTransformerConfig
from smalti_train.runs.config import PriorRun
from smalti_train.runs.loading import load_autoencoder, load_prior

FIXTURES = Path(__file__).parents[1] / "fixtures"
FILE = FIXTURES / "sundae_hourglass_small.pt"
SMALL = SundaeTransformerConfig(codes=64, grid=(8, 8), width=48, heads=2, depth=(1, 2, 1), published=True)
NESTED = SundaeTransformerConfig(
    codes=12, grid=(4, 8), width=10, heads=3, head_dim=8, depth=(2, (1, 3, 1), 1), published=True
)
CONDITIONAL = dataclasses.replace(NESTED, classes=5, depth=(1, 1, 0), attention_resampling=False)


@pytest.fixture(scope="module")
def checkpoint() -> State:
    return torch.load(FILE, weights_only=True)["net"]


def published(config: SundaeTransformerConfig) -> tuple[SundaeTransformer, State]:
    """A model and the state that published code would save of it."""
    model = SundaeTransformer(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
        if model.class_emb is not None:
            model.class_emb.weight[-1] = 0
    state = dict(model.state_dict())
    if config.classes:
        state["class_emb.weight"] = state["class_emb.weight"][:-1]
    for name, slot in sundae_layout(config).items():
        if slot.name is None:
            highest = config.published_frequencies["valley_transformer.rotary" in name]
            state[name] = torch.linspace(1, highest / 2, slot.shape[0]) * math.pi
    return model, state


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("sundae_ffhq1024_2122_d1024", SundaeTransformerConfig(published=True)),
        (
            "sundae_ffhq1024_2102_d2048",
            SundaeTransformerConfig(width=2048, depth=(2, 10, 2), published=True),
        ),
        ("sundae_ffhq256_2102_d1024", SundaeTransformerConfig(codes=1024, depth=(2, 10, 2), published=True)),
    ],
)
def test_full_size_names_and_shapes_are_the_published_ones(file: str, wanted: SundaeTransformerConfig) -> None:
    lines = (line.split("\t") for line in (FIXTURES / f"{file}.txt").read_text().splitlines())
    shapes = {name: ast.literal_eval(shape) for name, shape, _ in lines}
    found = sundae_config(Published(shapes), (32, 32))
    assert found == wanted
    assert {name: slot.shape for name, slot in sundae_layout(found).items()} == shapes


@pytest.mark.parametrize("prefix", ["", "net.", "module."])
def test_the_published_file_imports_with_its_logits(prefix: str, checkpoint: State, saved: Saved) -> None:
    arrays = {
        name: torch.from_numpy(np.array(v)) for name, v in np.load(FIXTURES / "sundae_hourglass_small.npz").items()
    }
    file = saved({prefix + name: value for name, value in checkpoint.items()}) if prefix else FILE
    model = import_checkpoint(file, "sundae-hourglass", {"heads": 2, "grid": [8, 8]})
    assert model.config == SMALL
    assert not model.training
    for tokens, logits in (("x", "logits"), ("z0", "logits1"), ("z1_seed77", "logits2")):
        found = model.logits(arrays[tokens])
        assert found.dtype == torch.float32
        assert (found - arrays[logits]).abs().max() <= 1e-4


def test_averaged_weights_are_taken_where_there_are_both(checkpoint: State, saved: Saved) -> None:
    raw = {name: torch.zeros_like(value) if "freqs" not in name else value for name, value in checkpoint.items()}
    model = import_checkpoint(saved({"net": raw, "ema": checkpoint}), "sundae-hourglass", {"grid": [8, 8]})
    assert torch.equal(model.state_dict()["to_logits.bias"], checkpoint["to_logits.bias"])


@pytest.mark.parametrize("config", [NESTED, CONDITIONAL], ids=["nested", "conditional"])
def test_other_hourglasses_come_back_as_they_were(config: SundaeTransformerConfig) -> None:
    config = dataclasses.replace(config, published_frequencies=(16.0, 10.0))
    model, state = published(config)
    found = import_sundae_hourglass(
        {name: value.half() if "freqs" not in name else value for name, value in state.items()}, {"grid": [4, 8]}
    )
    assert found.config == config
    model.half().float()
    tokens = torch.randint(12, (3, 32), generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 4, 5]) if config.classes else None
    torch.testing.assert_close(found.logits(tokens, labels), model(tokens, labels))
    if config.classes:  # no published model was trained without a label: nothing is added then
        torch.testing.assert_close(found.logits(tokens[2:]), model(tokens[2:], torch.tensor([5])))
        assert (found.logits(tokens[:1], torch.tensor([1])) - found.logits(tokens[:1])).abs().max() > 0.1


def test_weights_do_not_tell_the_grid(checkpoint: State) -> None:
    model = import_sundae_hourglass(checkpoint)
    assert model.config == dataclasses.replace(SMALL, grid=None)
    assert model.logits(torch.zeros(1, 16).long()).shape == (1, 16, 64)
    assert import_sundae_hourglass(checkpoint, {"grid": [4, 16]}).config.grid == (4, 16)


def without(state: State, part: str) -> State:
    return {name: value for name, value in state.items() if part not in name}


FIRST = "transformer.pre_transformer.layers.0.0.fn.to_q.weight"
FREQUENCIES = "transformer.pre_transformer.rotary_pos_emb.freqs"
DOWN, UP = "transformer.downsample.proj.weight", "transformer.upsample.proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, FIRST), f"lacks {FIRST}"),
        (lambda s: without(s, "valley_transformer"), "has no layers below transformer.valley_transformer.layers"),
        (lambda s: without(s, "norm_out"), "lacks transformer.norm_out.weight, transformer.norm_out.bias"),
        (lambda s: without(s, "freqs"), "lacks transformer.pre_transformer.rotary_pos_emb.freqs, .* which tell a size"),
        (lambda s: without(s, "sample.proj"), f"lacks {DOWN}, .*, which tell a size"),
        (lambda s: s | {"pos_emb": torch.zeros(2)}, "has the unknown pos_emb"),
        (lambda s: s | {FIRST: torch.zeros(128, 47)}, r"to_q.weight \[128, 47\] where \[128, 48\] belongs"),
        (lambda s: s | {"to_logits.bias": torch.zeros(60)}, r"to_logits.bias \[60\] where \[64\] belongs"),
        (lambda s: s | {FREQUENCIES: torch.zeros(15)}, r"freqs \[15\] where \[16\] belongs"),
        (lambda s: s | {FREQUENCIES: torch.arange(16.0)}, f"{FREQUENCIES} holds other frequencies"),
        (lambda s: s | {FREQUENCIES: torch.full((16,), math.nan)}, f"{FREQUENCIES} holds other frequencies"),
        (lambda s: s | {FREQUENCIES: torch.linspace(1, 5, 16) * math.pi}, "the same as in transformer"),
        (lambda s: s | {FIRST: torch.full((128, 48), math.inf)}, "not every value is a finite number"),
        (
            lambda s: (
                without(s, "proj")
                | {DOWN: torch.zeros(48, 96), f"{UP}.weight": torch.zeros(96, 48), f"{UP}.bias": torch.zeros(96)}
            ),
            "shortens 2 tokens to one, which is no square patch",
        ),
        (lambda s: s | {"class_emb.weight": torch.zeros(3, 47)}, r"class_emb.weight \[3, 47\] where \[3, 48\] belongs"),
    ],
)
def test_what_does_not_fit_is_named(checkpoint: State, change: Callable[[State], State], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        import_sundae_hourglass(change(checkpoint), {"grid": [8, 8]})


def test_more_hourglasses_than_a_configuration_holds_are_refused() -> None:
    state = {
        "transformer." + "valley_transformer." * depth + "layers.0.0.norm.bias": torch.zeros(2) for depth in (1, 4)
    }
    with pytest.raises(UsageError, match="has more than 3 hourglasses within each other"):
        import_sundae_hourglass(state)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"head": 2}, "unknown key head in the configuration; allowed are: heads, grid"),
        ({"heads": 4}, "heads 4: the weights have 2 heads of 64 dimensions"),
        ({"grid": [8, 9]}, "grid 8x9: this prior shortens grids"),
        ({"grid": 8}, "grid is two whole numbers"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(checkpoint: State, config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        import_sundae_hourglass(checkpoint, config)


def test_other_files_are_told_apart() -> None:
    with pytest.raises(UsageError, match="try the source sundae-hourglass"):
        import_checkpoint(FILE, "unleashing-absorbing")
    with pytest.raises(UsageError, match="try the source unleashing-absorbing"):
        import_checkpoint(FIXTURES / "ut_absorbing_small.th", "sundae-hourglass")


def command(source: str, file: Path, output: Path, *options: object) -> int:
    return _run(["import", "--source", source, str(file), "-o", str(output), *map(str, options)])


@pytest.fixture
def codec(tmp_path: Path) -> Path:
    """An autoencoder of 64 codes on 8x8 tokens."""
    options = ("--config", '{"resolution": 32}')
    assert command("unleashing-vqgan", FIXTURES / "ut_vqgan_nearest_small.th", tmp_path / "codec", *options) == 0
    return tmp_path / "codec"


def test_the_command_writes_a_run_that_loads(codec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("sundae-hourglass", FILE, tmp_path / "none", "--autoencoder", codec) == 2
    assert 'give "grid": [rows, columns]' in capsys.readouterr().err
    options = ("--autoencoder", codec, "--config", '{"grid": [8, 8]}')
    assert command("sundae-hourglass", FILE, tmp_path / "prior", *options) == 0
    prior, run = load_prior(tmp_path / "prior")
    assert isinstance(run, PriorRun)
    assert (run.objective, run.model, run.data.size) == ("sundae", SMALL, 32)
    assert run.imported is not None
    assert run.imported.classes == ()
    assert json.loads((tmp_path / "prior/config.json").read_text())["model"]["kind"] == "sundae"
    tokens = torch.randint(64, (2, 64), generator=torch.Generator().manual_seed(0))
    expected = import_checkpoint(FILE, "sundae-hourglass", {"grid": [8, 8]}).logits(tokens)
    assert torch.equal(prior.logits(tokens), expected)
    assert load_autoencoder(tmp_path / "prior/autoencoder")[0].config.codes == 64


def test_classes_have_names_or_numbers(
    codec: Path, saved: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, state = published(dataclasses.replace(CONDITIONAL, codes=64, grid=(8, 8), classes=3))
    file = saved({"net": state})
    options = ("--autoencoder", codec, "--config", '{"grid": [8, 8]}')
    for labels, wanted in (((), ("0", "1", "2")), (("--labels", "a,b,c"), ("a", "b", "c"))):
        assert command("sundae-hourglass", file, tmp_path / "-".join(wanted), *options, *labels) == 0
        prior, run = load_prior(tmp_path / "-".join(wanted))
        assert run.imported is not None
        assert run.imported.classes == wanted
        assert run.model.classes == prior.config.classes == 3
    assert command("sundae-hourglass", file, tmp_path / "few", *options, "--labels", "a,b") == 2
    assert "2 labels: this prior has 3 classes; name every one of them, in order" in capsys.readouterr().err
    assert command("sundae-hourglass", FILE, tmp_path / "few", *options, "--labels", "a,b") == 2
    assert "this prior has 0 classes; leave --labels out" in capsys.readouterr().err
