"""Image data for training: opened by name, made once, mapped read-only, licences attached."""

from __future__ import annotations

from pathlib import Path

from smalti.errors import UsageError
from smalti_train.data.avatars import open_avatars
from smalti_train.data.dataset import SIZES, SPLITS, ImageSet, Licence
from smalti_train.data.fashion_mnist import open_fashion_mnist
from smalti_train.data.folder import open_folder

DATASETS = {"avatars": open_avatars, "folder": open_folder, "fashion-mnist": open_fashion_mnist}
"""The datasets by name; each is a function of the arguments of ``open_dataset`` after its first."""


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

    ``name`` is one of ``DATASETS``, ``split`` one of ``SPLITS``, ``size`` the side of the square images in pixels,
    within ``SIZES``. ``count`` is how many images: exactly as many for avatars (default 24000, 1024 and 2048 for
    train, validation and test), at most as many for the others (default all). Fewer images are a prefix of more.
    ``seed`` gives other avatars; the other datasets do not use it. ``root`` is where the files are: needed by folder,
    optional for fashion-mnist, unset for avatars. ``cache_dir`` is where caches live (default
    ``$SMALTI_CACHE_DIR/datasets``, or the user's own cache directory); ``progress`` shows progress on stderr.

    Returns images uint8 [N, size, size, 3] and labels int32 [N]; see ``ImageSet``.

    Raises UsageError for an unknown name, split or size (saying what is allowed), MissingExtra where the dataset's
    packages are not installed, OutputError where the cache cannot be written.
    """
    if name not in DATASETS:
        raise UsageError(f"dataset {name!r}: allowed are {', '.join(DATASETS)}")
    if split not in SPLITS:
        raise UsageError(f"split {split!r}: allowed are {', '.join(SPLITS)}")
    if count is not None and count < 1:
        raise UsageError(f"count {count}: at least 1 image")
    return DATASETS[name](
        size=size, split=split, count=count, seed=seed, root=root, cache_dir=cache_dir, progress=progress
    )


__all__ = ["DATASETS", "SIZES", "SPLITS", "ImageSet", "Licence", "open_dataset"]
