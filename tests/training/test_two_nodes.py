"""Trainings on two machines, which share the run folder and nothing else."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers.two_machines import Machine, free_port, two_machines
from smalti_train.cli import training
from smalti_train.cli.options import Changes
from smalti_train.runs.config import PriorRun
from smalti_train.runs.config_files import read_run
from smalti_train.runs.folder import RunFolder
from smalti_train.trainers import trainer
from smalti_train.trainers.prior import train_prior

STEPS, BATCH = 12, 8
SOON = 60.0
"""Seconds within which all of a training has ended after a part of it did."""

COMMAND = """
import os, time
from smalti.cli.main import main
from smalti_train.trainers import trainer

rate, trainer.LOG_EVERY = trainer.learning_rate, 1

def stopped(now, *rest):
    if os.environ.get("STOP") == f"{os.environ['RANK']}@{now}":
        os.kill(os.getpid() if os.environ["SIGNAL"] == "9" else os.getppid(), int(os.environ["SIGNAL"]))
        time.sleep(1)  # in which it is passed on
    return rate(now, *rest)

trainer.learning_rate = stopped
main()
"""
"""The command line, which logs every step. In one of them it is killed, or its launcher gets a signal."""

REFUSED = """
import os, sys
from pathlib import Path
from smalti.errors import UsageError
from smalti_train.runs import machines
from smalti_train.runs.config import LoopConfig
from smalti_train.runs.folder import RunFolder
from smalti_train.trainers.loop import start

machines.SEEN = 0.5
folder = Path(sys.argv[1])
with machines.together():
    accelerator = start(LoopConfig(batch=8, precision="fp32"), RunFolder(folder))
    own = folder if accelerator.is_main_process else folder / "elsewhere"
    for refused in (
        lambda: start(LoopConfig(batch=9, precision="fp32"), RunFolder(folder)),
        lambda: machines.check_shared(accelerator, own),
        lambda: machines.check_same(accelerator, f"{accelerator.process_index + 1:064x}"[::-1], "train images"),
    ):
        try:
            refused()
            print("nothing", flush=True)
        except UsageError as error:
            print(error, flush=True)
    machines.check_shared(accelerator, folder)
    machines.check_same(accelerator, "0" * 64, "train images")
    accelerator.wait_for_everyone()
"""


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Machine, Machine]]:
    with two_machines(tmp_path_factory.mktemp("machines")) as pair:
        yield pair


def options(run: Path, pictures: Path, autoencoder: Path) -> list[str | Path]:
    loop = ["--steps", str(STEPS), "--batch", str(BATCH), "--precision", "fp32"]
    return ["train", "prior", "--preset", "tiny", *loop, "--run", run, "--autoencoder", autoencoder,
            "--data", "folder", "--root", pictures]  # fmt: skip


@pytest.fixture(scope="module")
def alone(pictures: Path, tiny_runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process that nothing stopped."""
    run = tmp_path_factory.mktemp("alone") / "run"
    changes = Changes(steps=STEPS, batch=BATCH, precision="fp32", data="folder", root=pictures)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "LOG_EVERY", 1)
        training.prior(run, "tiny", changes, tiny_runs[0], None, {}, None)
    return run


def torchrun(pair: tuple[Machine, Machine], number: int, port: int) -> list[str]:
    addresses = ["--master-addr", pair[0].address, "--master-port", str(port)]
    nodes = ["--nnodes", "2", "--node-rank", str(number), "--nproc-per-node", "1"]
    return [sys.executable, "-m", "torch.distributed.run", *nodes, *addresses]


def accelerate(pair: tuple[Machine, Machine], number: int, port: int) -> list[str]:
    addresses = ["--main_process_ip", pair[0].address, "--main_process_port", str(port)]
    nodes = ["--multi_gpu", "--num_machines", "2", "--machine_rank", str(number), "--num_processes", "2"]
    rest = ["--mixed_precision", "no", "--dynamo_backend", "no"]
    return [sys.executable, "-m", "accelerate.commands.launch", *nodes, *addresses, *rest]


def on_both(
    pair: tuple[Machine, Machine],
    launcher: Callable[[tuple[Machine, Machine], int, int], list[str]],
    command: Sequence[str | Path],
    logs: Path,
    shared: Path,
    **environment: str,
) -> tuple[list[int], list[str]]:
    """Run a command on both machines; their exit codes, and what they said. The second sees ``shared`` read-only."""
    port = free_port()
    started: list[subprocess.Popen[bytes]] = []
    files = [logs / f"{number}.log" for number in (0, 1)]
    try:
        for number, (machine, log) in enumerate(zip(pair, files)):
            whole = [*launcher(pair, number, port), *command]
            started.append(machine.start(whole, log, shared if number else None, **environment))
        until = time.monotonic() + 3 * SOON
        codes = [started[0].wait(until - time.monotonic())]
        first = time.monotonic()
        codes.append(started[1].wait(SOON))
        assert time.monotonic() - first < SOON
    finally:
        for process in started:
            process.kill()
            process.wait()
    return codes, [log.read_text() for log in files]


def losses(run: Path) -> dict[int, float]:
    found: dict[int, float] = {}
    for events in sorted((run / "logs/tensorboard").glob("events*")):
        found |= {event.step: event.value for event in EventAccumulator(str(events)).Reload().Scalars("train/loss")}
    return found


