from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from smalti_train.objectives.prior_batches import figure
from smalti_train.presets.catalogue import AUTOENCODERS, PRIORS
from smalti_train.runs.config import Run, VQGANRun
from smalti_train.runs.config_files import to_json
from smalti_train.runs.folder import RunFolder
from smalti_train.trainers.prior import train_prior
from smalti_train.trainers.vqgan import train_vqgan

TRAIN_PRIOR = """
import sys
from pathlib import Path
from smalti_train.runs.config_files import read_run
from smalti_train.trainers.prior import train_prior
train_prior(read_run(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]))
"""

TRAIN_VQGAN = """
import sys
from pathlib import Path
from smalti_train.runs.config_files import read_run
from smalti_train.trainers.vqgan import train_vqgan
train_vqgan(read_run(Path(sys.argv[1])), Path(sys.argv[2]))
"""

TRAIN_AUTOENCODER = """
import os, sys
from pathlib import Path
from safetensors.torch import save_file
from smalti_train.runs.config_files import read_run
from smalti_train.models.quantizer import CosineQuantizer
from smalti_train.trainers.autoencoder import train_autoencoder

models = []
reseed = CosineQuantizer.reseed_idle

def noted(self, *arguments):
    moved = reseed(self, *arguments)
    models.append((self, moved))
    return moved

CosineQuantizer.reseed_idle = noted
train_autoencoder(read_run(Path(sys.argv[1])), Path(sys.argv[2]))
assert sum(moved for _, moved in models) > 0
save_file({"codebook": models[-1][0].codebook.detach()}, f"{sys.argv[2]}/codebook-{os.environ['RANK']}.safetensors")
"""


LEFT = """
from pathlib import Path

threads = [(task / "comm").read_text() for task in Path("/proc/self/task").glob("*")]  # on Linux
assert not any("gloo" in name for name in threads), threads
"""
"""No thread of the group is left, which could free a tensor when the interpreter is gone, and abort the process."""

FAIL_AND_TRAIN = """
import os, sys
from pathlib import Path
from smalti.errors import OutputError
from smalti_train.runs.config_files import read_run
from smalti_train.trainers import trainer
from smalti_train.trainers.prior import train_prior

rate = trainer.learning_rate

def failing(now, *rest):
    if now == 2:
        raise {"OutputError": OutputError("full"), "KeyboardInterrupt": KeyboardInterrupt()}[sys.argv[4]]
    return rate(now, *rest)

trainer.learning_rate = failing
try:
    train_prior(read_run(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]))
except (OutputError, KeyboardInterrupt) as error:
    assert type(error).__name__ == sys.argv[4]
else:
    sys.exit("it went on")
"""


