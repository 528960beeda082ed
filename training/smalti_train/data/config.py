"""Configuration of the images that a run learns from."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from smalti_train.data import ImageSet, open_dataset


@dataclass(frozen=True)
class DataConfig:
    """Images that a run learns from; see ``smalti_train.data.open_dataset``."""

    name: str = "avatars"
    size: int = 256
    """Pixels per side."""
    train_count: int | None = None
    """Number of training images; None: the data set's default."""
    validation_count: int | None = None
    root: str | None = None
    """Folder of the images, for data sets that need one."""
    seed: int = 0


def open_split(data: DataConfig, split: str) -> ImageSet:
    """Open one split of a configuration's images, building their cache the first time."""
    count = data.train_count if split == "train" else data.validation_count
    root = None if data.root is None else Path(data.root)
    images = open_dataset(data.name, size=data.size, split=split, count=count, seed=data.seed, root=root)
    if images.skipped:
        print(f"{split}: {len(images.skipped)} files cannot be read and are left out", file=sys.stderr)
    return images
