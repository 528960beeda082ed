from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from smalti.cli.main import main
from smalti.errors import UsageError
from smalti_train.models.edge_autoencoder import EdgeAutoencoder, EdgeAutoencoderConfig
from smalti_train.models.hourglass_prior import HourglassPrior
from smalti_train.models.size_heads import SCALES, SizedAutoencoder
from smalti_train.presets.catalogue import AUTOENCODERS, PRIORS
from smalti_train.runs.bundle_weights import folded, initial_heads, initial_weights, unfolded
from smalti_train.runs.folder import RunFolder
from smalti_train.runs.loading import load_heads, load_prior
from smalti_train.runs.token_cache import load_autoencoder
from smalti_train.trainers.autoencoder import train_autoencoder

SMALL = EdgeAutoencoderConfig(codes=16, code_dim=4, channels=(8, 12), encoder_blocks=(1, 1), decoder_blocks=(1, 1))


def lively(config: EdgeAutoencoderConfig = SMALL) -> EdgeAutoencoder:
    """An autoencoder in eval mode whose norms are neither fresh nor zero."""
    torch.manual_seed(0)
    model = EdgeAutoencoder(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    with torch.no_grad():
        model.quantizer.codebook.mul_(torch.rand(config.codes, 1) + 0.5)
    return model.eval()


def images(config: EdgeAutoencoderConfig) -> Tensor:
    return torch.rand(2, 3, 4 * config.factor, 3 * config.factor, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def assert_same_function(found: EdgeAutoencoder, expected: EdgeAutoencoder, tolerance: float) -> None:
    inputs = images(expected.config)
    torch.testing.assert_close(found.encoder(inputs), expected.encoder(inputs), atol=tolerance, rtol=tolerance)
    ids = expected.encode(inputs)
    torch.testing.assert_close(found.decode(ids), expected.decode(ids), atol=tolerance, rtol=tolerance)


def test_folding_leaves_no_norms_and_the_same_function() -> None:
    model = lively()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    released, norms = folded(model)
    assert not [module for module in released.modules() if isinstance(module, nn.BatchNorm2d)]
    assert_same_function(released, model, 1e-5)
    torch.testing.assert_close(released.quantizer.codebook.norm(dim=1), torch.ones(SMALL.codes))
    kept = ("weight", "bias", "running_mean", "running_var")
    places = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms.keys() == {f"{place}.{name}" for place in places for name in kept}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_unfolding_gives_back_a_model_that_trains_on(half: bool) -> None:
    model = lively()
    released, norms = folded(model)
    stored = {name: value.half() if half else value.clone() for name, value in released.state_dict().items()}
    again = EdgeAutoencoder(SMALL)
    again.load_state_dict(unfolded({**stored, **{name: value.clone() for name, value in norms.items()}}), strict=True)
    assert_same_function(again.eval(), model, 2e-2 if half else 1e-4)
    # In training, too: the norms' own statistics came back, not only the function they amount to.
    with torch.no_grad():
        ours, theirs = again.train()(images(SMALL))[1], model.train()(images(SMALL))[1]
    torch.testing.assert_close(ours, theirs, atol=2e-2 if half else 1e-4, rtol=1e-2)


def test_a_channel_that_its_norm_silenced_stays_finite() -> None:
    model = lively()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.zeros_(norm.weight[1])
    released, kept = folded(model)
    again = EdgeAutoencoder(SMALL)
    again.load_state_dict(unfolded({**released.state_dict(), **kept}), strict=True)
    assert all(value.isfinite().all() for value in again.state_dict().values())
    assert_same_function(again.eval(), model, 1e-4)


def test_a_bundle_holds_the_autoencoder_it_was_made_from(tiny_runs: tuple[Path, Path], tiny_bundle: Path) -> None:
    model, config = load_autoencoder(tiny_runs[0])
    again = EdgeAutoencoder(config.model)
    again.load_state_dict(initial_weights(tiny_bundle, config), strict=True)
    assert_same_function(again.eval(), model, 2e-2)


@torch.no_grad()
def test_a_bundle_holds_the_heads_it_was_made_from(tiny_heads: Path, sized_bundle: Path, tiny_bundle: Path) -> None:
    model, config = load_heads(tiny_heads)
    again = SizedAutoencoder(config.model)
    again.load_state_dict(initial_heads(sized_bundle, config), strict=True)
    ids = torch.randint(64, (2, 4, 4), generator=torch.Generator().manual_seed(0))
    for scale in SCALES:
        expected = model.decode(ids, scale)
        assert (again.eval().decode(ids, scale) - expected).abs().mean() < 1e-2 * expected.std(), scale
    with pytest.raises(UsageError, match=r"tensors differ \(heads\..*: absent, not \("):
        initial_heads(tiny_bundle, config)
    wider = dataclasses.replace(config, model=dataclasses.replace(config.model, width=8))
    with pytest.raises(UsageError, match=r"do not fit these heads \(model\.width: 16, not 8\)"):
        initial_heads(tiny_heads, wider)


@torch.no_grad()
def test_a_bundle_holds_the_prior_it_was_made_from(tiny_runs: tuple[Path, Path], tiny_bundle: Path) -> None:
    model, config = load_prior(tiny_runs[1])
    again = HourglassPrior(config.model)
    again.load_state_dict(initial_weights(tiny_bundle, config), strict=True)
    tokens = torch.randint(65, (4, 16), generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 3, 7, 8])
    expected = model(tokens, labels)
    torch.testing.assert_close(again.eval()(tokens, labels), expected, atol=5e-3, rtol=0)
    assert expected.std() > 0.05


@pytest.mark.parametrize("source", ["run", "bundle"])
def test_a_new_run_starts_from_what_init_names(
    source: str, tiny_runs: tuple[Path, Path], tiny_bundle: Path, brief: Callable, tmp_path: Path
) -> None:
    config = brief(AUTOENCODERS["tiny"], steps=1)
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, lr=1e-7))
    start = initial_weights(tiny_runs[0] if source == "run" else tiny_bundle, config)
    train_autoencoder(config, tmp_path / "run", start)
    reached = load_file(tmp_path / "run/checkpoint-00000001/model.safetensors")
    for name in [name for name in start if "running" not in name and "tracked" not in name]:
        torch.testing.assert_close(reached[name], start[name], atol=1e-6, rtol=0)


