"""``smalti import``: published checkpoints as folders of runs, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.checkpoints import SMALL, Saved, State
from smalti.cli.main import _run
from smalti.system.platform import install_hint
from smalti_train.importers import import_checkpoint
from smalti_train.models.autoregressive_transformer import Net2NetTransformer, Net2NetTransformerConfig
from smalti_train.models.vqgan import VQGAN
from smalti_train.runs.config import PriorRun, VQGANRun
from smalti_train.runs.loading import load_autoencoder, load_prior

FIXTURES = Path(__file__).parents[1] / "fixtures"
VQGAN_FILE, PRIOR_FILE = FIXTURES / "ut_vqgan_nearest_small.th", FIXTURES / "ut_absorbing_small.th"
NET2NET = Net2NetTransformerConfig(vocabulary=8, positions=64, grid=(8, 8), width=16, layers=2, heads=2)


def combined() -> State:
    """A file of taming's with both models, 8x8 tokens of 8 codes."""
    torch.manual_seed(0)
    models = {"first_stage_model": VQGAN(SMALL), "transformer": Net2NetTransformer(NET2NET)}
    return {f"{part}.{name}": value for part, model in models.items() for name, value in model.state_dict().items()}


def command(source: str, file: Path, output: Path, *options: object) -> int:
    return _run(["import", "--source", source, str(file), "-o", str(output), *map(str, options)])


