"""A SUNDAE prior trains, goes on, is measured and drawn from like any other, on an autoencoder's tokens and pixels."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers.torch_draws import draw_sundae
from smalti.cli.main import _run
from smalti.errors import UsageError
from smalti_train.data.config import DataConfig, open_split
from smalti_train.evaluation.features import FeatureNetwork
from smalti_train.evaluation.report import evaluate, text
from smalti_train.evaluation.subject import data_of, open_subject
from smalti_train.models.pixels import PixelCodes
from smalti_train.models.sundae_transformer import SundaeTransformer
from smalti_train.presets.catalogue import PRIORS
from smalti_train.runs.bundle_weights import initial_weights
from smalti_train.runs.config import PixelRun, PriorRun
from smalti_train.runs.config_files import to_json
from smalti_train.runs.loading import load_autoencoder, load_prior
from smalti_train.runs.torch_sampling import torch_denoiser
from smalti_train.trainers.prior import train_prior


def scalars(run: Path, name: str) -> list[float]:
    (events,) = (run / "logs/tensorboard").glob("events*")
    return [event.value for event in EventAccumulator(str(events)).Reload().Scalars(name)]


@pytest.fixture(scope="module")
def trained(brief: Callable, tiny_runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "sundae"
    config = dataclasses.replace(brief(PRIORS["tiny-sundae"], steps=30, evaluate_every=15), unrolls=3)
    train_prior(config, path, tiny_runs[0])
    return path


def test_unseen_tokens_become_likelier_and_a_sheet_is_drawn(trained: Path) -> None:
    first, second = scalars(trained, "validation/unrolled_bits_per_token")
    assert 6.1 > first > second + 0.1  # of 6 bits that 64 equally likely codes have
    loss = scalars(trained, "train/loss")
    assert loss[-1] < loss[0]
    with Image.open(trained / "sheets/00000030.png") as picture:
        assert picture.width >= 8 * 64
        assert np.asarray(picture).std() > 5


def test_it_is_loaded_as_what_it_is_with_its_averages(trained: Path) -> None:
    model, config = load_prior(trained)
    assert isinstance(model, SundaeTransformer)
    assert (config.objective, config.unrolls) == ("sundae", 3)
    assert not model.training
    averages = load_file(trained / "checkpoint-00000030/ema.safetensors")
    assert all(torch.equal(value, averages[name]) for name, value in model.state_dict().items())
    assert initial_weights(trained, config).keys() == averages.keys()
    with pytest.raises(UsageError, match="do not fit this preset"):
        initial_weights(trained, PRIORS["tiny-transformer"])


def test_it_goes_on_where_it_stopped(
    trained: Path, brief: Callable, tiny_runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smalti_train.trainers import trainer as module

    _, config = load_prior(trained)
    rate, run = module.learning_rate, tmp_path / "run"

    def stopped(now: int, *rest: object) -> float:
        if now == 12:
            raise KeyboardInterrupt
        return rate(now, *rest)

    monkeypatch.setattr(module, "learning_rate", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_prior(config, run, tiny_runs[0])
    monkeypatch.undo()
    train_prior(config, run)
    for part in ("model", "ema", "optimizer"):
        found, expected = (load_file(path / f"checkpoint-00000030/{part}.safetensors") for path in (run, trained))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found), part


def test_its_samples_are_the_runtimes_own(trained: Path) -> None:
    model, _ = load_prior(trained)
    assert isinstance(model, SundaeTransformer)
    subject = open_subject(str(trained), steps=24, final_temperature=0.9, proportion=(0.8, 0.3), min_steps=2)
    assert subject.settings.items() >= {"steps": 24, "proportion": (0.8, 0.3), "min_steps": 2}.items()
    assert subject.bits is None, "there is no likelihood, and no bound on it"
    assert subject.draw is not None
    names = [*subject.classes[:2], None]
    tokens = subject.draw([3, 4, 5], names)
    drawn = draw_sundae(
        torch_denoiser(model),
        model.config,
        [3, 4, 5],
        [0, 1, 8],
        steps=24,
        temperature=(1.0, 0.9),
        proportion=(0.8, 0.3),
        min_steps=2,
    )
    assert np.array_equal(tokens, drawn)
    assert tokens.shape == (3, 4, 4)
    assert len(np.unique(tokens)) > 3
    assert np.array_equal(subject.draw([4], names[1:2])[0], tokens[1])
    assert subject.decode(tokens).shape == (3, 64, 64, 3)
    with pytest.raises(UsageError, match=r"order: .* knows no such choice"):
        open_subject(str(trained), order="halton")
    with pytest.raises(UsageError, match="give it a grid"):
        draw_sundae(torch_denoiser(model), dataclasses.replace(model.config, grid=None), [0], [0])


class Thumbnails:
    """Features that need no network: the pixels of images of 8 pixels a side."""

    def run(self, _: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        images = feed["images"].astype(np.float32)
        return [images.reshape(len(images), -1) / 255]


def test_it_is_measured_without_a_likelihood(trained: Path) -> None:
    subject = open_subject(str(trained), steps=20)
    network = FeatureNetwork("thumbnails", "thumbnails", 8, Thumbnails())
    test, train = data_of("avatars", 64, 96, None), data_of("avatars", 64, 64, None, "train")
    figures, sheets = evaluate(subject, network, test, train, per_label=6)
    assert "likelihood" not in figures
    assert figures["samples"]["images"] == 48
    assert set(sheets) == {"reconstructions", "samples", "neighbours"}
    said = text(figures)
    assert "48 samples at temperature 1.0" in said
    assert "steps 20" in said
    assert "final_temperature 0.7" in said
    assert "likelihood" not in said


@pytest.fixture(scope="module")
def pixelwise(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a prior's run on 16x16 grey pixels, mirrored ones too, by the commands that users give."""
    folder = tmp_path_factory.mktemp("pixelwise")
    data = DataConfig(name="folder", size=16, root=str(pictures))
    (folder / "pixels").mkdir()
    (folder / "pixels/config.json").write_bytes(to_json(PixelRun("some", data=data)))
    tiny = PRIORS["tiny-sundae"]
    model = dataclasses.replace(tiny.model, codes=256, grid=(16, 16), classes=2, depth=(1, (0, 1, 0), 1))
    loop = dataclasses.replace(tiny.loop, steps=3, batch=4, precision="fp32")
    config = dataclasses.replace(tiny, model=model, data=data, loop=loop, flip=True)
    train_prior(config, folder / "prior", folder / "pixels")
    return folder / "prior"


