from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from smalti_train.config import AnyRun, to_json
from smalti_train.presets import AUTOENCODERS, PRIORS
from smalti_train.run import RunFolder
from smalti_train.train_prior import train_prior

TRAIN_PRIOR = """
import sys
from pathlib import Path
from smalti_train.config import read_run
from smalti_train.train_prior import train_prior
train_prior(read_run(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]))
"""

TRAIN_AUTOENCODER = """
import os, sys
from pathlib import Path
from safetensors.torch import save_file
from smalti_train.config import read_run
from smalti_train.models.quantizer import CosineQuantizer
from smalti_train.train_autoencoder import train_autoencoder

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


def train_in_two_processes(code: str, config: AnyRun, run: Path, *arguments: Path) -> str:
    """Run ``code`` with the configuration and the arguments in two processes; what they said."""
    script, file = run.with_name("script.py"), run.with_name("config.json")
    script.write_text(code)
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


def test_both_processes_move_idle_codes_to_the_same_places(brief: Callable, tmp_path: Path) -> None:
    config = dataclasses.replace(brief(AUTOENCODERS["tiny"], steps=8), reseed_patience=2)
    train_in_two_processes(TRAIN_AUTOENCODER, config, tmp_path / "run")
    first, second = (load_file(tmp_path / f"run/codebook-{rank}.safetensors")["codebook"] for rank in (0, 1))
    assert first.equal(second)
