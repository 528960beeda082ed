from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from smalti.cli.main import main
from smalti.errors import UsageError
from smalti_train.data.config import open_split
from smalti_train.models.vqgan import VQGAN
from smalti_train.objectives.vqgan_likelihood import bits_per_dimension
from smalti_train.runs.config import VQGANRun
from smalti_train.runs.config_files import read_run
from smalti_train.runs.loading import load_autoencoder
from smalti_train.trainers.log_sigma import head_run, image_bits, pixel_nats, train_log_sigma
from smalti_train.trainers.vqgan import train_vqgan

HEAD = "decoder.logsigma."


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["train", "log-sigma", *map(str, arguments)])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def vqgan(small_vqgan: VQGANRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a VQGAN without a head."""
    path = tmp_path_factory.mktemp("log-sigma") / "vqgan"
    train_vqgan(dataclasses.replace(small_vqgan, loop=dataclasses.replace(small_vqgan.loop, steps=4)), path)
    return path


@pytest.fixture(scope="module")
def head(vqgan: Path) -> Path:
    """A head trained for ten steps by the command."""
    path = vqgan.parent / "head"
    assert (
        command("--run", path, "--autoencoder", vqgan, "--steps", 10, "--batch", 4, "--lr", 0.02, "--precision", "fp32")
        == 0
    )
    return path


def test_the_head_learns_and_nothing_else_changes(vqgan: Path, head: Path) -> None:
    before, _ = load_autoencoder(vqgan)
    after, config = load_autoencoder(head)
    assert isinstance(after, VQGAN)
    assert isinstance(config, VQGANRun)
    assert config.pixel_bits == 5
    assert {name.startswith(HEAD) for name in after.state_dict().keys() - before.state_dict().keys()} == {True}
    for name, value in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], value), name
    torch.manual_seed(config.loop.seed)
    fresh = VQGAN(config.model).eval()
    fresh.load_state_dict(before.state_dict(), strict=False)
    unseen = open_split(config.data, "validation")
    learnt, started = (pixel_nats(model, unseen, 5, 32) for model in (after, fresh))
    assert learnt.shape == (32,)
    assert learnt.mean() < 0.95 * started.mean()
    assert torch.equal(learnt, pixel_nats(after, unseen, 5, 32))


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(vqgan: Path, tmp_path: Path) -> None:
    _, trained = load_autoencoder(vqgan)
    assert isinstance(trained, VQGANRun)
    config = head_run(trained)
    loop = dataclasses.replace(config.loop, steps=6, batch=4, precision="fp32", checkpoint_every=3)
    config = dataclasses.replace(config, loop=loop)
    train_log_sigma(config, tmp_path / "run", vqgan)
    whole = load_file(tmp_path / "run/checkpoint-00000006/model.safetensors")
    shutil.rmtree(tmp_path / "run/checkpoint-00000006")
    train_log_sigma(config, tmp_path / "run", vqgan)
    again = load_file(tmp_path / "run/checkpoint-00000006/model.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert read_run(tmp_path / "run/config.json") == config


def test_what_has_no_such_head_is_refused(
    vqgan: Path, tiny_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--run", tmp_path, "--autoencoder", tiny_runs[0]) == 2
    assert "is no VQGAN" in capsys.readouterr().err
    assert command("--run", tmp_path, "--autoencoder", vqgan, "--bits", 9) == 2
    assert "1 .. 8 are allowed" in capsys.readouterr().err
    _, trained = load_autoencoder(vqgan)
    assert isinstance(trained, VQGANRun)
    with pytest.raises(UsageError, match="trains no probabilistic head"):
        train_log_sigma(trained, tmp_path / "run", vqgan)
    other = head_run(dataclasses.replace(trained, model=dataclasses.replace(trained.model, codes=32)))
    other = dataclasses.replace(other, loop=dataclasses.replace(other.loop, precision="fp32"))
    with pytest.raises(UsageError, match="other sizes"):
        train_log_sigma(other, tmp_path / "run", vqgan)


def test_bits_of_images_are_those_of_the_bound() -> None:
    pixel, prior = torch.tensor([1000.0]), torch.tensor([2 * 16 * 0.6931471805599453])
    expected = bits_per_dimension(pixel, prior, 300, 5, (-1.0, 1.0)).item()
    assert image_bits(1000.0, 2.0, 16, 300, 5, 2.0) == pytest.approx(expected, rel=1e-6)