def train_in_two_processes(code: str, config: Run, run: Path, *arguments: Path | str) -> str:
    """Run ``code`` with the configuration and the arguments in two processes; what they said."""
    script, file = run.with_name("script.py"), run.with_name("config.json")
    script.write_text(code + LEFT)
    file.write_bytes(to_json(config))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    finished = subprocess.run([*launcher, script, file, run, *arguments], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stderr


def scalars(run: Path, name: str) -> list[float]:
    (events,) = (run / "logs/tensorboard").glob("events*")
    return [event.value for event in EventAccumulator(str(events)).Reload().Scalars(name)]


def test_a_batch_split_over_two_processes_teaches_what_one_learns(
    tiny_runs: tuple[Path, Path], brief: Callable, tmp_path: Path
) -> None:
    config = brief(PRIORS["tiny"], steps=12, evaluate_every=4)
    train_prior(config, tmp_path / "one", tiny_runs[0])
    said = train_in_two_processes(TRAIN_PRIOR, config, tmp_path / "two", tiny_runs[0])
    assert said.count("step 12: validation") == 1
    for name in ("train/loss", "validation/bits_per_dim"):
        one, two = scalars(tmp_path / "one", name), scalars(tmp_path / "two", name)
        assert len(one) == {"train/loss": 2, "validation/bits_per_dim": 3}[name]
        assert two == pytest.approx(one, abs=1e-5)
    assert [path.name for path in RunFolder(tmp_path / "two").checkpoints()] == ["checkpoint-00000012"]
    # Half of the batch alone would have learnt something else.
    weights = [load_file(tmp_path / run / "checkpoint-00000012/model.safetensors") for run in ("one", "two")]
    assert (weights[0]["head.weight"] - weights[1]["head.weight"]).abs().max() < 1e-4


@pytest.mark.parametrize("error", ["OutputError", pytest.param("KeyboardInterrupt", marks=pytest.mark.slow)])
def test_processes_that_fail_leave_their_group_too(
    error: str, tiny_runs: tuple[Path, Path], brief: Callable, tmp_path: Path
) -> None:
    config = brief(PRIORS["tiny"], steps=4, batch=8)
    train_in_two_processes(FAIL_AND_TRAIN, config, tmp_path / "run", tiny_runs[0], error)


def test_both_processes_move_idle_codes_to_the_same_places(brief: Callable, tmp_path: Path) -> None:
    config = dataclasses.replace(brief(AUTOENCODERS["tiny"], steps=8), reseed_patience=2)
    train_in_two_processes(TRAIN_AUTOENCODER, config, tmp_path / "run")
    first, second = (load_file(tmp_path / f"run/codebook-{rank}.safetensors")["codebook"] for rank in (0, 1))
    assert first.equal(second)


@pytest.mark.parametrize(
    "preset",
    [
        "tiny-transformer",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("tiny-autoregressive", "tiny-sundae")),
    ],
)
def test_transformers_learn_from_two_processes_what_one_teaches(
    preset: str, tiny_runs: tuple[Path, Path], brief: Callable, tmp_path: Path
) -> None:
    config = brief(PRIORS[preset], steps=12)
    if preset == "tiny-transformer":  # on 16 times: after 12 steps of 32 samples, the losses seen decide
        config = dataclasses.replace(config, masking="fixed", times="importance")
    train_prior(config, tmp_path / "one", tiny_runs[0])
    train_in_two_processes(TRAIN_PRIOR, config, tmp_path / "two", tiny_runs[0])
    for name in ("train/loss", f"validation/{figure(config.model)}"):
        one, two = scalars(tmp_path / "one", name), scalars(tmp_path / "two", name)
        assert two == pytest.approx(one, abs=1e-5)
    for part in ("model", "ema", *(["times"] if config.times == "importance" else [])):
        one, two = (load_file(tmp_path / run / f"checkpoint-00000012/{part}.safetensors") for run in ("one", "two"))
        assert one.keys() == two.keys()
        assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-4


TERMS = ("loss", "l1", "quantizer", "adversarial", "lambda", "discriminator", "codes_in_batch")


@pytest.mark.parametrize("quantizer", ["nearest", pytest.param("gumbel", marks=pytest.mark.slow)])
def test_a_vqgan_and_its_discriminator_learn_from_two_processes_what_one_teaches(
    quantizer: str, small_vqgan: VQGANRun, tmp_path: Path
) -> None:
    config = dataclasses.replace(
        small_vqgan,
        model=dataclasses.replace(small_vqgan.model, quantizer=quantizer),
        loss=dataclasses.replace(small_vqgan.loss, start=0),
        loop=dataclasses.replace(small_vqgan.loop, steps=1),
    )
    train_vqgan(config, tmp_path / "one")
    train_in_two_processes(TRAIN_VQGAN, config, tmp_path / "two")
    for name in TERMS:
        one, two = scalars(tmp_path / "one", f"train/{name}"), scalars(tmp_path / "two", f"train/{name}")
        assert two == pytest.approx(one, rel=1e-4), name
    assert scalars(tmp_path / "one", "train/lambda")[0] > 0.01
    for part in ("optimizer", "discriminator_optimizer"):  # the first moments are half of the gradients
        one, two = (load_file(tmp_path / run / f"checkpoint-00000001/{part}.safetensors") for run in ("one", "two"))
        assert one.keys() == two.keys()
        # A bias before a norm over single channels has no gradient, only rounding.
        found = [name for name in one if name.endswith("exp_avg") and one[name].norm() > 1e-3]
        assert len(found) > 5
        for name in found:
            assert (two[name] - one[name]).norm() < 5e-3 * one[name].norm(), name


def test_a_vqgan_goes_on_alike_on_two_processes(small_vqgan: VQGANRun, tmp_path: Path) -> None:
    config = dataclasses.replace(small_vqgan, loop=dataclasses.replace(small_vqgan.loop, steps=3))
    train_vqgan(config, tmp_path / "one")
    train_in_two_processes(TRAIN_VQGAN, config, tmp_path / "two")
    for name in TERMS:
        one, two = scalars(tmp_path / "one", f"train/{name}"), scalars(tmp_path / "two", f"train/{name}")
        assert two == pytest.approx(one, rel=1e-3), name
