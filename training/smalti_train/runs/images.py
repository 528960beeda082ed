"""Which images a run learns from, wherever they lie: a digest of what they show, kept beside the configuration.

    RUN/images.json               the digest of the training images and of those it is measured on

The folder of the images may move, to another disk or another machine; a run then continues where they are now.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from smalti.errors import UsageError
from smalti.system.files import replace_file
from smalti_train.data import ImageSet
from smalti_train.data.config import DataConfig, open_split

KEPT = "images.json"
SHOWN = 64
"""Images of a split whose pixels enter the digest, evenly spaced; of the others the labels do."""
SPLITS = ("train", "validation")


def digests(data: DataConfig) -> dict[str, str]:
    """The sha256 of each split's labels and pixels, the same at every root. Builds the cache of the images first.

    Raises UsageError for images that cannot be opened.
    """
    return {split: digest(open_split(data, split)) for split in SPLITS}


def digest(images: ImageSet) -> str:
    """The sha256 of the labels and of some pixels of one split."""
    made = hashlib.sha256(json.dumps([images.label_names, images.images.shape]).encode())
    made.update(images.labels.tobytes())
    for index in np.unique(np.linspace(0, len(images) - 1, SHOWN).astype(np.int64)):
        made.update(images.images[index].tobytes())
    return made.hexdigest()


def keep_digests(run: Path, data: DataConfig) -> None:
    """Write the digests of a run's images, where these lie in a folder that may move. Raises OSError."""
    if data.root is not None:
        replace_file(run / KEPT, json.dumps(digests(data), indent=2).encode() + b"\n")


def check_moved(run: Path, before: DataConfig, now: DataConfig) -> bool:
    """Whether the images of ``before`` are those of ``now``, which lie in another folder and are the same otherwise.

    False where that cannot be told: the run is older than its digests, or more differs than the folder. Raises
    UsageError for other images.
    """
    if before.root is None or now.root is None or before.root == now.root:
        return False
    try:
        kept = json.loads((run / KEPT).read_bytes())
    except (OSError, ValueError):
        return False
    if kept != digests(now):
        raise UsageError(
            f"{run} learns from the images that were in {before.root}, and those in {now.root} are others. Name the "
            "folder that they are in now, or another --run for other images"
        )
    return True
