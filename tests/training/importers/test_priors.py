from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smalti.errors import UsageError
from smalti_train.importers import import_checkpoint
from smalti_train.importers.priors import (
    import_net2net_transformer,
    import_unleashing_absorbing,
    import_unleashing_autoregressive,
)
from smalti_train.models.absorbing_transformer import AbsorbingTransformer, AbsorbingTransformerConfig
from smalti_train.models.autoregressive_transformer import (
    AutoregressiveTransformer,
    AutoregressiveTransformerConfig,
    Net2NetTransformer,
    Net2NetTransformerConfig,
)

FIXTURES = Path(__file__).parents[1] / "fixtures"
TWIN = AutoregressiveTransformerConfig(codes=6, grid=(3, 3), width=16, layers=3, heads=2)


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, Tensor]:
    return torch.load(FIXTURES / "ut_absorbing_small.th", weights_only=True)


def perturbed(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return model.eval()


def causal(model: nn.Module, prefix: str, layers: int, positions: int, unmasked: int = 0) -> dict[str, Tensor]:
    """The state that the published code saves of a causal model."""
    mask = torch.ones(positions, positions).tril()
    mask[:unmasked, :unmasked] = 1
    state = {prefix + name: value for name, value in model.state_dict().items()}
    return state | {f"{prefix}blocks.{i}.attn.mask": mask[None, None] for i in range(layers)}


def twin() -> dict[str, Tensor]:
    return causal(perturbed(AutoregressiveTransformer(TWIN)), "net.", 3, 9)


def taming(positions: int = 9, unmasked: int = 0) -> dict[str, Tensor]:
    config = Net2NetTransformerConfig(6, positions, (3, 3), 16, 2, heads=2, unmasked=unmasked)
    return causal(perturbed(Net2NetTransformer(config)), "transformer.", 2, positions, unmasked)


def test_full_size_names_and_shapes_are_the_published_ones() -> None:
    lines = (line.split("\t") for line in (FIXTURES / "ut_absorbing_full.txt").read_text().splitlines())
    published = {name: ast.literal_eval(shape) for name, shape, _ in lines}
    with torch.device("meta"):
        model = AbsorbingTransformer(AbsorbingTransformerConfig())
    ours = {f"_denoise_fn.{name}": tuple(value.shape) for name, value in model.state_dict().items()}
    besides = {name: (257,) for name in ("Lt_history", "Lt_count", "loss_history")}
    assert ours | besides | {"_denoise_fn.start_tok": (1, 1, 512)} == published


@pytest.mark.parametrize("bare", [False, True])
def test_the_published_file_imports_with_its_logits(checkpoint: dict[str, Tensor], bare: bool) -> None:
    arrays = np.load(FIXTURES / "ut_absorbing_small.npz")
    state = {name.removeprefix("_denoise_fn."): value for name, value in checkpoint.items()} if bare else checkpoint
    model = import_unleashing_absorbing(state, {"heads": 4, "grid": [8, 8]})
    assert model.config == AbsorbingTransformerConfig(codes=64, grid=(8, 8), width=64, layers=3, heads=4)
    assert not model.training
    error = np.abs(model.logits(torch.from_numpy(arrays["x_t"])).numpy() - arrays["logits"]).max()
    assert error <= 1e-4


def test_a_file_goes_all_the_way(checkpoint: dict[str, Tensor], tmp_path: Path) -> None:
    model = import_checkpoint(FIXTURES / "ut_absorbing_small.th", "unleashing-absorbing", {"heads": 4})
    assert isinstance(model, AbsorbingTransformer)
    torch.save(twin(), tmp_path / "autoregressive_ema_1000.th")
    model = import_checkpoint(tmp_path / "autoregressive_ema_1000.th", "unleashing-autoregressive", {"heads": 2})
    assert isinstance(model, AutoregressiveTransformer)
    with pytest.raises(UsageError, match="try the source unleashing-absorbing"):
        import_checkpoint(FIXTURES / "ut_absorbing_small.th", "unleashing-autoregressive")


def test_heads_are_eight_by_default_and_the_grid_square(checkpoint: dict[str, Tensor]) -> None:
    config = import_unleashing_absorbing(checkpoint).config
    assert (config.heads, config.grid) == (8, (8, 8))
    assert import_unleashing_absorbing(checkpoint, {"grid": [4, 16]}).config.grid == (4, 16)


def test_losses_by_time_and_the_start_token_may_be_missing(checkpoint: dict[str, Tensor]) -> None:
    network = {name: v for name, v in checkpoint.items() if name.startswith("_denoise_fn.") and "start" not in name}
    tokens = torch.randint(65, (2, 64), generator=torch.Generator().manual_seed(0))
    whole, part = (import_unleashing_absorbing(state, {"heads": 4}) for state in (checkpoint, network))
    assert torch.equal(whole.logits(tokens), part.logits(tokens))


def test_half_precision_files_become_single(checkpoint: dict[str, Tensor]) -> None:
    model = import_unleashing_absorbing({name: value.half() for name, value in checkpoint.items()})
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("masks", [True, False])
def test_the_twin_imports(masks: bool) -> None:
    state = {name: value for name, value in twin().items() if masks or not name.endswith("mask")}
    model = import_unleashing_autoregressive(state, {"heads": 2})
    assert model.config == TWIN
    tokens = torch.randint(6, (2, 8), generator=torch.Generator().manual_seed(0))
    expected = perturbed(AutoregressiveTransformer(TWIN))(tokens)
    torch.testing.assert_close(model.logits(tokens), expected)
    assert model.logits(tokens).shape == (2, 9, 6)
    assert model.logits(tokens[:, :0]).shape == (2, 1, 6)


@pytest.mark.parametrize("unmasked", [0, 4])
@pytest.mark.parametrize("bare", [False, True])
def test_tamings_transformer_imports(unmasked: int, bare: bool) -> None:
    state = taming(unmasked=unmasked)
    if bare:
        state = {name.removeprefix("transformer."): value for name, value in state.items()}
    model = import_net2net_transformer(state, {"heads": 2})
    assert model.config == Net2NetTransformerConfig(6, 9, (3, 3), 16, 2, heads=2, unmasked=unmasked)
    tokens = torch.randint(6, (2, 9), generator=torch.Generator().manual_seed(0))
    expected = perturbed(Net2NetTransformer(model.config))(tokens)
    assert torch.equal(model.logits(tokens), expected)


@pytest.mark.parametrize(("positions", "grid"), [(9, (3, 3)), (32, (4, 4)), (12, None)])
def test_tamings_grid_is_read_off_the_positions_where_they_tell(positions: int, grid: tuple[int, int] | None) -> None:
    assert import_net2net_transformer(taming(positions), {"heads": 2}).config.grid == grid
    assert import_net2net_transformer(taming(positions), {"heads": 2, "grid": [2, 4]}).config.grid == (2, 4)


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key != name}


