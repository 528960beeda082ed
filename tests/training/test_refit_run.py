"""``smalti train refit``: a run with a rebuilt codebook, whose decoder then trains while its tokens stay."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from smalti.cli.main import _run
from smalti.errors import UsageError
from smalti_train.data.config import DataConfig, open_split
from smalti_train.data.pixels import to_images
from smalti_train.models.discriminator import Discriminator
from smalti_train.models.edge_autoencoder import EdgeAutoencoder
from smalti_train.models.vqgan import VQGAN
from smalti_train.presets.catalogue import AUTOENCODERS, PRIORS
from smalti_train.runs.config import AutoencoderRun, Imported, PixelRun, VQGANRun
from smalti_train.runs.config_files import read_run, to_json
from smalti_train.runs.folder import RunFolder
from smalti_train.runs.loading import Autoencoder, load_autoencoder
from smalti_train.trainers.refit import refit_run
from smalti_train.trainers.vqgan import train_vqgan


def command(*arguments: object) -> int:
    return _run(["train", *map(str, arguments)])


def of(pictures: Path, config: VQGANRun | AutoencoderRun) -> VQGANRun | AutoencoderRun:
    """The same on pictures of 32 pixels, two steps long."""
    loop = dataclasses.replace(config.loop, steps=2, batch=4, precision="fp32")
    return dataclasses.replace(config, data=DataConfig(name="folder", size=32, root=str(pictures)), loop=loop)


@pytest.fixture(scope="module")
def vqgan(small_vqgan: VQGANRun, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a VQGAN that was not trained, with a discriminator."""
    folder = RunFolder(tmp_path_factory.mktemp("refit") / "vqgan")
    config = of(pictures, small_vqgan)
    assert isinstance(config, VQGANRun)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, z_channels=6))
    torch.manual_seed(1)
    weights, judge = VQGAN(config.model).state_dict(), Discriminator(config.discriminator).state_dict()
    folder.open(config)
    folder.save(7, {"model": weights, "ema": weights, "discriminator": judge}, {})
    folder.keep_config(config)
    folder.close()
    return folder.path


