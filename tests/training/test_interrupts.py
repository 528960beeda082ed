"""Signals in the middle of a training: it ends with a step, and never leaves half of one."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from smalti_train.presets.catalogue import PRIORS
from smalti_train.runs.folder import RunFolder
from smalti_train.trainers import prior, trainer
from smalti_train.trainers.prior import train_prior

LAST = "checkpoint-00000020"


@pytest.fixture(autouse=True)
def handlers() -> Generator[None]:
    """What the command line does at SIGTERM; in the end all handlers are those of before."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    kept = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    yield
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == kept
    signal.signal(signal.SIGTERM, before)


def in_step(step: int, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have something happen in a step, after the gradients and before the weights move."""
    update, count = trainer.Trainer.update, 0

    def acting(*arguments: object) -> None:
        nonlocal count
        if count == step:
            act()
        count += 1
        update(*arguments)

    monkeypatch.setattr(trainer.Trainer, "update", acting)


@pytest.mark.parametrize(
    ("number", "ends"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["ctrl-c", "sigterm"]
)
def test_a_signal_ends_a_training_with_the_step_that_it_came_in(
    number: signal.Signals,
    ends: type[BaseException],
    tiny_runs: tuple[Path, Path],
    brief: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, run = brief(PRIORS["tiny"]), tmp_path / "run"
    in_step(6, lambda: signal.raise_signal(number), monkeypatch)
    with pytest.raises(ends):
        train_prior(config, run, tiny_runs[0])
    assert "stopping after this step" in capsys.readouterr().err
    assert [path.name for path in RunFolder(run).checkpoints()] == ["checkpoint-00000007"]
    monkeypatch.undo()
    train_prior(config, run)
    for part in ("model", "ema", "optimizer"):
        found, expected = (load_file(path / LAST / f"{part}.safetensors") for path in (run, tiny_runs[1]))
        assert all(torch.equal(found[name], expected[name]) for name in expected), part


def test_a_second_signal_ends_it_at_once_and_half_a_step_is_not_saved(
    tiny_runs: tuple[Path, Path], brief: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    config, run = brief(PRIORS["tiny"], checkpoint_every=4), tmp_path / "run"
    in_step(6, twice, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train_prior(config, run, tiny_runs[0])
    assert [path.name for path in RunFolder(run).checkpoints()] == ["checkpoint-00000004"]


@pytest.mark.parametrize("aside", ["evaluate", pytest.param("sheet", marks=pytest.mark.slow)])
def test_nobody_waits_for_an_evaluation_that_a_signal_comes_in(
    aside: str, tiny_runs: tuple[Path, Path], brief: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = brief(PRIORS["tiny"], evaluate_every=4, sheet_every=4), tmp_path / "run"

    def long(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it went on")

    monkeypatch.setattr(prior, aside, long)
    with pytest.raises(KeyboardInterrupt):
        train_prior(config, run, tiny_runs[0])
    assert [path.name for path in RunFolder(run).checkpoints()] == ["checkpoint-00000004"]