@pytest.fixture
def codec(tmp_path: Path) -> Path:
    """The imported autoencoder of Bond-Taylor et al. 2021."""
    path = tmp_path / "codec"
    assert command("unleashing-vqgan", VQGAN_FILE, path, "--config", '{"resolution": 32}') == 0
    return path


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Import what is refused; gives the message, after seeing that nothing was written."""

    def refused(source: str, file: Path, *options: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        assert command(source, file, tmp_path / "out", *options) == 2
        assert sorted(tmp_path.rglob("*")) == before
        message = capsys.readouterr().err
        assert message.startswith("smalti: ")
        assert message.count("\n") == 1
        return message

    return refused


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_an_autoencoder_becomes_its_run(codec: Path) -> None:
    model, run = load_autoencoder(codec)
    assert isinstance(run, VQGANRun)
    assert same(model.state_dict(), import_checkpoint(VQGAN_FILE, "unleashing-vqgan").state_dict())
    assert (run.preset, run.model.size, run.data.name, run.data.size) == ("unleashing-vqgan", (32, 32), "avatars", 32)
    assert run.imported is not None
    assert run.imported.file == VQGAN_FILE.name
    assert run.imported.sha256 == hashlib.sha256(VQGAN_FILE.read_bytes()).hexdigest()
    assert run.imported.licence == "unknown, see the source of the checkpoint"
    assert sorted(path.name for path in codec.iterdir()) == ["checkpoint-00000000", "config.json"]


def test_a_prior_becomes_its_run_with_a_copy_of_the_autoencoder(codec: Path, tmp_path: Path) -> None:
    (tmp_path / "sizes.json").write_text('{"heads": 4, "grid": [4, 16]}')
    options = ("--autoencoder", codec, "--config", tmp_path / "sizes.json", "--licence", "MIT")
    options += ("--data", "folder", "--root", tmp_path)
    assert command("unleashing-absorbing", PRIOR_FILE, tmp_path / "prior", *options) == 0
    prior, run = load_prior(tmp_path / "prior")
    assert same(prior.state_dict(), import_checkpoint(PRIOR_FILE, "unleashing-absorbing").state_dict())
    assert isinstance(run, PriorRun)
    assert run.objective == "reweighted"
    assert run.model.grid == (4, 16)
    assert (run.data.name, run.data.root, run.data.size) == ("folder", str(tmp_path), 64)
    assert run.imported is not None
    assert run.imported.licence == "MIT"
    below, below_run = load_autoencoder(tmp_path / "prior" / "autoencoder")
    assert same(below.state_dict(), load_autoencoder(codec)[0].state_dict())
    assert isinstance(below_run, VQGANRun)
    assert below_run.model.size == (16, 64)  # that of the prior's grid
    assert below_run.imported == load_autoencoder(codec)[1].imported  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("as_file", [True, False])
def test_a_file_of_both_becomes_both(as_file: bool, saved: Saved, tmp_path: Path) -> None:
    labels = "a cat,a dog"
    if as_file:
        (tmp_path / "labels.txt").write_text("a cat\na dog\n")
        labels = str(tmp_path / "labels.txt")
    options = ("--config", '{"heads": 2}', "--labels", labels)
    state = combined()
    assert command("taming-net2net", saved({"state_dict": state}), tmp_path / "run", *options) == 0
    prior, run = load_prior(tmp_path / "run")
    assert run.imported is not None
    assert run.imported.classes == ("a cat", "a dog")
    assert (run.model.classes, run.model.grid, run.objective) == (2, (8, 8), "autoregressive")
    assert same(prior.state_dict(), {n.removeprefix("transformer."): v for n, v in state.items() if n[0] == "t"})
    below, _ = load_autoencoder(tmp_path / "run" / "autoencoder")
    assert same(below.state_dict(), {n.removeprefix("first_stage_model."): v for n, v in state.items() if n[0] == "f"})


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_files_that_are_damaged_foreign_or_of_another_system(refused: Any, saved: Saved, tmp_path: Path) -> None:
    whole = VQGAN_FILE.read_bytes()
    (tmp_path / "cut.th").write_bytes(whole[: len(whole) // 2])
    assert "damaged" in refused("unleashing-vqgan", tmp_path / "cut.th")
    path = saved({"state_dict": combined(), "callbacks": Payload(tmp_path / "made")}, "code.ckpt")
    assert "could run code" in refused("taming-net2net", path, "--config", '{"heads": 2}')
    assert "try the source unleashing-absorbing" in refused("taming-vqgan", PRIOR_FILE)
    assert "there are: taming-net2net, unleashing-vqgan" in refused("stylegan", PRIOR_FILE)
    assert "does not exist" in refused("taming-vqgan", tmp_path / "none.ckpt")


def test_priors_that_fit_no_autoencoder(refused: Any, codec: Path, saved: Saved) -> None:
    assert "name the run of its autoencoder with --autoencoder" in refused("unleashing-absorbing", PRIOR_FILE)
    assert "is not a run" in refused("unleashing-absorbing", PRIOR_FILE, "--autoencoder", codec.parent)
    assert "for priors" in refused("unleashing-vqgan", VQGAN_FILE, "--autoencoder", codec)
    both = saved(combined())
    options = ("--config", '{"heads": 2}')
    assert "brings its own autoencoder" in refused("taming-net2net", both, "--autoencoder", codec, *options)
    state = {name: value for name, value in combined().items() if not name.endswith("attn.mask")}
    state["transformer.tok_emb.weight"] = torch.zeros(9, 16)
    state["transformer.head.weight"] = torch.zeros(9, 16)
    assert "knows 9 codes and the autoencoder 8" in refused("taming-net2net", saved(state), *options)


def test_labels_that_do_not_fit(refused: Any, codec: Path, saved: Saved) -> None:
    unlabelled = ("--autoencoder", codec, "--labels", "a,b")
    assert "this prior can have 0 classes" in refused("unleashing-absorbing", PRIOR_FILE, *unlabelled)
    both, options = saved(combined()), ("--config", '{"heads": 2}')
    assert "8 labels: this prior can have 7 classes" in refused(
        "taming-net2net", both, "--labels", "a,b,c,d,e,f,g,h", *options
    )
    assert "'a' is empty or there twice" in refused("taming-net2net", both, "--labels", "a,b,a", *options)
    assert "'' is empty or there twice" in refused("taming-net2net", both, "--labels", "a,,b", *options)


def test_configurations_that_cannot_be_read(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]")
    assert "is not JSON" in refused("unleashing-vqgan", VQGAN_FILE, "--config", "{heads: 4}")
    assert "holds no JSON object" in refused("unleashing-vqgan", VQGAN_FILE, "--config", tmp_path / "list.json")
    assert "nor a file that can be read" in refused("unleashing-vqgan", VQGAN_FILE, "--config", "none.json")
    assert "unknown key heads" in refused("unleashing-vqgan", VQGAN_FILE, "--config", '{"heads": 4}')


def test_a_folder_that_exists_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    assert command("unleashing-vqgan", VQGAN_FILE, tmp_path / "out") == 2
    assert "exists; name a folder" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert command("unleashing-vqgan", VQGAN_FILE, tmp_path / "file" / "out") == 1
    assert "cannot write" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_without_its_packages_the_command_says_which_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.startswith("smalti_train.cli.importing")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "smalti_train.importers.folders", None)
    assert _run(["import", "--help"]) == 0
    assert "The published checkpoint." in capsys.readouterr().out
    assert _run(["import", str(VQGAN_FILE), "--source", "unleashing-vqgan", "-o", str(tmp_path / "out")]) == 1
    assert install_hint("train") in capsys.readouterr().err


def test_the_run_says_in_json_what_it_is(codec: Path) -> None:
    content = json.loads((codec / "config.json").read_text())
    assert content["kind"] == "vqgan"
    assert content["imported"]["source"] == "unleashing-vqgan"
