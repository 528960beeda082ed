"""Runs whose images were moved: they continue where the images are now, and nowhere else."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smalti.cli.main import _run
from smalti.errors import UsageError
from smalti_train.presets.catalogue import AUTOENCODERS
from smalti_train.runs.config import AutoencoderRun
from smalti_train.runs.config_files import read_run
from smalti_train.runs.folder import RunFolder

Train = Callable[..., int]


def train(run: Path, root: Path, steps: int = 2, *more: str) -> int:
    options = ["--preset", "tiny", "--steps", str(steps), "--batch", "2", "--precision", "fp32"]
    return _run(["train", "autoencoder", "--run", str(run), "--data", "folder", "--root", str(root), *options, *more])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for label in ("a", "b"):
        (root / label).mkdir()
        for index in range(8):
            pixels = generator.integers(0, 255, (24, 24, 3), np.uint8)
            Image.fromarray(pixels).save(root / label / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def trained(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run at its last step, on a copy of ``source`` that is gone."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(source, folder / "old")
    assert train(folder / "run", folder / "old") == 0
    shutil.rmtree(folder / "old")
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def as_it_is(root: Path) -> None:
    pass


def touched(root: Path) -> None:
    for file in root.rglob("*.png"):
        file.touch()


def with_notes(root: Path) -> None:
    (root / "notes.txt").write_text("not an image")
    (root / ".hidden").mkdir()


def by_links(root: Path) -> None:
    for folder in [*root.iterdir()]:
        folder.rename(root.parent / f"store-{folder.name}")
        folder.symlink_to(root.parent / f"store-{folder.name}", target_is_directory=True)


@pytest.mark.parametrize("change", [as_it_is, touched, with_notes, by_links])
def test_cases_of_moved_images_continue(change: Callable[[Path], None], source: Path, run: Path) -> None:
    root = run.parent / "new"
    shutil.copytree(source, root, copy_function=shutil.copy)  # without the times of change
    change(root)
    assert train(run, root) == 0
    config = read_run(run / "config.json")
    assert isinstance(config, AutoencoderRun)
    assert config.data.root == str(root)
    assert RunFolder(run).checkpoints()[-1].name == "checkpoint-00000002"


def another_picture(root: Path) -> None:
    Image.new("RGB", (24, 24), "red").save(root / "a" / "0.png")
    Image.new("RGB", (24, 24), "red").save(root / "a" / "1.png")


def one_less(root: Path) -> None:
    for file in sorted((root / "a").iterdir())[:6]:
        file.unlink()


def other_labels(root: Path) -> None:
    (root / "a").rename(root / "c")


@pytest.mark.parametrize("change", [another_picture, one_less, other_labels])
def test_cases_of_other_images_are_refused(
    change: Callable[[Path], None], source: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(source, run.parent / "new"))
    change(root)
    before = (run / "config.json").read_bytes()
    assert train(run, root) == 2
    said = capsys.readouterr().err
    assert "those in" in said
    assert "are others" in said
    assert (run / "config.json").read_bytes() == before


def test_cases_where_more_than_the_folder_changed(source: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(run, source, 3) == 2
    assert "loop.steps: 2, not 3" in capsys.readouterr().err


def test_cases_of_runs_that_kept_no_digests(source: Path, run: Path) -> None:
    for content in (None, b"{", b"[]"):
        (run / "images.json").unlink(missing_ok=True)
        if content is not None:
            (run / "images.json").write_bytes(content)
        config = read_run(run / "config.json")
        assert isinstance(config, AutoencoderRun)
        moved = dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(source)))
        folder = RunFolder(run)
        with pytest.raises(UsageError, match=r"data\.root|are others"):
            folder.open(moved)
        folder.close()


def test_cases_of_sets_without_a_folder_keep_no_digests(tmp_path: Path) -> None:
    RunFolder(tmp_path).keep_config(AUTOENCODERS["tiny"])
    assert not (tmp_path / "images.json").exists()
