from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from smalti.errors import UsageError
from smalti_train.data import SPLITS, ImageSet, open_dataset
from smalti_train.data.folder import find_images, read_square, split_files


def save(path: Path, colour: tuple[int, ...], shape: tuple[int, int] = (40, 30), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, shape, colour).save(path)
    return path


def open_folder(root: Path, cache: Path, split: str = "train", **more: int) -> ImageSet:
    return open_dataset("folder", size=16, split=split, root=root, cache_dir=cache, progress=False, **more)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Thirty red dogs and thirty blue cats, one of them two folders down."""
    for i in range(30):
        save(tmp_path / "root" / "dog" / f"{i}.png", (250, 0, 0))
        save(tmp_path / "root" / "cat" / ("deep" if i == 0 else ".") / f"{i}.PNG", (0, 0, 250))
    return tmp_path / "root"


def test_labels_are_the_first_level_folders(labelled: Path, tmp_path: Path) -> None:
    sets = [open_folder(labelled, tmp_path / "cache", split) for split in SPLITS]
    assert sum(map(len, sets)) == 60
    for opened in sets:
        assert opened.label_names == ("cat", "dog")
        assert opened.licences[0].licence == "unknown"
        reds = opened.images[:, 8, 8, 0] > 200
        np.testing.assert_array_equal(reds, opened.labels == 1)
    assert set(sets[0].labels.tolist()) == {0, 1}


def test_count_is_a_prefix_and_a_changed_file_makes_a_new_cache(labelled: Path, tmp_path: Path) -> None:
    whole = open_folder(labelled, tmp_path / "cache")
    part = open_folder(labelled, tmp_path / "cache", count=5)
    assert part.images.tobytes() == whole.images[:5].tobytes()
    for i in range(30):
        save(labelled / "dog" / f"{i}.png", (0, 250, 0), (50, 60))
    again = open_folder(labelled, tmp_path / "cache")
    assert (again.images[again.labels == 1][:, 8, 8, 1] > 200).all()


def test_an_unreadable_file_is_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for i in range(12):
        save(tmp_path / "root" / f"{i}.png", (i, i, i))
    files = split_files(find_images(tmp_path / "root")[0])["train"]
    whole = (tmp_path / "root" / files[1]).read_bytes()
    (tmp_path / "root" / files[1]).write_bytes(b"not an image")
    (tmp_path / "root" / files[2]).write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING):
        opened = open_folder(tmp_path / "root", tmp_path / "cache")
    assert opened.skipped == (files[1], files[2])
    assert opened.label_names == ("all",)
    assert len(opened) == len(files) - 2
    assert opened.images[:, 0, 0, 0].tolist() == [int(Path(f).stem) for f in files if f not in opened.skipped]
    assert all(name in caplog.text for name in opened.skipped)
    assert open_folder(tmp_path / "root", tmp_path / "cache").skipped == opened.skipped


@given(st.sets(st.text("abc/.", min_size=1), max_size=40).map(sorted))
def test_splits_are_a_partition(files: list[str]) -> None:
    splits = split_files(files)
    assert sorted(file for split in splits.values() for file in split) == files
    assert splits == split_files(files[::-1])
    if len(files) >= 3:
        assert all(splits.values())


def test_split_shares() -> None:
    splits = split_files([f"{i}.png" for i in range(4000)])
    assert 3500 < len(splits["train"]) < 3700
    assert 140 < len(splits["validation"]) < 260


def test_pictures_are_turned_flattened_and_cropped(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = (0, 200, 0)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (read_square(tmp_path / "wide.png", 16)[:, 4:12] == (0, 200, 0)).all()

    clear = save(tmp_path / "clear.png", (0, 0, 0, 0), mode="RGBA")
    assert (read_square(clear, 16) == 255).all()

    halves = Image.new("RGB", (32, 32), "white")
    halves.paste("black", (0, 0, 32, 16))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    halves.save(tmp_path / "turned.png", exif=exif)
    turned = read_square(tmp_path / "turned.png", 32)
    assert turned[4, 16, 0] == 255
    assert turned[28, 16, 0] == 0

    deep = np.full((20, 20), 128 * 256, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert (read_square(tmp_path / "deep.png", 16) == 128).all()


def test_errors_say_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        open_folder(tmp_path / "nowhere", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no images there; files ending in .*\.png"):
        open_folder(tmp_path / "empty", tmp_path)
    save(tmp_path / "one" / "a.png", (1, 2, 3))
    assert len(open_folder(tmp_path / "one", tmp_path / "cache")) == 1
    with pytest.raises(UsageError, match="leave none for test; 3 are enough"):
        open_folder(tmp_path / "one", tmp_path / "cache", "test")
    with pytest.raises(UsageError, match="16 to"):
        open_dataset("folder", size=8, split="train", root=tmp_path / "one")
    with pytest.raises(UsageError, match="needs root"):
        open_dataset("folder", size=16, split="train")
