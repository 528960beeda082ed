"""Image data for training: opened by name, made once, mapped read-only, licences attached."""

from __future__ import annotations

from pathlib import Path

from smalti.errors import UsageError
from smalti_train.data.avatars import open_avatars
from smalti_train.data.dataset import SPLITS, ImageSet, Licence

_DATASETS = {"avatars": open_avatars}


def open_dataset(
    name: str,
    *,
    size: int,
    split: str,
    count: int | None = None,
    seed: int = 0,
    root: Path | None = None,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> ImageSet:
    """Open one split of a dataset at one size, building its cache the first time.

    Raises UsageError for an unknown name, split or size (saying what is allowed), MissingExtra where the dataset's
    packages are not installed, OutputError where the cache cannot be written.
    """
    if name not in _DATASETS:
        raise UsageError(f"dataset {name!r}: allowed are {', '.join(_DATASETS)}")
    if split not in SPLITS:
        raise UsageError(f"split {split!r}: allowed are {', '.join(SPLITS)}")
    if count is not None and count < 1:
        raise UsageError(f"count {count}: at least 1 image")
    return _DATASETS[name](
        size=size, split=split, count=count, seed=seed, root=root, cache_dir=cache_dir, progress=progress
    )


__all__ = ["SPLITS", "ImageSet", "Licence", "open_dataset"]