BLOCK = "_denoise_fn.blocks.1.attn.key.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, BLOCK), f"lacks {BLOCK}"),
        (lambda s: without(s, "_denoise_fn.head.weight"), "lacks _denoise_fn.head.weight"),
        (lambda s: without(s, "_denoise_fn.pos_emb"), "lacks _denoise_fn.pos_emb"),
        (lambda s: s | {"_denoise_fn.extra": torch.zeros(2)}, "has the unknown _denoise_fn.extra"),
        (lambda s: s | {"other": torch.zeros(2)}, "has the unknown other"),
        (lambda s: s | {BLOCK: torch.zeros(64, 63)}, rf"has {BLOCK} \[64, 63\] where \[64, 64\] belongs"),
        (lambda s: s | {"_denoise_fn.ln_f.bias": torch.zeros(65)}, r"ln_f.bias \[65\] where \[64\] belongs"),
        (lambda s: s | {"_denoise_fn.start_tok": torch.zeros(64)}, r"start_tok \[64\] where \[1, 1, 64\] belongs"),
        (lambda s: s | {"Lt_count": torch.zeros(64)}, r"has Lt_count \[64\] where \[65\] belongs"),
        (
            lambda s: s | {"_denoise_fn.head.weight": torch.zeros(60, 64)},
            r"head.weight \[60, 64\] and _denoise_fn.tok_emb.weight \[65, 64\], which do not belong together",
        ),
        (lambda s: s | {BLOCK: torch.full((64, 64), float("nan"))}, "not every value is a finite number"),
        (lambda s: {k: v for k, v in s.items() if "blocks." not in k}, "has no layers"),
        (lambda s: {k: v for k, v in s.items() if "blocks.1." not in k}, r"lacks _denoise_fn.blocks.1.ln1.weight"),
        (lambda s: s | {"_denoise_fn.blocks.999999.ln1.bias": torch.zeros(64)}, "unknown _denoise_fn.blocks.999999"),
        (lambda s: {}, "lacks head.weight"),
    ],
)
def test_what_does_not_fit_is_named(checkpoint: dict[str, Tensor], change, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        import_unleashing_absorbing(change(checkpoint), {"heads": 4})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"head": 4}, "unknown key head in the configuration; allowed are: heads, grid"),
        ({"resolution": 256}, "unknown key resolution"),
        ({"heads": 3}, "heads 3: it must divide the width, 64"),
        ({"heads": 0}, "heads is a whole number from 1"),
        ({"grid": [8, 9]}, r"grid \[8, 9\] does not fit the 64 positions of _denoise_fn.pos_emb"),
        ({"grid": 8}, "grid is two whole numbers"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(
    checkpoint: dict[str, Tensor], config: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        import_unleashing_absorbing(checkpoint, config)


def test_other_faults_of_causal_files_are_named() -> None:
    files = taming(), taming(unmasked=4)
    key = "transformer.blocks.{}.attn.mask"
    broken = files[0][key.format(0)].clone()
    broken[0, 0, 6, 3] = 0
    for state, config, message in (
        (files[0], {}, r'such as {"heads": 16}'),
        (
            files[0],
            {"heads": 2, "grid": [5, 5]},
            r"grid \[5, 5\] has more tokens than transformer.pos_emb has positions, 9",
        ),
        (files[0] | {key.format(0): broken}, {"heads": 2}, r"transformer.blocks.0.attn.mask is no causal mask"),
        (
            files[0] | {key.format(1): files[1][key.format(1)]},
            {"heads": 2},
            r"transformer.blocks.1.attn.mask is .*another than those of other layers",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            import_net2net_transformer(state, config)


def test_other_faults_of_twins_are_named() -> None:
    oblong = AutoregressiveTransformerConfig(codes=6, grid=(3, 4), width=16, layers=1, heads=2)
    masks = causal(nn.Module(), "net.", 3, 9, unmasked=4)
    for state, message in (
        (causal(AutoregressiveTransformer(oblong), "net.", 1, 12), "its 12 tokens are no square"),
        (twin() | {"net.blocks.1.attn.mask": torch.ones(9, 9)}, r"attn.mask \[9, 9\] where \[1, 1, 9, 9\] belongs"),
        (twin() | masks, "its first 4 positions see each other"),
    ):
        with pytest.raises(UsageError, match=message):
            import_unleashing_autoregressive(state, {"heads": 2})
