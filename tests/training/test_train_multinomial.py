"""A prior of multinomial diffusion trains, goes on, is measured and drawn from like any other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers.torch_draws import draw_multinomial
from smalti.errors import UsageError
from smalti_train.evaluation.subject import open_subject
from smalti_train.models.multinomial_unet import MultinomialUNet
from smalti_train.objectives.multinomial import cosine_schedule, step_loss
from smalti_train.objectives.prior_batches import loss_parts, prior_batch, times_of
from smalti_train.objectives.time_sampling import ImportanceTimes
from smalti_train.presets.catalogue import PRIORS
from smalti_train.runs.bundle_weights import initial_weights
from smalti_train.runs.config import PriorRun
from smalti_train.runs.loading import load_prior
from smalti_train.runs.torch_sampling import torch_denoisers
from smalti_train.trainers.prior import train_prior

TINY = PRIORS["tiny-multinomial"]


@pytest.fixture(scope="module")
def trained(brief: Callable, tiny_runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "multinomial"
    config = dataclasses.replace(brief(TINY, steps=60, evaluate_every=20), times="importance")
    train_prior(config, path, tiny_runs[0])
    return path


def test_the_bound_of_unseen_tokens_falls_and_a_sheet_is_drawn(trained: Path) -> None:
    (events,) = (trained / "logs/tensorboard").glob("events*")
    figures = EventAccumulator(str(events)).Reload().Scalars("validation/bits_per_dim")
    first, *_, last = (event.value for event in figures)
    assert 7.5 > first > last  # of 6 bits that 64 equally likely codes have, and what an untrained network adds
    with Image.open(trained / "sheets/00000060.png") as picture:
        assert picture.width >= 8 * 64
        assert np.asarray(picture).std() > 5


def test_it_is_loaded_as_what_it_is_with_its_averages_and_its_history(trained: Path) -> None:
    model, config = load_prior(trained)
    assert isinstance(model, MultinomialUNet)
    assert (config.objective, config.times) == ("vlb", "importance")
    averages = load_file(trained / "checkpoint-00000060/ema.safetensors")
    assert all(torch.equal(value, averages[name]) for name, value in model.state_dict().items())
    assert initial_weights(trained, config).keys() == averages.keys()
    times = load_file(trained / "checkpoint-00000060/times.safetensors")
    assert times["Lt_count"].shape == (101,)
    assert times["Lt_count"].sum() == 60 * 32
    assert times["Lt_count"][0] == 0


def test_it_goes_on_where_it_stopped(
    trained: Path, tiny_runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smalti_train.trainers import trainer as module

    _, config = load_prior(trained)
    config = dataclasses.replace(config, loop=dataclasses.replace(config.loop, steps=6))
    rate = module.learning_rate

    def stopped(now: int, *rest: Any) -> float:
        if now == 3:
            raise KeyboardInterrupt
        return rate(now, *rest)

    train_prior(config, tmp_path / "whole", tiny_runs[0])
    monkeypatch.setattr(module, "learning_rate", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_prior(config, tmp_path / "run", tiny_runs[0])
    monkeypatch.undo()
    train_prior(config, tmp_path / "run")
    for part in ("model", "ema", "optimizer", "times"):
        found, wanted = (
            load_file(tmp_path / run / f"checkpoint-00000006/{part}.safetensors") for run in ("run", "whole")
        )
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in found), part


def test_a_batch_is_noise_of_a_time_and_costs_its_term_of_the_bound() -> None:
    tokens, labels = torch.zeros(4000, 16, dtype=torch.int64), torch.arange(4000) % 8
    shown = prior_batch(TINY, tokens, labels, torch.Generator().manual_seed(0))
    assert (shown.times.min(), shown.times.max()) == (1, 100)
    assert torch.equal(shown.weights, torch.ones(4000))
    schedule = cosine_schedule(100, "released")
    stays = schedule.log_cumprod_alpha[shown.times - 1].exp()
    expected = (stays + (1 - stays) / 64)[shown.times > 50].mean().item()
    assert (shown.shown == 0)[shown.times > 50].float().mean().item() == pytest.approx(expected, abs=0.01)
    assert 0.05 < (shown.labels == 8).float().mean().item() < 0.15
    asked: list[torch.Tensor] = []

    def predict(grids: torch.Tensor, under: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        asked.extend((grids, under, times))
        return torch.zeros(*grids.shape, 64)

    (loss,) = loss_parts(TINY, predict, shown)
    assert torch.equal(asked[2], shown.times - 1)
    flat = step_loss(torch.zeros(4000, 16, 64), tokens, shown.shown, shown.times - 1, schedule)
    torch.testing.assert_close(loss, 100 * flat)
    # All times together are the bound, which knowing nothing costs the whole code.
    assert loss.mean().item() == pytest.approx(np.log(64), rel=0.05)


def test_times_by_importance_count_from_one() -> None:
    history = ImportanceTimes(times_of(TINY.model, 16))
    history.Lt_history[:] = 1e-12
    history.Lt_history[1] = 1e12
    history.Lt_count[:] = 11
    tokens = torch.zeros(64, 16, dtype=torch.int64)
    shown = prior_batch(TINY, tokens, tokens[:, 0], torch.Generator().manual_seed(0), history)
    assert set(shown.times.tolist()) == {1}
    assert shown.weights.tolist() == pytest.approx([0.01] * 64, rel=1e-3)


def test_its_samples_are_the_runtimes_own(trained: Path) -> None:
    model, _ = load_prior(trained)
    assert isinstance(model, MultinomialUNet)
    subject = open_subject(str(trained), steps=5, temperature=0.9, top_p=0.95)
    assert subject.settings == {"steps": 5, "temperature": 0.9, "top_k": 0, "top_p": 0.95, "guidance": 1.0}
    assert subject.draw is not None
    names = [*subject.classes[:2], None]
    tokens = subject.draw([3, 4, 5], names)
    drawn = draw_multinomial(
        torch_denoisers(model), model.config, [3, 4, 5], [0, 1, 8], steps=5, temperature=0.9, top_p=0.95
    )
    assert np.array_equal(tokens, drawn)
    assert np.array_equal(subject.draw([4], names[1:2])[0], tokens[1])
    with pytest.raises(UsageError, match=r"steps 101: allowed are 1 .. 100"):
        open_subject(str(trained), steps=101)
    with pytest.raises(UsageError, match=r"order: .* knows no such choice"):
        open_subject(str(trained), order="halton")
    assert subject.bits is not None
    bits = subject.bits(np.zeros((8, 16), np.int32), np.zeros(8, np.int32))
    assert 0 < bits < 40


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"objective": "elbo"}, "objective 'elbo' is not for a prior of kind 'multinomial-unet': allowed is vlb alone"),
        ({"masking": "fixed"}, "a prior of kind 'multinomial-unet' masks nothing; leave --masking out"),
        ({"unrolls": 3}, "only objective sundae unrolls"),
    ],
)
def test_it_has_its_own_objective(change: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        PriorRun(**{"preset": "some", "model": TINY.model, "objective": "vlb", **change})  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="objective 'vlb' is not for a prior of kind 'hourglass'"):
        dataclasses.replace(PRIORS["tiny"], objective="vlb")
