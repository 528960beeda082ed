"""Every published prior trains, is measured, drawn from and loaded as the hourglass is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from smalti.cli.main import main
from smalti.errors import UsageError
from smalti_train.data.config import open_split
from smalti_train.evaluation.subject import open_subject
from smalti_train.models.absorbing_transformer import AbsorbingTransformer
from smalti_train.models.autoregressive_transformer import (
    AutoregressiveTransformer,
    Net2NetTransformer,
    Net2NetTransformerConfig,
)
from smalti_train.objectives.prior_batches import check_fit, check_labels, losses, prior_batch
from smalti_train.objectives.time_sampling import ImportanceTimes
from smalti_train.presets.catalogue import PRIORS
from smalti_train.runs.bundle_weights import initial_weights
from smalti_train.runs.config import PriorRun
from smalti_train.runs.config_files import read_run
from smalti_train.runs.loading import build_prior, load_prior
from smalti_train.trainers.prior import train_prior

MODELS = {
    "tiny-transformer": AbsorbingTransformer,
    "tiny-autoregressive": AutoregressiveTransformer,
    "tiny-net2net": Net2NetTransformer,
}
AUTOREGRESSIVE = ("tiny-autoregressive", "tiny-net2net")


def scalars(run: Path, name: str) -> list[float]:
    (events,) = (run / "logs/tensorboard").glob("events*")
    return [event.value for event in EventAccumulator(str(events)).Reload().Scalars(name)]


@pytest.fixture(scope="module", params=MODELS)
def trained(
    request: pytest.FixtureRequest,
    brief: Callable,
    tiny_runs: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("trained") / request.param
    train_prior(brief(PRIORS[request.param], steps=40, evaluate_every=20), path, tiny_runs[0])
    return path


def test_unseen_tokens_become_likelier_and_a_sheet_is_drawn(trained: Path) -> None:
    first, second = scalars(trained, "validation/bits_per_dim")
    assert 6.1 > first > second + 0.1  # of 6 bits that 64 equally likely codes have
    loss = scalars(trained, "train/loss")
    assert loss[-1] < loss[0]
    with Image.open(trained / "sheets/00000040.png") as picture:
        assert picture.width >= 8 * 64
        assert np.asarray(picture).std() > 5


def test_it_is_loaded_as_what_it_is_with_its_averages(trained: Path) -> None:
    model, config = load_prior(trained)
    assert type(model) is MODELS[trained.name]
    assert config.preset == trained.name
    assert not model.training
    averages = load_file(trained / "checkpoint-00000040/ema.safetensors")
    assert all(torch.equal(value, averages[name]) for name, value in model.state_dict().items())
    assert initial_weights(trained, config).keys() == averages.keys()
    with pytest.raises(UsageError, match="do not fit this preset"):
        initial_weights(trained, PRIORS["tiny"])


def test_a_runs_samples_and_likelihood_are_those_of_its_prior(trained: Path) -> None:
    subject = open_subject(str(trained))
    model, config = load_prior(trained)
    assert subject.draw is not None
    assert subject.bits is not None
    names = subject.classes
    assert len(names) == 8
    tokens = subject.draw([3, 4, 5, 6], [names[0], names[1], None, names[0]])
    assert tokens.shape == (4, 4, 4)
    assert tokens.min() >= 0
    assert tokens.max() < 64
    assert np.array_equal(subject.draw([5], [None])[0], tokens[2])
    assert subject.decode(tokens).shape == (4, 64, 64, 3)

    unseen = open_split(config.data, "validation")
    grids = np.load(trained / "tokens/validation.npy").reshape(64, -1).astype(np.int32)
    bits = subject.bits(grids, unseen.labels)
    assert bits == pytest.approx(scalars(trained, "validation/bits_per_dim")[-1], abs=0.15)
    if trained.name in AUTOREGRESSIVE:
        with torch.no_grad():
            ids, labels = torch.from_numpy(grids).long(), torch.tensor(unseen.labels).long()
            chances = model(ids[:, :-1], labels).double().log_softmax(-1).gather(2, ids[..., None])
        assert bits == pytest.approx(-chances.mean().item() / math.log(2), abs=1e-4)


@pytest.mark.parametrize("option", [{"steps": 4}, {"order": "halton"}, {"schedule": "cosine"}])
def test_what_only_absorbing_priors_know_is_refused_elsewhere(trained: Path, option: dict[str, Any]) -> None:
    if trained.name not in AUTOREGRESSIVE:
        assert open_subject(str(trained), **option).settings.items() >= option.items()
        return
    with pytest.raises(UsageError, match=f"{next(iter(option))}: .* one token after the other .* knows no such choice"):
        open_subject(str(trained), **option)


def batch(config: PriorRun, count: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(64, (count, 16), generator=generator)
    return tokens, torch.arange(count) % 8, generator


@pytest.mark.parametrize("masking", ["random", "fixed"])
def test_a_batch_masks_as_it_is_told(masking: str) -> None:
    config = dataclasses.replace(PRIORS["tiny-transformer"], masking=masking, label_dropout=0.25)
    tokens, labels, noise = batch(config, 4000)
    shown = prior_batch(config, tokens, labels, noise)
    masked = shown.shown == 64
    assert torch.equal(shown.shown[~masked], tokens[~masked])
    counts = masked.sum(1)
    assert (counts >= 1).all()
    assert torch.equal(counts, shown.times) == (masking == "fixed")
    assert (counts - shown.times).float().mean().abs() < 0.1
    assert (shown.labels == 8).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(shown.labels[shown.labels < 8], labels[shown.labels < 8])
    assert (shown.weights == 1).all()


def test_times_by_importance_come_with_their_weights() -> None:
    config = dataclasses.replace(PRIORS["tiny-transformer"], times="importance")
    history = ImportanceTimes(16)
    for _ in range(11):
        history.update(torch.arange(1, 17), torch.arange(1, 17).float())
    tokens, labels, noise = batch(config, 4000)
    shown = prior_batch(config, tokens, labels, noise, history)
    chances = history.chances()
    assert torch.allclose(shown.weights, 1 / (16 * chances[shown.times - 1]))
    assert shown.times.float().mean() > 10  # later times have the greater losses
    assert shown.weights.mean().item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("preset", AUTOREGRESSIVE)
def test_an_autoregressive_batch_is_the_truth_but_for_the_last_token(preset: str) -> None:
    config = dataclasses.replace(PRIORS[preset], label_dropout=0.0)
    tokens, labels, noise = batch(config)
    shown = prior_batch(config, tokens, labels, noise)
    assert torch.equal(shown.shown, tokens[:, :-1])
    assert torch.equal(shown.labels, labels)
    model = build_prior(config.model).eval()
    with torch.no_grad():
        logits = model(shown.shown, shown.labels)
    expected = -logits.log_softmax(-1).gather(2, tokens[..., None])[..., 0].mean(1)
    torch.testing.assert_close(losses(config, logits, shown), expected)


def test_without_classes_no_label_is_told() -> None:
    config = PRIORS["tiny-net2net"]
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, classes=0))
    shown = prior_batch(config, *batch(config))
    assert (shown.labels == 0).all()


def net2net(**changes: object) -> Net2NetTransformerConfig:
    model = PRIORS["tiny-net2net"].model
    assert isinstance(model, Net2NetTransformerConfig)
    return dataclasses.replace(model, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grid": None}, "64 codes on an unknown number of tokens"),
        ({"grid": (4, 2)}, "on 4x2 tokens"),
        ({"vocabulary": 32}, "predicts 32 codes"),
        ({"positions": 15}, "15 positions are too few"),
    ],
)
def test_a_prior_that_does_not_fit_its_tokens_is_refused(changes: dict[str, object], words: str) -> None:
    check_fit(net2net(), 64, 4)
    with pytest.raises(UsageError, match=words):
        check_fit(net2net(**changes), 64, 4)


def test_labels_that_do_not_fit_are_refused() -> None:
    check_labels(net2net(), 8)
    check_labels(net2net(classes=0), 8)
    check_labels(net2net(classes=63), 63)
    with pytest.raises(UsageError, match="8 classes and the data 7"):
        check_labels(net2net(), 7)
    with pytest.raises(UsageError, match="read as tokens; there are only 64"):
        check_labels(net2net(classes=64), 64)
    with pytest.raises(UsageError, match="more than the 32767"):
        check_fit(net2net(vocabulary=40_000), 40_000, 4)


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["train", "prior", *map(str, arguments)])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_the_command_takes_masking_and_times(tiny_runs: tuple[Path, Path], pictures: Path, tmp_path: Path) -> None:
    options = ["--preset", "tiny-transformer", "--objective", "mlm", "--masking", "fixed", "--times", "importance"]
    where = ["--run", tmp_path / "run", "--autoencoder", tiny_runs[0], "--data", "folder", "--root", pictures]
    assert command(*where, *options, "--steps", 1, "--batch", 4, "--precision", "fp32") == 0
    config = read_run(tmp_path / "run/config.json")
    assert isinstance(config, PriorRun)
    assert (config.objective, config.masking, config.times) == ("mlm", "fixed", "importance")
    assert config.model.classes == 2
    assert load_file(tmp_path / "run/checkpoint-00000001/times.safetensors")["Lt_count"].sum() == 4


@pytest.mark.parametrize(
    ("preset", "options", "words"),
    [
        ("tiny", ["--masking", "some"], "masking 'some': allowed are random, fixed"),
        ("tiny-transformer", ["--times", "late"], "times 'late': allowed are uniform, importance"),
        ("tiny-transformer", ["--objective", "autoregressive"], "allowed are reweighted, elbo and mlm"),
        ("tiny-autoregressive", ["--objective", "elbo"], "allowed is autoregressive alone"),
        ("tiny-net2net", ["--masking", "fixed"], "leave --masking and --times out"),
    ],
)
def test_combinations_without_sense_are_refused(
    preset: str, options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--run", tmp_path / "run", "--preset", preset, "--precision", "fp32", *options) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
