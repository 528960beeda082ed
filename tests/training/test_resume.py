from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from smalti.errors import UsageError
from smalti_train.presets.catalogue import AUTOENCODERS, PRIORS
from smalti_train.runs.config import AutoencoderRun, VQGANRun
from smalti_train.runs.config_files import read_run, to_json
from smalti_train.runs.folder import RunFolder
from smalti_train.trainers import trainer
from smalti_train.trainers.autoencoder import train_autoencoder
from smalti_train.trainers.prior import train_prior
from smalti_train.trainers.vqgan import train_vqgan


def assert_same_checkpoint(found: Path, expected: Path) -> None:
    """Every tensor of two checkpoints, the optimiser's included, is the same bit for bit."""
    files = sorted(path.name for path in expected.glob("*.safetensors"))
    assert sorted(path.name for path in found.glob("*.safetensors")) == files
    for file in files:
        ours, theirs = load_file(found / file), load_file(expected / file)
        assert ours.keys() == theirs.keys()
        different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
        assert not different, f"{file}: {different}"


def wait_for(path: Path, process: subprocess.Popen[bytes], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, "the training ended too early"
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_killed_training_ends_where_the_uninterrupted_one_does(pictures: Path, tmp_path: Path) -> None:
    def command(run: Path) -> list[str]:
        options = ["--preset", "tiny", "--steps", "75", "--batch", "4", "--precision", "fp32"]
        where = ["--run", str(run), "--data", "folder", "--root", str(pictures)]
        return [sys.executable, "-m", "smalti.cli", "train", "autoencoder", *where, *options]

    run, uninterrupted = tmp_path / "killed", tmp_path / "uninterrupted"
    with subprocess.Popen(command(run), stderr=subprocess.DEVNULL) as process:
        wait_for(run / "checkpoint-00000050", process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (run / "checkpoint-00000075").exists()
    subprocess.run(command(run), stderr=subprocess.DEVNULL, check=True)
    config = read_run(run / "config.json")
    assert isinstance(config, AutoencoderRun)
    train_autoencoder(config, uninterrupted)
    assert_same_checkpoint(run / "checkpoint-00000075", uninterrupted / "checkpoint-00000075")


KILLED_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
from smalti_train.runs import folder as run
from smalti_train.runs.config_files import read_run
from smalti_train.trainers.prior import train_prior

flush = run.flush

def flush_or_die(file):
    if ".checkpoint-00000016" in str(file):
        os.kill(os.getpid(), signal.SIGKILL)
    flush(file)

run.flush = flush_or_die
train_prior(read_run(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]))
"""


def test_a_prior_killed_while_it_saves_goes_on_from_the_checkpoint_before(
    tiny_runs: tuple[Path, Path], brief: Callable, tmp_path: Path
) -> None:
    config, run = brief(PRIORS["tiny"], checkpoint_every=8), tmp_path / "run"
    (tmp_path / "config.json").write_bytes(to_json(config))
    command = [sys.executable, "-c", KILLED_WHILE_SAVING, tmp_path / "config.json", run, tiny_runs[0]]
    killed = subprocess.run(command, stderr=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in RunFolder(run).checkpoints()] == ["checkpoint-00000008"]
    partial = run / ".checkpoint-00000016"
    (partial / "model.safetensors").write_bytes(b"")  # as a power cut may leave a file that was never flushed
    train_prior(config, run)
    assert not partial.exists()
    # Saving does not change the course of a training: the fixture's run never saved in between.
    assert_same_checkpoint(run / "checkpoint-00000020", tiny_runs[1] / "checkpoint-00000020")


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Ctrl-C come at the beginning of a step."""
    rate = trainer.learning_rate

    def interrupted(now: int, *rest: object) -> float:
        if now == step:
            raise KeyboardInterrupt
        return rate(now, *rest)

    monkeypatch.setattr(trainer, "learning_rate", interrupted)


def test_an_interrupted_prior_saves_what_was_reached(
    tiny_runs: tuple[Path, Path], brief: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = brief(PRIORS["tiny"], checkpoint_every=100), tmp_path / "run"
    interrupt_at(7, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train_prior(config, run, tiny_runs[0])
    assert [path.name for path in RunFolder(run).checkpoints()] == ["checkpoint-00000007"]
    monkeypatch.undo()
    train_prior(config, run)
    assert_same_checkpoint(run / "checkpoint-00000020", tiny_runs[1] / "checkpoint-00000020")


def test_an_interrupted_autoencoder_remembers_which_codes_lay_idle(
    brief: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(brief(AUTOENCODERS["tiny"], steps=10), reseed_patience=3, reseed_until=1.0)
    train_autoencoder(config, tmp_path / "uninterrupted")
    interrupt_at(5, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train_autoencoder(config, tmp_path / "run")
    monkeypatch.undo()
    train_autoencoder(config, tmp_path / "run")
    names = [path.name for path in RunFolder(tmp_path / "run").checkpoints()]
    assert names == ["checkpoint-00000005", "checkpoint-00000010"]
    assert_same_checkpoint(tmp_path / "run" / names[-1], tmp_path / "uninterrupted" / names[-1])


@pytest.mark.parametrize("quantizer", ["nearest", "gumbel"])
def test_an_interrupted_vqgan_goes_on_with_its_discriminator_and_its_averages(
    quantizer: str, small_vqgan: VQGANRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = dataclasses.replace(small_vqgan.model, quantizer=quantizer)
    config = dataclasses.replace(small_vqgan, model=model, ema_every=3, gumbel_steps=20)
    train_vqgan(config, tmp_path / "uninterrupted")
    interrupt_at(5, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train_vqgan(config, tmp_path / "run")
    monkeypatch.undo()
    train_vqgan(config, tmp_path / "run")
    names = [path.name for path in RunFolder(tmp_path / "run").checkpoints()]
    assert names == ["checkpoint-00000005", "checkpoint-00000010"]
    reached = tmp_path / "run" / names[-1]
    assert_same_checkpoint(reached, tmp_path / "uninterrupted" / names[-1])
    model, ema, judge = (load_file(reached / f"{name}.safetensors") for name in ("model", "ema", "discriminator"))
    assert not torch.equal(model["decoder.conv_out.weight"], ema["decoder.conv_out.weight"])
    assert judge["main.3.num_batches_tracked"] == 8 * 3  # from the third step on: made for lambda, real, made again


@pytest.mark.parametrize("preset", ["tiny-transformer", "tiny-autoregressive", "tiny-net2net"])
def test_an_interrupted_transformer_ends_where_the_uninterrupted_one_does(
    preset: str, tiny_runs: tuple[Path, Path], brief: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = brief(PRIORS[preset], steps=16)
    if preset == "tiny-transformer":
        config = dataclasses.replace(config, objective="elbo", masking="fixed", times="importance")
    train_prior(config, tmp_path / "uninterrupted", tiny_runs[0])
    interrupt_at(7, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train_prior(config, tmp_path / "run", tiny_runs[0])
    monkeypatch.undo()
    train_prior(config, tmp_path / "run")
    names = [path.name for path in RunFolder(tmp_path / "run").checkpoints()]
    assert names == ["checkpoint-00000007", "checkpoint-00000016"]
    assert_same_checkpoint(tmp_path / "run" / names[-1], tmp_path / "uninterrupted" / names[-1])
    assert (tmp_path / "run" / names[-1] / "times.safetensors").exists() == (config.times == "importance")


def test_a_finished_run_is_left_alone(tiny_runs: tuple[Path, Path]) -> None:
    for kind, run, train in zip(("autoencoder", "prior"), tiny_runs, (train_autoencoder, train_prior)):
        before = {path: path.stat().st_mtime_ns for path in run.glob("checkpoint-*/*")}
        config = read_run(run / "config.json")
        assert (kind == "autoencoder") == isinstance(config, AutoencoderRun)
        train(config, run)
        assert before == {path: path.stat().st_mtime_ns for path in run.glob("checkpoint-*/*")}


def test_the_bits_per_dim_of_unseen_tokens_fall(tiny_runs: tuple[Path, Path], brief: Callable, tmp_path: Path) -> None:
    train_prior(brief(PRIORS["tiny"], steps=30, evaluate_every=10), tmp_path / "run", tiny_runs[0])
    (events,) = (tmp_path / "run/logs/tensorboard").glob("events*")
    log = EventAccumulator(str(events)).Reload()
    figures = {event.step: event.value for event in log.Scalars("validation/bits_per_dim")}
    assert list(figures) == [10, 20, 30]
    assert 6.5 > figures[10] > figures[20] > figures[30] > 0  # of 6 bits that 64 equally likely codes have


def test_a_failed_start_does_not_claim_the_folder(
    tiny_runs: tuple[Path, Path], brief: Callable, tmp_path: Path
) -> None:
    config, run = brief(PRIORS["tiny"], steps=1), tmp_path / "run"
    wrong = dataclasses.replace(config, model=dataclasses.replace(config.model, codes=32))
    with pytest.raises(UsageError, match=r"predicts 32 codes on 4x4 tokens.*makes 64 codes on 4x4"):
        train_prior(wrong, run, tiny_runs[0])
    with pytest.raises(UsageError, match="--autoencoder"):
        train_prior(config, run)
    train_prior(config, run, tiny_runs[0])
    assert [path.name for path in RunFolder(run).checkpoints()] == ["checkpoint-00000001"]


def test_a_prior_keeps_to_the_autoencoder_it_began_with(
    tiny_runs: tuple[Path, Path], brief: Callable, tmp_path: Path
) -> None:
    other = tmp_path / "autoencoder"
    train_autoencoder(brief(AUTOENCODERS["tiny"], steps=1, seed=5), other)
    config = read_run(tiny_runs[1] / "config.json")
    with pytest.raises(
        UsageError, match=r"not the autoencoder this run began with \(loop\.steps: 1, not 20; loop\.seed"
    ):
        train_prior(config, tiny_runs[1], other)
    train_prior(config, tiny_runs[1], tiny_runs[0])  # the right one may be named again