def test_pixels_are_learnt_mirrored_too_where_that_is_asked(pixelwise: Path, pictures: Path) -> None:
    _, config = load_prior(pixelwise)
    assert isinstance(config, PriorRun)
    tokens = np.load(pixelwise / "tokens/train.npy")
    images = open_split(config.data, "train")
    assert tokens.shape == (2 * len(images), 16, 16)
    assert np.array_equal(tokens[len(images) :], tokens[: len(images), :, ::-1])
    assert 2 < len(np.unique(tokens)) <= 256
    grey = np.asarray(Image.fromarray(images.images[0]).convert("L")).astype(int)
    assert np.abs(tokens[0] - grey).max() <= 1
    assert len(np.load(pixelwise / "tokens/validation.npy")) == len(open_split(config.data, "validation"))


def test_a_pixelwise_run_keeps_its_pixels_and_goes_on_without_them_being_named(pixelwise: Path) -> None:
    codec, run = load_autoencoder(pixelwise / "autoencoder")
    assert isinstance(codec, PixelCodes)
    assert isinstance(run, PixelRun)
    _, config = load_prior(pixelwise)
    train_prior(config, pixelwise)  # nothing is left to do
    with Image.open(pixelwise / "sheets/00000003.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert (np.ptp(pixels, axis=2) == 0).all()
    subject = open_subject(str(pixelwise))
    assert subject.draw is not None
    drawn = subject.decode(subject.draw([1], [subject.classes[0]]))
    assert drawn.shape == (1, 16, 16, 3)


def test_unrolls_are_an_option(
    tiny_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "prior", "--autoencoder", str(tiny_runs[0]), "--precision", "fp32", "--steps", "1"]
    run = ["--run", str(tmp_path / "run")]
    assert _run([*command, *run, "--preset", "tiny", "--unrolls", "3"]) == 2
    assert "only objective sundae unrolls; leave --unrolls out" in capsys.readouterr().err
    assert _run([*command, *run, "--preset", "tiny", "--objective", "sundae"]) == 2
    assert "not for a prior of kind 'hourglass'" in capsys.readouterr().err
    sized = ["--preset", "tiny-sundae", "--unrolls", "3", "--batch", "4"]
    options = json.loads(to_json(dataclasses.replace(PRIORS["tiny-sundae"], unrolls=3)))
    assert options["unrolls"] == 3
    assert _run([*command, *run, *sized, "--objective", "mlm"]) == 2
    assert "allowed is sundae alone" in capsys.readouterr().err
    assert not (tmp_path / "run/config.json").exists()