@pytest.fixture(scope="module")
def edge(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an edge autoencoder that was not trained."""
    folder = RunFolder(tmp_path_factory.mktemp("refit") / "edge")
    config = of(pictures, AUTOENCODERS["tiny"])  # pyright: ignore[reportArgumentType]
    assert isinstance(config, AutoencoderRun)
    torch.manual_seed(1)
    folder.open(config)
    folder.save(7, {"model": EdgeAutoencoder(config.model).state_dict()}, {})
    folder.keep_config(config)
    folder.close()
    return folder.path


def used(model: Autoencoder, data: DataConfig) -> float:
    """Share of the codes that training images use."""
    with torch.no_grad():
        images = to_images(open_split(data, "train").images, value_range=model.config.value_range)
        return len(model.encode(images).unique()) / model.config.codes


@pytest.mark.parametrize("kind", ["vqgan", "edge"])
@pytest.mark.parametrize("codes", [None, 10])
def test_the_new_run_has_another_codebook_and_the_same_networks(
    kind: str, codes: int | None, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run = request.getfixturevalue(kind)
    before, after = refit_run(run, tmp_path / "new", codes=codes, pool=600, steps=5, lr=1e-4)
    assert before.keys() == after.keys()
    assert after["codes_used_percent"] >= before["codes_used_percent"]  # of one unseen picture's four tokens
    model, config = load_autoencoder(tmp_path / "new")
    old, was = load_autoencoder(run)
    assert model.config == dataclasses.replace(old.config, codes=codes or 64)
    assert used(model, config.data) > 2 * used(old, config.data)
    changed = {
        name
        for name, value in model.state_dict().items()
        if value.shape != old.state_dict()[name].shape or not torch.equal(value, old.state_dict()[name])
    }
    assert changed == {"quantize.embedding.weight" if kind == "vqgan" else "quantizer.codebook"}
    assert isinstance(config, VQGANRun | AutoencoderRun)
    assert isinstance(was, VQGANRun | AutoencoderRun)
    assert (config.decoder_only, config.loop.steps, config.optimizer.lr) == (True, 5, 1e-4)
    assert dataclasses.replace(config.loop, steps=was.loop.steps) == was.loop
    if kind == "vqgan":
        judge = load_file(tmp_path / "new/checkpoint-00000000/discriminator.safetensors")
        given = load_file(run / "checkpoint-00000007/discriminator.safetensors")
        assert all(torch.equal(judge[name], given[name]) for name in given)
        assert isinstance(config, VQGANRun)
        assert config.loss.start == 0


@pytest.mark.parametrize("kind", ["vqgan", "edge"])
def test_the_command_and_then_the_decoder_trains_alone(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    run, new = request.getfixturevalue(kind), tmp_path / "new"
    assert command("refit", run, "--codes", 12, "--pool", 300, "--seed", 3, "-o", new) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "before: " in said
    assert "% of the codes used, PSNR" in said
    assert f"smalti train autoencoder --run {new}" in said
    config = read_run(new / "config.json")
    assert isinstance(config, VQGANRun | AutoencoderRun)
    own = read_run(run / "config.json")
    assert isinstance(own, VQGANRun | AutoencoderRun)
    assert config.optimizer.lr == pytest.approx(0.1 * own.optimizer.lr)
    assert command("autoencoder", "--run", new) == 0, capsys.readouterr().err
    start, end = (load_file(new / f"checkpoint-0000000{step}/model.safetensors") for step in (0, 2))
    moved = {name.split(".")[0] for name, value in end.items() if not torch.equal(value, start[name])}
    assert moved == ({"decoder", "post_quant_conv"} if kind == "vqgan" else {"decoder"})
    if kind == "vqgan":
        judges = (load_file(new / f"checkpoint-0000000{step}/discriminator.safetensors") for step in (0, 2))
        before, after = judges
        assert any(not torch.equal(value, before[name]) for name, value in after.items())


def test_an_imported_run_gets_a_discriminator(vqgan: Path, tmp_path: Path) -> None:
    config = read_run(vqgan / "config.json")
    assert isinstance(config, VQGANRun)
    origin = Imported("taming-vqgan", "some.ckpt", "0" * 64, "MIT")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_bytes(to_json(dataclasses.replace(config, imported=origin)))
    RunFolder(tmp_path / "run").save(0, {"model": load_autoencoder(vqgan)[0].state_dict()}, {})
    refit_run(tmp_path / "run", tmp_path / "new", pool=300, codes=8)
    parts, _ = RunFolder(tmp_path / "new").latest() or ({}, {})
    assert parts["discriminator"].keys() == Discriminator(config.discriminator).state_dict().keys()
    assert read_run(tmp_path / "new/config.json").imported == origin  # pyright: ignore[reportAttributeAccessIssue]


def test_what_cannot_be_refitted_is_said(
    vqgan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], small_vqgan: VQGANRun
) -> None:
    new = tmp_path / "new"
    gumbel = dataclasses.replace(small_vqgan, model=dataclasses.replace(small_vqgan.model, quantizer="gumbel"))
    for name, config in (("pixels", PixelRun("some")), ("gumbel", gumbel), ("prior", PRIORS["tiny"])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes(to_json(config))
    RunFolder(tmp_path / "gumbel").save(0, {"model": VQGAN(gumbel.model).state_dict()}, {})
    cases: list[tuple[tuple[object, ...], str]] = [
        ((vqgan, "--codes", 0), "codes 0: at least 1 is needed"),
        ((vqgan, "--pool", 0), "pool 0: at least 1 is needed"),
        ((vqgan, "--lr", 2), "lr 2.0: must lie between 0 and 1"),
        ((vqgan, "--codes", 50, "--pool", 40), "50"),
        ((tmp_path / "pixels",), "pixels as tokens have no codebook"),
        ((tmp_path / "gumbel",), "a Gumbel quantiser picks codes by logits"),
        ((tmp_path / "prior",), "is the run of a prior"),
        ((tmp_path / "none",), "is not a run"),
    ]
    for options, words in cases:
        assert command("refit", *options, "-o", new) == 2
        assert words in capsys.readouterr().err
        assert not new.exists()
    assert command("refit", vqgan, "-o", tmp_path / "pixels") == 2
    assert "exists; name a folder that does not exist yet" in capsys.readouterr().err


def test_runs_that_cannot_go_on_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], small_vqgan: VQGANRun
) -> None:
    origin = Imported("taming-vqgan", "some.ckpt", "0" * 64, "MIT")
    cases = {
        "head": (dataclasses.replace(small_vqgan, pixel_bits=5), "continue it with 'smalti train log-sigma'"),
        "imported": (dataclasses.replace(small_vqgan, imported=origin), "was imported, and has no training"),
        "prior": (PRIORS["tiny"], "continue it with 'smalti train prior'"),
    }
    for name, (config, words) in cases.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes(to_json(config))
        assert command("autoencoder", "--run", tmp_path / name) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(UsageError, match="name its run or bundle with --init"):
        train_vqgan(dataclasses.replace(small_vqgan, decoder_only=True), tmp_path / "new")


def test_a_decoder_trains_alone_from_another_runs_weights(vqgan: Path, tmp_path: Path) -> None:
    config = read_run(vqgan / "config.json")
    assert isinstance(config, VQGANRun)
    weights = load_autoencoder(vqgan)[0].state_dict()
    train_vqgan(dataclasses.replace(config, decoder_only=True), tmp_path / "run", weights)
    after = load_file(tmp_path / "run/checkpoint-00000002/model.safetensors")
    moved = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, weights[name])}
    assert moved == {"decoder", "post_quant_conv"}
