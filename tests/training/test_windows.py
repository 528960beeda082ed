"""Training where files may be held open, and where editors mark UTF-8, as on Windows; simulated."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from helpers.windows import Clock, busy, held
from smalti_train.cli.importing import read_config, read_labels
from smalti_train.data.cache import build_cache
from smalti_train.runs.folder import RunFolder, read_checkpoint

PARTS = {"model": {"weight": torch.arange(3.0)}}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_old_checkpoint_that_is_held_open_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, rename = Clock(monkeypatch), os.rename
    folder, first = RunFolder(tmp_path), "checkpoint-00000001"

    def refuses(source: Path, target: Path) -> None:
        if Path(source).name == first:
            raise held()
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuses)
    for step in (1, 2, 3):
        folder.save(step, PARTS, {})
    assert names(tmp_path) == [first, "checkpoint-00000002", "checkpoint-00000003"]
    assert read_checkpoint(tmp_path / first)[1] == {"step": 1}
    assert clock.now == 0  # the next checkpoint tries again
    monkeypatch.setattr(os, "rename", rename)
    folder.save(4, PARTS, {})
    assert names(tmp_path) == ["checkpoint-00000003", "checkpoint-00000004"]


def test_a_checkpoint_waits_for_what_holds_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    folder = RunFolder(tmp_path)
    for number in (5, 32):
        monkeypatch.setattr(os, "rename", busy(os.rename, 3, number))
        monkeypatch.setattr(shutil, "rmtree", busy(shutil.rmtree, 2, number))
        folder.save(7, PARTS, {"note": "ä文"})  # a second time over the first
        assert names(tmp_path) == ["checkpoint-00000007"]
    tensors, state = read_checkpoint(tmp_path / "checkpoint-00000007")
    assert state == {"step": 7, "note": "ä文"}
    assert torch.equal(tensors["model"]["weight"], PARTS["model"]["weight"])


def test_a_cache_is_put_in_place_when_its_files_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    monkeypatch.setattr(os, "rename", busy(os.rename, 3))
    image = torch.zeros(2, 2, 3, dtype=torch.uint8).numpy()
    cache = build_cache(tmp_path, "key", 2, (2, 2, 3), lambda index: (image, index), {}, progress=False)
    assert cache.labels.tolist() == [0, 1]
    assert "key.partial" not in names(tmp_path)


def test_files_that_an_editor_of_windows_marked_are_read(tmp_path: Path) -> None:
    for mark in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "config.json").write_bytes(mark + b'{"heads": 16}\r\n')
        (tmp_path / "labels.txt").write_bytes(mark + "Fuß\r\ncat\r\n".encode())
        assert read_config(str(tmp_path / "config.json")) == {"heads": 16}
        assert read_labels(str(tmp_path / "labels.txt")) == ("Fuß", "cat")
