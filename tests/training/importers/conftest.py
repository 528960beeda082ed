from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.checkpoints import Saved


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Write an object as a checkpoint; gives its path."""

    def save(held: object, name: str = "model.ckpt", **options: bool) -> Path:
        torch.save(held, tmp_path / name, **options)
        return tmp_path / name

    return save
