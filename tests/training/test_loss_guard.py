"""A loss that is no longer a number stops the training, and the checkpoint from before stays."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from smalti.cli.main import main
from smalti.errors import TrainingError
from smalti_train.presets.catalogue import AUTOENCODERS, PRIORS
from smalti_train.runs.config import LoopConfig, Run, VQGANRun
from smalti_train.runs.folder import RunFolder
from smalti_train.runs.loading import load_autoencoder
from smalti_train.trainers import autoencoder as train_autoencoder
from smalti_train.trainers import preview as train_preview
from smalti_train.trainers import prior as train_prior
from smalti_train.trainers import trainer
from smalti_train.trainers import vqgan as train_vqgan
from smalti_train.trainers.loss_guard import LossWatch

Train = Callable[[Path, Path | None], None]


def spoil_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have one update, that of ``step`` (counted from 1), throw the weights out of all bounds."""
    rate = trainer.learning_rate
    monkeypatch.setattr(trainer, "learning_rate", lambda now, *rest: math.nan if now == step - 1 else rate(now, *rest))


LOOPS: dict[str, tuple[ModuleType, Run]] = {
    "autoencoder": (train_autoencoder, AUTOENCODERS["tiny"]),
    "vqgan": (train_vqgan, AUTOENCODERS["tiny-vqgan"]),
    "prior": (train_prior, PRIORS["tiny"]),
    "transformer": (train_prior, PRIORS["tiny-transformer"]),
    "autoregressive": (train_prior, PRIORS["tiny-autoregressive"]),
    "preview": (train_preview, AUTOENCODERS["tiny"]),
}


def start(kind: str, brief: Callable, small_vqgan: VQGANRun, tiny_runs: tuple[Path, Path], run: Path) -> None:
    if kind == "preview":
        chosen = train_preview.preview_run(*load_autoencoder(tiny_runs[0]))
        return train_preview.train_preview(brief(chosen, steps=12, batch=4, checkpoint_every=4), run, tiny_runs[0])
    module, preset = LOOPS[kind]
    config = brief(small_vqgan if kind == "vqgan" else preset, steps=12, batch=4, checkpoint_every=4)
    if module is train_prior:
        module.train_prior(config, run, tiny_runs[0])
    else:
        (module.train_vqgan if module is train_vqgan else module.train_autoencoder)(config, run)


@pytest.mark.parametrize("kind", LOOPS)
def test_a_loss_that_is_not_finite_stops_the_training(
    kind: str,
    brief: Callable,
    small_vqgan: VQGANRun,
    tiny_runs: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    spoil_at(6, monkeypatch)
    with pytest.raises(TrainingError, match=r"the loss of step 7 is not a finite number.*--lr") as caught:
        start(kind, brief, small_vqgan, tiny_runs, run)
    assert f"{run / 'checkpoint-00000004'}, from before, is kept" in str(caught.value)
    assert f"--init {run}" in str(caught.value)
    assert [path.name for path in RunFolder(run).checkpoints()] == ["checkpoint-00000004"]
    for file in (run / "checkpoint-00000004").glob("*.safetensors"):
        assert all(bool(value.isfinite().all()) for value in load_file(file).values()), file


@pytest.mark.parametrize("kind", ["autoencoder", "vqgan", "transformer"])
def test_weights_that_are_not_finite_are_not_saved_though_the_loss_still_was(
    kind: str,
    brief: Callable,
    small_vqgan: VQGANRun,
    tiny_runs: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    spoil_at(8, monkeypatch)
    with pytest.raises(TrainingError, match=r"the weights \S+ are no longer finite.*checkpoint-00000004, from before"):
        start(kind, brief, small_vqgan, tiny_runs, run)
    assert [path.name for path in RunFolder(run).checkpoints()] == ["checkpoint-00000004"]


def test_the_command_ends_with_one_line_and_no_traceback(
    tiny_runs: tuple[Path, Path],
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil_at(2, monkeypatch)
    where = ["--run", str(tmp_path / "run"), "--data", "folder", "--root", str(pictures)]
    options = ["--preset", "tiny-transformer", "--steps", "10", "--batch", "4", "--precision", "fp32"]
    with pytest.raises(SystemExit) as caught:
        main(["train", "prior", *where, *options, "--autoencoder", str(tiny_runs[0])])
    assert caught.value.code == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("smalti: the loss of step 3 is not a finite number. No checkpoint was written before.")
    assert said.endswith("with a lower --lr.")


def watch(path: Path, **loop: object) -> LossWatch:
    every = {"steps": 1000, "checkpoint_every": 1000, "evaluate_every": 1000, "sheet_every": 1000, **loop}
    return LossWatch(Accelerator(cpu=True), LoopConfig(**every), RunFolder(path), torch.nn.Linear(2, 2))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_bad_step_is_named_when_it_is_time_to_look(value: float, tmp_path: Path) -> None:
    found = watch(tmp_path)
    for step in range(1, 10):
        found(step, torch.tensor(1.0), torch.tensor(value if step in (4, 6) else 1.0))
    with pytest.raises(TrainingError, match="step 4 "):
        found(10, torch.tensor(1.0))
    with pytest.raises(TrainingError, match="step 4 "):
        found.check()


@pytest.mark.parametrize("name", ["checkpoint_every", "evaluate_every", "sheet_every", "steps"])
def test_nothing_is_evaluated_drawn_or_saved_after_a_bad_step(name: str, tmp_path: Path) -> None:
    found = watch(tmp_path, **{name: 3})
    found(2, torch.tensor(math.nan))
    with pytest.raises(TrainingError, match="step 2 "):
        found(3, torch.tensor(1.0))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_more_precision_is_advised_where_there_is_more(precision: str, tmp_path: Path) -> None:
    found = watch(tmp_path, precision=precision)
    with pytest.raises(TrainingError) as caught:
        found(10, torch.tensor(math.nan))
    assert ("--precision fp32" in str(caught.value)) == (precision != "fp32")


def test_finite_losses_and_weights_pass(tmp_path: Path) -> None:
    found = watch(tmp_path)
    for step in range(1, 31):
        found(step, torch.tensor(1e30))
    found.check()