def assert_as_alone(run: Path, alone: Path) -> None:
    """Losses, and all tensors of the last checkpoint, are those of one process up to rounding."""
    ours, theirs = losses(run), losses(alone)
    assert max(ours) == STEPS
    assert ours == pytest.approx({step: theirs[step] for step in ours}, abs=1e-5)
    name = f"checkpoint-{STEPS:08d}"
    assert RunFolder(run).newest() == STEPS
    for part in ("model", "ema", "optimizer"):
        one, two = (load_file(path / name / f"{part}.safetensors") for path in (alone, run))
        assert one.keys() == two.keys()
        assert all(torch.allclose(one[key].float(), two[key].float(), rtol=1e-2, atol=2e-4) for key in one), part


# Without the dashes torchrun takes --run for an option of its own.
@pytest.mark.parametrize(
    ("launcher", "module"),
    [
        (torchrun, ["-m", "--", "smalti.cli"]),
        pytest.param(accelerate, ["-m", "smalti.cli"], marks=pytest.mark.slow),
    ],
)
def test_two_machines_learn_what_one_process_learns(
    launcher: Callable[..., list[str]],
    module: list[str],
    machines: tuple[Machine, Machine],
    alone: Path,
    pictures: Path,
    tiny_runs: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    command = [*module, *options(shared / "run", pictures, tiny_runs[0])]
    codes, said = on_both(machines, launcher, command, tmp_path, shared)
    assert codes == [0, 0], said
    assert [each.count(f"step {STEPS}: validation") for each in said] == [1, 0]
    assert [each.count("train tokens: building") for each in said] == [1, 0]
    for machine in machines:  # each has a cache of its own
        assert len(list(machine.folder.glob("cache/datasets/*train*/images.u8"))) == 1
    assert_as_alone(shared / "run", alone)
    assert sorted(path.name for path in shared.rglob("*") if path.name.startswith((".sha", ".che"))) == []


def test_a_training_goes_on_with_another_number_of_processes(
    machines: tuple[Machine, Machine],
    alone: Path,
    pictures: Path,
    tiny_runs: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared, script = tmp_path / "shared", tmp_path / "command.py"
    shared.mkdir()
    script.write_text(COMMAND)
    run, config = shared / "run", read_run(alone / "config.json")
    assert isinstance(config, PriorRun)
    monkeypatch.setattr(trainer, "LOG_EVERY", 1)
    with monkeypatch.context() as patch:
        interrupt_at(4, patch)
        with pytest.raises(KeyboardInterrupt):
            train_prior(config, run, tiny_runs[0])
    assert RunFolder(run).newest() == 5
    command = ["--", script, *options(run, pictures, tiny_runs[0])]
    codes, said = on_both(machines, torchrun, command, tmp_path, shared, STOP="1@7", SIGNAL="15")
    assert all(codes)
    assert "smalti: interrupted" in said[0]
    assert re.search(r"exitcode *: 130", said[0]), said[0]  # as torchrun tells it
    assert "smalti: terminated" in said[1], said[1]
    assert RunFolder(run).newest() == 8  # both ended with the step in which one was told to
    train_prior(config, run)
    assert sorted(losses(run)) == [*range(1, STEPS + 1)]
    assert_as_alone(run, alone)


def interrupt_at(step: int, patch: pytest.MonkeyPatch) -> None:
    rate = trainer.learning_rate

    def interrupted(now: int, *rest: object) -> float:
        if now == step:
            signal.raise_signal(signal.SIGINT)
        return rate(now, *rest)

    patch.setattr(trainer, "learning_rate", interrupted)


def plain(pair: tuple[Machine, Machine], number: int, port: int) -> list[str]:
    """Start one process by hand."""
    where = [f"MASTER_ADDR={pair[0].address}", f"MASTER_PORT={port}", "WORLD_SIZE=2", "LOCAL_RANK=0"]
    return ["env", f"RANK={number}", *where, sys.executable]


@pytest.mark.parametrize("lost", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_loss_of_one_machine_ends_the_other(
    lost: int,
    machines: tuple[Machine, Machine],
    pictures: Path,
    tiny_runs: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    shared, script = tmp_path / "shared", tmp_path / "command.py"
    shared.mkdir()
    script.write_text(COMMAND)
    command = [script, *options(shared / "run", pictures, tiny_runs[0])]
    codes, said = on_both(machines, plain, command, tmp_path, shared, STOP=f"{lost}@5", SIGNAL="9")
    assert codes[lost] == -9
    assert codes[1 - lost] == 1, said
    assert "the connection to the other processes of this training is lost" in said[1 - lost]
    assert "Traceback" not in said[1 - lost]
    assert RunFolder(shared / "run").newest() == -1  # none was due, and a half-made step is not saved


def test_what_does_not_fit_is_told_on_both_machines_and_nothing_is_written(
    machines: tuple[Machine, Machine], tmp_path: Path
) -> None:
    shared, script = tmp_path / "shared", tmp_path / "refused.py"
    shared.mkdir()
    script.write_text(REFUSED)
    codes, said = on_both(machines, plain, [script, shared], tmp_path, shared)
    assert codes == [0, 0], said
    for each in said:
        batch, folder, images = (line for line in each.splitlines() if "process" in line)
        assert "batch 9 does not divide among 2 processes: start 1, or begin a new run with --batch 10" in batch
        assert "process 1 does not see what process 0 writes" in folder
        assert "process 1 has other train images than process 0" in images
    assert list(shared.iterdir()) == []
