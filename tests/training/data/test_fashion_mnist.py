from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from smalti.errors import UsageError
from smalti_train.data import open_dataset
from smalti_train.data.fashion_mnist import LABEL_NAMES, parse_idx, to_rgb

TRAIN = 5010


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": rng.integers(0, 256, (TRAIN, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": rng.integers(0, 10, TRAIN, dtype=np.uint8),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (6, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(6, dtype=np.uint8),
    }


@pytest.fixture
def root(tmp_path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """The training files plain, the test files gzipped."""
    for name, array in arrays.items():
        if name.startswith("train"):
            (tmp_path / name).write_bytes(idx(array))
        else:
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    return tmp_path


def open_it(root: Path, split: str, size: int = 28, **more: int):
    return open_dataset(
        "fashion-mnist", size=size, split=split, root=root, cache_dir=root / "cache", progress=False, **more
    )


def test_splits(root: Path, arrays: dict[str, np.ndarray]) -> None:
    train, validation, test = (open_it(root, split) for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (TRAIN - 5000, 5000, 6)
    pixels = np.concatenate([train.images, validation.images])
    assert all((pixels[..., channel] == arrays["train-images-idx3-ubyte"]).all() for channel in range(3))
    labels = np.concatenate([train.labels, validation.labels])
    np.testing.assert_array_equal(labels, arrays["train-labels-idx1-ubyte"])
    assert test.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert test.label_names == LABEL_NAMES
    assert test.licences[0].licence == "MIT"
    assert len(open_it(root, "test", count=2)) == 2


def test_sizes(root: Path, arrays: dict[str, np.ndarray]) -> None:
    padded = open_it(root, "test", 32).images[..., 0]
    np.testing.assert_array_equal(padded[:, 2:-2, 2:-2], arrays["t10k-images-idx3-ubyte"])
    assert int(padded.sum(dtype=np.int64)) == int(arrays["t10k-images-idx3-ubyte"].sum(dtype=np.int64))
    assert to_rgb(np.full((28, 28), 9, np.uint8), 64).tolist() == np.full((64, 64, 3), 9).tolist()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "starts with nothing"),
        (b"\x89PNG\r\n\x1a\n", "00000801"),
        (b"\0\0\x08\x03" + bytes(12), "00000801"),
        (b"\0\0\x08\x01\0", "ends within its header"),
        (b"\0\0\x08\x01\0\0\0\x05abc", "3 bytes of data"),
        (b"\0\0\x08\x01\0\0\0\x02abc", "says 2"),
    ],
)
def test_damaged_idx(data: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_idx(data, "train-labels-idx1-ubyte")


def test_damaged_files(root: Path) -> None:
    packed = root / "t10k-images-idx3-ubyte.gz"
    packed.write_bytes(packed.read_bytes()[:500])
    with pytest.raises(UsageError, match="cannot be read"):
        open_it(root, "test")
    packed.write_bytes(gzip.compress(idx(np.zeros((5, 28, 28), np.uint8))))
    with pytest.raises(UsageError, match="6 labels for the 5 images"):
        open_it(root, "test")
    packed.write_bytes(gzip.compress(idx(np.zeros((6, 28, 27), np.uint8))))
    with pytest.raises(UsageError, match="expected"):
        open_it(root, "test")
    packed.unlink()
    with pytest.raises(UsageError, match="dataset-fashion-mnist"):
        open_it(root, "test")
