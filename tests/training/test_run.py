from __future__ import annotations

import dataclasses
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from smalti.cli.main import main
from smalti.errors import OutputError, SmaltiError, UsageError
from smalti_train.presets.catalogue import AUTOENCODERS, PRIORS
from smalti_train.runs.config import AutoencoderRun, PriorRun
from smalti_train.runs.config_files import read_run, to_json
from smalti_train.runs.folder import RunFolder, optimizer_tensors, restore_optimizer

CONFIG = AUTOENCODERS["tiny"]


def started(path: Path, config: AutoencoderRun | PriorRun = CONFIG) -> RunFolder:
    folder = RunFolder(path)
    folder.open(config)
    folder.keep_config(config)
    return folder


def parts(value: float = 1.0) -> dict[str, dict[str, Tensor]]:
    return {"model": {"weight": torch.full((3, 2), value)}, "optimizer": {"0.step": torch.tensor(value)}}


def small_training() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    return model, torch.optim.AdamW(model.parameters(), lr=0.05, betas=(0.9, 0.99), weight_decay=0.01)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        model(inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_training_goes_on_from_a_checkpoint_as_if_nothing_had_happened(tmp_path: Path) -> None:
    model, optimizer = small_training()
    train(model, optimizer, range(5))
    folder = started(tmp_path / "run")
    folder.save(5, {"model": model.state_dict(), "optimizer": optimizer_tensors(optimizer)}, {"note": "kept"})
    train(model, optimizer, range(5, 9))

    other, other_optimizer = small_training()
    saved = folder.latest()
    assert saved is not None
    tensors, state = saved
    assert state == {"step": 5, "note": "kept"}
    other.load_state_dict(tensors["model"])
    restore_optimizer(other_optimizer, tensors["optimizer"])
    train(other, other_optimizer, range(5, 9))
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    for name, value in optimizer_tensors(optimizer).items():
        assert torch.equal(optimizer_tensors(other_optimizer)[name], value), name
    assert {"0.exp_avg", "0.exp_avg_sq", "0.step"} <= optimizer_tensors(optimizer).keys()


def test_a_new_run_has_no_checkpoint(tmp_path: Path) -> None:
    assert started(tmp_path / "run").latest() is None


def test_the_newest_two_checkpoints_are_kept(tmp_path: Path) -> None:
    folder = started(tmp_path / "run")
    for step in (5, 10, 15):
        folder.save(step, parts(step), {})
    assert [path.name for path in folder.checkpoints()] == ["checkpoint-00000010", "checkpoint-00000015"]
    saved = folder.latest()
    assert saved is not None
    assert saved[1]["step"] == 15
    assert torch.equal(saved[0]["model"]["weight"], torch.full((3, 2), 15.0))


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    folder = started(tmp_path / "run")
    folder.save(5, parts(1), {})
    folder.save(5, parts(2), {})
    saved = folder.latest()
    assert saved is not None
    assert torch.equal(saved[0]["model"]["weight"], torch.full((3, 2), 2.0))


def test_what_an_interrupted_save_left_is_ignored_and_removed(tmp_path: Path) -> None:
    folder = started(tmp_path / "run")
    folder.save(5, parts(), {})
    folder.close()
    partial = tmp_path / "run" / ".checkpoint-00000010"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half a")
    again = RunFolder(tmp_path / "run")
    saved = again.latest()
    assert saved is not None
    assert saved[1]["step"] == 5
    again.open(CONFIG)
    assert not partial.exists()
    assert [path.name for path in again.checkpoints()] == ["checkpoint-00000005"]


def test_another_configuration_is_refused_by_the_name_of_its_field(tmp_path: Path) -> None:
    started(tmp_path / "run").close()
    other = dataclasses.replace(CONFIG, optimizer=dataclasses.replace(CONFIG.optimizer, lr=0.5))
    with pytest.raises(UsageError, match=r"optimizer\.lr: 0\.002, not 0\.5"):
        RunFolder(tmp_path / "run").open(other)
    assert read_run(tmp_path / "run/config.json") == CONFIG


def test_a_run_of_another_kind_is_refused(tmp_path: Path) -> None:
    started(tmp_path / "run").close()
    with pytest.raises(UsageError, match="another kind"):
        RunFolder(tmp_path / "run").open(PRIORS["tiny"])


@pytest.mark.parametrize("config", [AUTOENCODERS["avatars-256"], PRIORS["tiny"]], ids=["autoencoder", "prior"])
def test_configurations_survive_their_file(config: AutoencoderRun | PriorRun, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(to_json(config))
    assert read_run(tmp_path / "config.json") == config


@pytest.mark.parametrize("content", [None, b"[]", b'{"kind": "cook"}', b'{"kind": "prior"}', b"\xff"])
def test_folders_that_are_no_runs_are_told_apart(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"not a (run|configuration of smalti)"):
        read_run(tmp_path / "config.json")


HOLDER = """
import sys
from pathlib import Path
from smalti_train.presets.catalogue import AUTOENCODERS
from smalti_train.runs.folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
folder.open(AUTOENCODERS["tiny"])
print("open", flush=True)
sys.stdin.read()
"""


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        folder = RunFolder(tmp_path / "run")
        with pytest.raises(UsageError, match="another training is writing"):
            folder.open(CONFIG)
        holder.communicate()
    folder.open(CONFIG)
    folder.close()


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_names_the_file(name: str, tmp_path: Path) -> None:
    folder = started(tmp_path / "run")
    folder.save(5, parts(), {})
    damaged = tmp_path / "run/checkpoint-00000005" / name
    damaged.write_bytes(damaged.read_bytes()[:-4])
    with pytest.raises(SmaltiError, match=rf"checkpoint-00000005/{name} cannot be read") as caught:
        folder.latest()
    assert str(damaged) in str(caught.value)


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write to"):
        RunFolder(tmp_path / "file/run").open(CONFIG)


def test_a_sheet_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    folder = started(tmp_path / "run")
    (tmp_path / "run/sheets").touch()
    with pytest.raises(OutputError, match=r"00000007\.png"):
        folder.save_sheet(7, Image.new("RGB", (4, 4)))


OPTIONS = ["--preset", "tiny", "--steps", "51", "--batch", "4", "--precision", "fp32"]


@pytest.fixture(scope="module")
def stopped(
    tiny_runs: tuple[Path, Path], pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """The run of a prior that stopped one step before its last, and the command that continues it."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    command = ["train", "prior", "--run", str(run), "--data", "folder", "--root", str(pictures), *OPTIONS]
    with pytest.raises(SystemExit) as caught:
        main([*command, "--autoencoder", str(tiny_runs[0])])
    assert caught.value.code == 0
    shutil.rmtree(run / "checkpoint-00000051")
    shutil.rmtree(run / "sheets")
    return run, command


@pytest.mark.parametrize(
    ("limit", "file"), [(700_000, "checkpoint-00000051"), (50_000, "00000051.png")], ids=["checkpoint", "sheet"]
)
def test_a_full_disk_stops_the_training_and_leaves_the_old_checkpoint(
    stopped: tuple[Path, list[str]], limit: int, file: str
) -> None:
    run, command = stopped
    before = {path: path.read_bytes() for path in (run / "checkpoint-00000050").iterdir()}
    finished = subprocess.run(
        [sys.executable, "-m", "smalti.cli", *command],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 1, finished.stderr
    assert finished.stderr.splitlines()[-1].startswith("smalti: cannot write")
    assert file in finished.stderr.splitlines()[-1]
    assert "Traceback" not in finished.stderr
    assert sorted(path.name for path in run.iterdir() if "checkpoint" in path.name) == ["checkpoint-00000050"]
    assert {path: path.read_bytes() for path in (run / "checkpoint-00000050").iterdir()} == before
    assert json.loads((run / "checkpoint-00000050/state.json").read_text())["step"] == 50
