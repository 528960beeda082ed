from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from smalti.cli.main import main
from smalti.errors import UsageError
from smalti_train.data import ImageSet
from smalti_train.data.config import open_split
from smalti_train.data.pixels import to_images, to_pixels
from smalti_train.evaluation.subject import open_subject
from smalti_train.models.vqgan import VQGAN
from smalti_train.presets.catalogue import AUTOENCODERS, PRIORS
from smalti_train.runs.bundle_weights import initial_weights
from smalti_train.runs.config import VQGANRun
from smalti_train.runs.config_files import read_run
from smalti_train.runs.processes import whole_batch
from smalti_train.runs.token_cache import load_autoencoder
from smalti_train.trainers.prior import train_prior
from smalti_train.trainers.reconstruction import evaluate
from smalti_train.trainers.vqgan import train_vqgan


def scalars(run: Path, name: str) -> dict[int, float]:
    (events,) = (run / "logs/tensorboard").glob("events*")
    return {event.step: event.value for event in EventAccumulator(str(events)).Reload().Scalars(name)}


@pytest.fixture(scope="module")
def trained(small_vqgan: VQGANRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a VQGAN of 60 steps, judged from the twentieth on."""
    config = dataclasses.replace(
        small_vqgan,
        loop=dataclasses.replace(small_vqgan.loop, steps=60, evaluate_every=20),
        loss=dataclasses.replace(small_vqgan.loss, start=20),
    )
    path = tmp_path_factory.mktemp("vqgan") / "run"
    train_vqgan(config, path)
    return path


def test_reconstructions_improve_and_the_discriminator_comes_in_when_it_should(trained: Path) -> None:
    l1 = list(scalars(trained, "train/l1").values())
    assert sum(l1[-2:]) < 0.7 * sum(l1[:2])
    psnr = scalars(trained, "validation/psnr")
    assert list(psnr) == [20, 40, 60]
    assert psnr[60] > psnr[20] + 1
    for name in ("lambda", "adversarial", "discriminator"):
        assert list(scalars(trained, f"train/{name}")) == [30, 40, 50, 60]
    assert all(0 <= value <= 1 for value in scalars(trained, "train/lambda").values())
    assert 0 < scalars(trained, "validation/codes_used_percent")[60] <= 100
    assert 1 <= scalars(trained, "validation/code_perplexity")[60] <= 64
    assert list(scalars(trained, "lr").values()) == pytest.approx([5e-4] * 6)
    with Image.open(trained / "sheets/00000060.png") as picture:
        assert picture.width >= 8 * 32


def test_what_is_loaded_are_the_averages_and_their_range(trained: Path) -> None:
    model, config = load_autoencoder(trained)
    assert isinstance(model, VQGAN)
    assert isinstance(config, VQGANRun)
    assert not model.training
    averages = load_file(trained / "checkpoint-00000060/ema.safetensors")
    assert all(torch.equal(value, averages[name]) for name, value in model.state_dict().items())
    subject = open_subject(str(trained))
    pixels = np.asarray(open_split(config.data, "validation").images[:20])
    assert subject.kind == "autoencoder run"
    tokens = subject.encode(pixels)
    assert tokens.shape == (20, 2, 2)
    with torch.no_grad():
        images = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255  # [0, 1], unleashing's
        reconstructed = model.decode(model.encode(images))
    expected = (reconstructed.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    assert np.array_equal(subject.decode(tokens), expected)


def test_a_new_run_starts_from_another_ones_weights(trained: Path, small_vqgan: VQGANRun, tmp_path: Path) -> None:
    start = initial_weights(trained, small_vqgan)
    still = dataclasses.replace(small_vqgan.optimizer, lr=1e-9)
    config = dataclasses.replace(
        small_vqgan, optimizer=still, loop=dataclasses.replace(small_vqgan.loop, steps=1), ema_every=1
    )
    train_vqgan(config, tmp_path / "run", start)
    reached = load_file(tmp_path / "run/checkpoint-00000001/model.safetensors")
    for name, value in start.items():
        torch.testing.assert_close(reached[name], value, atol=1e-7, rtol=0)
    other = dataclasses.replace(small_vqgan, model=dataclasses.replace(small_vqgan.model, codes=32))
    with pytest.raises(UsageError, match=r"model\.codes: 64, not 32"):
        initial_weights(trained, other)
    with pytest.raises(UsageError, match="VQGANConfig, not EdgeAutoencoderConfig"):
        initial_weights(trained, AUTOENCODERS["tiny"])


def test_a_prior_learns_a_vqgans_tokens_and_is_drawn_in_its_range(
    trained: Path, brief: Callable, tmp_path: Path
) -> None:
    config = brief(PRIORS["tiny"], steps=2)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, size=32),
        model=dataclasses.replace(config.model, grid=(2, 2)),
    )
    train_prior(config, tmp_path / "run", trained)
    copy, _ = load_autoencoder(tmp_path / "run/autoencoder")
    model, run = load_autoencoder(trained)
    assert all(torch.equal(value, copy.state_dict()[name]) for name, value in model.state_dict().items())
    validation = open_split(run.data, "validation").images[:64]
    with torch.no_grad():
        expected = model.encode(to_images(validation, value_range=(0.0, 1.0)))
    assert np.array_equal(np.load(tmp_path / "run/tokens/validation.npy"), expected.numpy())
    subject = open_subject(str(tmp_path / "run"), steps=2)
    assert subject.draw is not None
    tokens = subject.draw([0, 1, 2], [None, *subject.classes[:2]])
    with torch.no_grad():
        drawn = to_pixels(model.decode(torch.from_numpy(tokens).long()), (0.0, 1.0))
    assert np.array_equal(subject.decode(tokens), drawn)


def test_evaluation_counts_codes_and_decibels_in_the_models_range() -> None:
    class Level(torch.nn.Module):
        """Knows one code per grey, and reconstructs all a level too dark."""

        config = type("Config", (), {"codes": 8, "factor": 1, "value_range": (0.0, 1.0)})

        def encode(self, images: torch.Tensor) -> torch.Tensor:
            return (images[:, 0, :1, :1] * 255 / 10).round().long()

        def decode(self, ids: torch.Tensor) -> torch.Tensor:
            return ((ids * 10 - 1) / 255)[:, None].expand(-1, 3, 4, 4)

    greys = np.repeat(np.array([10, 20, 20, 40], np.uint8), 48).reshape(4, 4, 4, 3)
    # As if mapped from a file, and as if a VQGAN.
    images, model = cast("np.memmap", greys), cast("VQGAN", Level())
    data = ImageSet(images, np.array([0, 0, 1, 1]), ("low", "high"), (), "greys", "validation", 4)
    figures = evaluate(model, data, Accelerator(cpu=True), batch=3)
    assert figures["psnr"] == pytest.approx(20 * np.log10(255), abs=1e-3)
    assert figures["psnr/low"] == pytest.approx(figures["psnr/high"])
    assert figures["codes_used_percent"] == pytest.approx(300 / 8)
    assert figures["code_perplexity"] == pytest.approx(2**1.5)


def test_mirrored_or_not_the_average_image_is_seen(small_vqgan: VQGANRun, tmp_path: Path) -> None:
    """Flips change what is seen, and only where they are wanted."""
    losses: dict[bool, float] = {}
    for flip in (False, True):
        config = dataclasses.replace(small_vqgan, flip=flip, loop=dataclasses.replace(small_vqgan.loop, steps=1))
        train_vqgan(config, tmp_path / str(flip))
        losses[flip] = scalars(tmp_path / str(flip), "train/l1")[1]
    assert losses[False] != losses[True]
    assert losses[False] == pytest.approx(losses[True], rel=0.05)


def test_one_process_needs_no_gathering() -> None:
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    assert whole_batch(Accelerator(cpu=True), images) is images


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": {"size": 40}}, "image size 40 is not a multiple of 16"),
        ({"discriminator": {"layers": 4}}, "judges images from 48 pixels"),
        ({"loop": {"compile": True}}, "leave --compile out"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_folder_is_claimed(
    change: dict[str, dict[str, object]], words: str, small_vqgan: VQGANRun, tmp_path: Path
) -> None:
    parts = {name: dataclasses.replace(getattr(small_vqgan, name), **fields) for name, fields in change.items()}
    with pytest.raises(UsageError, match=words):
        train_vqgan(dataclasses.replace(small_vqgan, **parts), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_perceptual_file_that_is_none_is_named(small_vqgan: VQGANRun, tmp_path: Path) -> None:
    file = tmp_path / "vgg16.pth"
    file.write_bytes(b"no weights")
    loss = dataclasses.replace(small_vqgan.loss, perceptual=1.0)
    with pytest.raises(UsageError, match=r"vgg16\.pth"):
        train_vqgan(dataclasses.replace(small_vqgan, loss=loss, perceptual=str(file)), tmp_path / "run")
    assert not (tmp_path / "run/config.json").exists()


def test_the_perceptual_term_is_part_of_the_loss(small_vqgan: VQGANRun, tmp_path: Path) -> None:
    loss = dataclasses.replace(small_vqgan.loss, perceptual=0.5)
    config = dataclasses.replace(small_vqgan, loss=loss, loop=dataclasses.replace(small_vqgan.loop, steps=1))
    train_vqgan(config, tmp_path / "run")
    terms = {name: scalars(tmp_path / "run", f"train/{name}")[1] for name in ("loss", "l1", "perceptual", "quantizer")}
    assert terms["loss"] == pytest.approx(terms["l1"] + 0.5 * terms["perceptual"] + terms["quantizer"], rel=1e-5)
    assert terms["perceptual"] > 0.1


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["train", "autoencoder", *map(str, arguments)])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_the_command_trains_what_the_preset_says(pictures: Path, tmp_path: Path) -> None:
    options = ["--preset", "tiny-vqgan", "--steps", 1, "--batch", 2, "--precision", "fp32"]
    assert command("--run", tmp_path / "run", "--data", "folder", "--root", pictures, *options) == 0
    config = read_run(tmp_path / "run/config.json")
    assert isinstance(config, VQGANRun)
    assert config.data.root == str(pictures)
    assert isinstance(load_autoencoder(tmp_path / "run")[0], VQGAN)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--preset", "tiny-vqgan", "--decoder-only"],
            "needs a trained autoencoder: name its run or bundle with --init",
        ),
        (["--preset", "tiny-vqgan", "--perceptual-heads", "vgg.pth"], "name its file with --perceptual too"),
        (["--preset", "tiny-vqgan", "--perceptual", "nowhere.pth"], "nowhere.pth"),
        (["--preset", "tiny", "--perceptual", "effnet-lite0"], "tiny is no VQGAN"),
        (["--preset", "unleashing-ffhq256"], "needs root"),
    ],
    ids=["decoder-only", "heads-alone", "no-file", "no-vqgan", "no-folder"],
)
def test_options_that_do_not_belong_to_the_preset_are_refused(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--run", tmp_path / "run", "--precision", "fp32", *options) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run/config.json").exists()