def test_init_is_for_new_runs_and_does_not_turn_back_one_that_continues(
    tiny_runs: tuple[Path, Path], pictures: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ["--preset", "tiny", "--batch", "4", "--steps", "2", "--precision", "fp32", "--init", str(tiny_runs[0])]
    command = ["train", "autoencoder", "--run", str(run), "--data", "folder", "--root", str(pictures), *options]
    for _ in range(2):
        with pytest.raises(SystemExit) as caught:
            main(command)
        assert caught.value.code == 0
    (checkpoint,) = RunFolder(run).checkpoints()
    trained, started = load_file(checkpoint / "model.safetensors"), load_autoencoder(tiny_runs[0])[0].state_dict()
    assert 0 < (trained["quantizer.codebook"] - started["quantizer.codebook"]).abs().max() < 0.05


@pytest.mark.parametrize("kind", ["autoencoder", "prior"])
@pytest.mark.parametrize("source", ["run", "bundle"])
def test_weights_of_another_preset_are_refused_by_what_differs(
    kind: str, source: str, tiny_runs: tuple[Path, Path], tiny_bundle: Path
) -> None:
    config = (AUTOENCODERS if kind == "autoencoder" else PRIORS)["avatars-256"]
    named = tiny_bundle if source == "bundle" else tiny_runs[kind == "prior"]
    differs = r"model\.codes: 64, not 1024" if source == "run" else r"tensors differ \(.*: \(.*\), not \("
    with pytest.raises(UsageError, match=differs):
        initial_weights(named, config)


def test_weights_of_another_kind_are_refused(tiny_runs: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="is the run of an autoencoder; a prior's run is needed"):
        initial_weights(tiny_runs[0], PRIORS["tiny"])
    with pytest.raises(UsageError, match="is the run of a prior; an autoencoder's run is needed"):
        initial_weights(tiny_runs[1], AUTOENCODERS["tiny"])
