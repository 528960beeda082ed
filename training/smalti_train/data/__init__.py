"""Image data for training: opened by name, built once, memory-mapped read-only, with licences."""

from __future__ import annotations

from pathlib import Path

from smalti.errors import UsageError
from smalti.system.platform import at_home
from smalti_train.data.avatars import open_avatars
from smalti_train.data.dataset import SIZES, SPLITS, ImageSet, Licence
from smalti_train.data.fashion_mnist import open_fashion_mnist
from smalti_train.data.folder import open_folder

DATASETS = {"avatars": open_avatars, "folder": open_folder, "fashion-mnist": open_fashion_mnist}
"""Functions that open the datasets, by name; they take the arguments of ``open_dataset`` except ``name``."""


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
    within ``SIZES``. ``count`` is the number of images: exact for avatars (default 24000, 1024 and 2048 for train,
    validation and test), an upper limit for the others (default all). Fewer images are a prefix of more. ``seed``
    selects other avatars; the other datasets do not use it. ``root`` is the folder of the files: required for folder,
    optional for fashion-mnist, unset for avatars. ``cache_dir`` is the folder of the caches (default
    ``$SMALTI_CACHE_DIR/datasets``, or the user's own cache directory); ``progress`` shows progress on stderr.

    Returns images uint8 [N, size, size, 3] and labels int32 [N]; see ``ImageSet``.

    Raises UsageError for an unknown name, split or size (saying what is allowed), MissingExtra when the dataset's
    packages are not installed, OutputError when the cache cannot be written.
    """
    if name not in DATASETS:
        raise UsageError(f"dataset {name!r}: allowed are {', '.join(DATASETS)}")
    if split not in SPLITS:
        raise UsageError(f"split {split!r}: allowed are {', '.join(SPLITS)}")
    if count is not None and count < 1:
        raise UsageError(f"count {count}: at least 1 image")
    root, cache_dir = (None if path is None else at_home(Path(path)) for path in (root, cache_dir))
    return DATASETS[name](
        size=size, split=split, count=count, seed=seed, root=root, cache_dir=cache_dir, progress=progress
    )


__all__ = ["DATASETS", "SIZES", "SPLITS", "ImageSet", "Licence", "open_dataset"]
