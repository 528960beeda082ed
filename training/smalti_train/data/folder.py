"""A user's own images: one label per first-level sub-folder, any file size, cut to squares.

A hash of a file's path below the root decides its split, so adding files does not move the others (except in tiny
folders, where a split would be empty).
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import asdict
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from smalti.codec.opening import reading
from smalti.codec.pictures import read, tell
from smalti.errors import UsageError
from smalti_train.data.cache import build_cache, cache_key, default_directory, thread_count
from smalti_train.data.dataset import SPLITS, ImageSet, Licence, check_size

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Suffixes of image files, in lower or upper case; of an animation the first frame is used."""

SHARES = {"train": 0.90, "validation": 0.05, "test": 0.05}

_RECIPE = 2  # raise it when the pixels made from a given file change
_log = logging.getLogger(__name__)


def open_folder(
    *,
    size: int,
    split: str,
    count: int | None = None,
    seed: int = 0,
    root: Path | None = None,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> ImageSet:
    """Open one split of the images under ``root``; see ``open_dataset``.

    Labels are the sorted names of the sub-folders that hold images (at any depth); images directly in a root without
    such sub-folders get the one label ``all``. Within a split images are in the order of their hashes, arbitrary but
    fixed, so that the first ``count`` images are a fair sample. ``seed`` is not used.

    A file that cannot be read is logged as a warning, left out, and named in ``ImageSet.skipped``.

    Raises UsageError when the folder is missing, holds no images, or too few for the split.
    """
    check_size(size)
    if root is None:
        raise UsageError("a folder dataset needs root, the folder that holds the images")
    root = Path(root).resolve()
    files, label_names = find_images(root)
    wanted = split_files(files)[split][:count]
    if not wanted:
        raise UsageError(f"{root}: {len(files)} images leave none for {split}; 3 are enough for one in each split")
    recipe = {
        "recipe": _RECIPE,
        "root": str(root),
        "size": size,
        "labels": label_names,
        "files": [(file, *_size_and_time(root / file)) for file in wanted],
    }
    notes: list[tuple[str, ...]] = []
    label_of = {name: index for index, name in enumerate(label_names)}

    def item(index: int) -> tuple[np.ndarray, int] | None:
        file = wanted[index]
        try:
            pixels, own = read_noted(root / file, size)
        except (OSError, UsageError) as error:
            _log.warning("skipped %s: %s", root / file, error)
            return None
        notes.append(own)
        return pixels, label_of.get(PurePosixPath(file).parts[0], 0)

    licence = Licence(root.name, "unknown", "", "unknown", root.name, "a folder of the user's; its terms are not known")
    cached = build_cache(
        cache_dir or default_directory(),
        cache_key(f"folder-{split}-{size}", recipe),
        len(wanted),
        (size, size, 3),
        item,
        {"licence": asdict(licence)},
        progress,
        title=f"folder {root.name} {split} at {size}",
        workers=thread_count(),
    )
    tell(notes)
    skipped = tuple(wanted[index] for index in cached.skipped)
    return ImageSet(cached.images, cached.labels, label_names, (licence,), "folder", split, size, skipped)


def find_images(root: Path) -> tuple[list[str], tuple[str, ...]]:
    """Return the images under ``root``, as sorted POSIX paths relative to it, and the label names.

    Hidden files and folders are skipped, links are followed; one that leads back to a folder it is in is left out.
    Raises UsageError when there is no such folder or no image in it.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder; root is the folder that holds the images or one folder per label")
    files: list[str] = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".") and not _leads_back(root, folder, name)]
        inside = Path(folder).relative_to(root)
        files += [
            (inside / name).as_posix() for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    labelled = sorted(file for file in files if "/" in file)
    if not files:
        raise UsageError(f"{root}: no images there; files ending in {', '.join(SUFFIXES)} are read")
    if not labelled:
        return sorted(files), ("all",)
    if len(labelled) < len(files):
        _log.warning("%s: left out %d images beside the labelled folders", root, len(files) - len(labelled))
    return labelled, tuple(sorted({PurePosixPath(file).parts[0] for file in labelled}))


def _leads_back(root: Path, folder: str, name: str) -> bool:
    """Whether a folder below ``root`` is a link to a folder that it is itself in, by whatever links on the way."""
    path = Path(folder, name)
    if not path.is_symlink():
        return False
    target = path.resolve()
    above = (Path(folder), *(each for each in Path(folder).parents if each.is_relative_to(root)))
    if not any(each.resolve().is_relative_to(target) for each in above):
        return False
    _log.warning("%s: left out, as it leads back to %s", path, target)
    return True


def split_files(files: list[str]) -> dict[str, list[str]]:
    """Divide relative paths into splits by ``SHARES``, each in the order of its hashes.

    Each path is in exactly one split. With 3 files or more no split is empty: an empty one takes the last file of the
    largest. Fewer than 3 files are all for training.
    """
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    ordered = sorted((hashlib.sha256(file.encode("utf-8", "surrogateescape")).digest(), file) for file in files)
    for digest, file in ordered:
        place = int.from_bytes(digest[:8], "big") / 2**64
        if place < SHARES["train"] or len(files) < len(SPLITS):
            splits["train"].append(file)
        else:
            splits["validation" if place < SHARES["train"] + SHARES["validation"] else "test"].append(file)
    for split in SPLITS if len(files) >= len(SPLITS) else ():
        if not splits[split]:
            splits[split].append(max(splits.values(), key=len).pop())
    return splits


def read_square(path: Path, size: int) -> np.ndarray:
    """Read an image file as the runtime does (:mod:`smalti.codec.pictures`), uint8 [size, size, 3]: its centre square.

    Raises Pillow's error, or UsageError, for a file that cannot be read.
    """
    return read_noted(path, size)[0]


def read_noted(path: Path, size: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read as :func:`read_square` does, and return what the user should know of the picture too."""
    with reading("the file"):
        file = Image.open(path)
    with file:
        found = read(file)
    square = ImageOps.fit(Image.fromarray(found.pixels), (size, size), Image.Resampling.LANCZOS)
    return np.asarray(square), found.notes


def _size_and_time(path: Path) -> tuple[int, int]:
    """Return a file's size and time of change; zeros for a missing file, which reading will report."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns
