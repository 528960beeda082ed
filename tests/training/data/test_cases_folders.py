"""Folders of images as people keep them: class folders and files that are links, also in circles."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from smalti_train.data import open_dataset
from smalti_train.data.cache import default_directory
from smalti_train.data.folder import find_images

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")


def store(path: Path, count: int = 6, colour: tuple[int, int, int] = (200, 0, 0)) -> Path:
    path.mkdir(parents=True)
    for index in range(count):
        Image.new("RGB", (20, 20), colour).save(path / f"{index}.png")
    return path


def linked_class(root: Path, store: Path) -> list[str]:
    (root / "red").symlink_to(store, target_is_directory=True)
    return [f"red/{index}.png" for index in range(6)]


def relative_link(root: Path, store: Path) -> list[str]:
    (root / "red").symlink_to(Path("..") / store.name, target_is_directory=True)
    return [f"red/{index}.png" for index in range(6)]


def link_further_down(root: Path, store: Path) -> list[str]:
    (root / "red").mkdir()
    (root / "red" / "more").symlink_to(store, target_is_directory=True)
    return [f"red/more/{index}.png" for index in range(6)]


def chain(root: Path, store: Path) -> list[str]:
    (root.parent / "between").symlink_to(store, target_is_directory=True)
    (root / "red").symlink_to(root.parent / "between", target_is_directory=True)
    return [f"red/{index}.png" for index in range(6)]


def twice(root: Path, store: Path) -> list[str]:
    for name in ("red", "scarlet"):
        (root / name).symlink_to(store, target_is_directory=True)
    return [f"{name}/{index}.png" for name in ("red", "scarlet") for index in range(6)]


def files(root: Path, store: Path) -> list[str]:
    (root / "red").mkdir()
    for index, file in enumerate(sorted(store.iterdir())):  # as in a content-addressed store
        file = file.rename(file.with_name(f"{index:064x}"))
        (root / "red" / f"{index}.png").symlink_to(file)
    return [f"red/{index}.png" for index in range(6)]


@pytest.mark.parametrize("make", [linked_class, relative_link, link_further_down, chain, twice, files])
def test_cases_of_links_are_followed(make: Any, tmp_path: Path) -> None:
    store(tmp_path / "root" / "blue", colour=(0, 0, 200))
    wanted = [f"blue/{index}.png" for index in range(6)] + make(tmp_path / "root", store(tmp_path / "store"))
    found, labels = find_images(tmp_path / "root")
    assert found == sorted(wanted)
    assert labels == tuple(sorted({name.partition("/")[0] for name in wanted}))
    opened = open_dataset(
        "folder", size=16, split="train", root=tmp_path / "root", cache_dir=tmp_path / "cache", progress=False
    )
    assert opened.label_names == labels
    assert not opened.skipped
    np.testing.assert_array_equal(opened.images[:, 0, 0, 2] > 100, opened.labels == 0)


@pytest.mark.parametrize(
    ("where", "target"),
    [("red/again", "root"), ("again", "."), ("red/up", "root/red"), ("red/deep/up", "root"), ("red/all", ".")],
)
def test_cases_of_circles_are_left_out_with_a_warning(
    where: str, target: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "root"
    store(root / "red")
    (root / where).parent.mkdir(exist_ok=True)
    (root / where).symlink_to(tmp_path / target, target_is_directory=True)
    with caplog.at_level(logging.WARNING):
        found, _ = find_images(root)
    assert found == [f"red/{index}.png" for index in range(6)]
    assert where in caplog.text
    assert "leads back" in caplog.text


def test_cases_of_two_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        store(tmp_path / "root" / name, 1)
        (tmp_path / "root" / name / other).symlink_to(tmp_path / "root" / other, target_is_directory=True)
    found, labels = find_images(tmp_path / "root")
    assert found == ["a/0.png", "a/b/0.png", "b/0.png", "b/a/0.png"]
    assert labels == ("a", "b")


@pytest.mark.parametrize("value", ["~/c", "$HOME/c", "${HOME}/c", " ~/c "])
def test_cases_of_a_cache_folder_that_no_shell_read(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SMALTI_CACHE_DIR", value)
    assert default_directory() == tmp_path / "c" / "datasets"


def test_cases_of_a_root_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tmp_path / "pictures" / "red")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    opened = open_dataset(
        "folder", size=16, split="train", root=Path("~/pictures"), cache_dir=Path("~/cache"), progress=False
    )
    assert opened.label_names == ("red",)
    assert (tmp_path / "cache").is_dir()
    assert not (tmp_path / "~").exists()
