"""Fashion-MNIST from its four IDX files, gzipped or plain.

Debian's package dataset-fashion-mnist installs them in ``DEFAULT_ROOT``; any directory that holds them will do.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from smalti.errors import UsageError
from smalti_train.data.cache import build_cache, cache_key, default_directory
from smalti_train.data.dataset import ImageSet, Licence, check_size

DEFAULT_ROOT = Path("/usr/share/datasets/fashion-mnist")

LABEL_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

VALIDATION = 5000
"""Images of the validation split: the last ones of the training files, as the set has no such split."""

LICENCE = Licence(
    name="Fashion-MNIST",
    licence="MIT",
    url="https://github.com/zalandoresearch/fashion-mnist/blob/master/LICENSE",
    creator="Zalando SE",
    source="https://github.com/zalandoresearch/fashion-mnist",
    note="28 x 28 grey, repeated over three channels",
)

_SIDE = 28
_RECIPE = 1  # raise it when the pixels made from a given file change


def open_fashion_mnist(
    *,
    size: int,
    split: str,
    count: int | None = None,
    seed: int = 0,
    root: Path | None = None,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> ImageSet:
    """Open one split of Fashion-MNIST; see ``open_dataset``. ``seed`` is not used.

    Size 28 is the original; 32 adds two black pixels on each side; other sizes are resized (bicubic).

    Raises UsageError for a file that is missing (saying where to get it), damaged, or not what its name says.
    """
    check_size(size)
    root = DEFAULT_ROOT if root is None else Path(root)
    images, labels = load_split(root, split)
    images, labels = images[:count], labels[:count]
    recipe = {
        "recipe": _RECIPE,
        "size": size,
        "sha256": [hashlib.sha256(array.tobytes()).hexdigest() for array in (images, labels)],
    }
    cached = build_cache(
        cache_dir or default_directory(),
        cache_key(f"fashion-mnist-{split}-{size}", recipe),
        len(images),
        (size, size, 3),
        lambda index: (to_rgb(images[index], size), int(labels[index])),
        {"licence": asdict(LICENCE)},
        progress,
        title=f"fashion-mnist {split} at {size}",
    )
    return ImageSet(cached.images, cached.labels, LABEL_NAMES, (LICENCE,), "fashion-mnist", split, size)


def load_split(root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read a split from the files in ``root``: images uint8 [N, 28, 28], 0 black, and labels uint8 [N], 0 to 9."""
    prefix = "t10k" if split == "test" else "train"
    image_file, images = _read_idx(root, f"{prefix}-images-idx3-ubyte")
    label_file, labels = _read_idx(root, f"{prefix}-labels-idx1-ubyte")
    if images.shape[1:] != (_SIDE, _SIDE):
        raise UsageError(f"{image_file}: images are {images.shape[1:]}, expected ({_SIDE}, {_SIDE})")
    if len(images) != len(labels):
        raise UsageError(f"{label_file}: {len(labels)} labels for the {len(images)} images of {image_file.name}")
    if len(labels) and labels.max() >= len(LABEL_NAMES):
        raise UsageError(f"{label_file}: label {labels.max()}, expected 0 to {len(LABEL_NAMES) - 1}")
    if split == "test":
        return images, labels
    if len(images) <= VALIDATION:
        raise UsageError(f"{image_file}: {len(images)} images, expected more than the {VALIDATION} kept for validation")
    part = slice(-VALIDATION, None) if split == "validation" else slice(None, -VALIDATION)
    return images[part], labels[part]


def parse_idx(data: bytes, name: str) -> np.ndarray:
    """Parse an IDX file of unsigned bytes: uint8 of the shape in its header; ``name`` gives the number of axes.

    Header, big-endian: two zero bytes, the element type (8 is unsigned byte), the number of axes, then one uint32
    per axis. Raises UsageError when the header or the length is wrong.
    """
    axes = 3 if "idx3" in name else 1
    magic = bytes((0, 0, 8, axes))
    start = 4 + 4 * axes
    if data[:4] != magic:
        raise UsageError(
            f"{name}: starts with {data[:4].hex() or 'nothing'}, an IDX file of its kind with {magic.hex()}"
        )
    if len(data) < start:
        raise UsageError(f"{name}: ends within its header, after {len(data)} bytes")
    shape = tuple(int(length) for length in np.frombuffer(data, ">u4", axes, offset=4))
    if len(data) - start != math.prod(shape):
        raise UsageError(f"{name}: {len(data) - start} bytes of data, its header {shape} says {math.prod(shape)}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def to_rgb(grey: np.ndarray, size: int) -> np.ndarray:
    """Turn uint8 [28, 28] into uint8 [size, size, 3], as described at ``open_fashion_mnist``."""
    if size == _SIDE + 4:
        grey = np.pad(grey, 2)
    elif size != _SIDE:
        grey = np.asarray(Image.fromarray(grey).resize((size, size), Image.Resampling.BICUBIC))
    return np.repeat(grey[..., None], 3, axis=2)


def _read_idx(root: Path, name: str) -> tuple[Path, np.ndarray]:
    """Read ``root/name`` or ``root/name.gz``; return the path that exists and its content."""
    path = next((path for path in (root / name, root / f"{name}.gz") if path.is_file()), None)
    if path is None:
        raise UsageError(
            f"{root}: neither {name} nor {name}.gz there. Install Debian's package dataset-fashion-mnist, or give root "
            "a directory with the four files of https://github.com/zalandoresearch/fashion-mnist"
        )
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    return path, parse_idx(data, str(path))
