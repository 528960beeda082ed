from __future__ import annotations

from pathlib import Path

import pytest

from smalti.errors import UsageError
from smalti_train.data import open_dataset


@pytest.mark.parametrize(
    ("name", "split", "size", "count", "message"),
    [
        ("cifar", "train", 32, None, "allowed are avatars, folder, fashion-mnist"),
        ("avatars", "dev", 32, None, "allowed are train, validation, test"),
        ("avatars", "train", 8, None, "allowed are 16 to"),
        ("avatars", "train", 32, 0, "at least 1"),
    ],
)
def test_what_is_not_allowed_says_what_is(
    tmp_path: Path, name: str, split: str, size: int, count: int | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        open_dataset(name, size=size, split=split, count=count, cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_avatars_have_no_root(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave root unset"):
        open_dataset("avatars", size=32, split="train", root=tmp_path, cache_dir=tmp_path)
