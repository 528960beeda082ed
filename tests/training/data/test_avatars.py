from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from smalti.errors import MissingExtra, UsageError

pytest.importorskip("dicebear")
pytest.importorskip("pyvips")

from smalti_train.data import open_dataset
from smalti_train.data.avatars import STYLES, render, seed_string


def test_the_same_seed_gives_the_same_bytes_and_a_prefix(tmp_path: Path) -> None:
    small = open_dataset("avatars", size=32, split="train", count=16, cache_dir=tmp_path, progress=False)
    large = open_dataset("avatars", size=32, split="train", count=24, cache_dir=tmp_path, progress=False)
    assert large.images.shape == (24, 32, 32, 3)
    assert large.images.dtype == np.uint8
    assert small.images.tobytes() == large.images[:16].tobytes()
    assert large.labels.tolist() == [index % 8 for index in range(24)]
    np.testing.assert_array_equal(large.images[13], render("sprouts", seed_string("train", 13), 32))
    assert (large.name, large.split, large.size, len(large), large.skipped) == ("avatars", "train", 32, 24, ())


def test_splits_and_seeds_differ(tmp_path: Path) -> None:
    strings = {seed_string(split, i, seed) for split in ("train", "test") for i in range(50) for seed in (0, 1, 11)}
    assert len(strings) == 300
    sets = [
        open_dataset("avatars", size=32, split=split, count=16, seed=seed, cache_dir=tmp_path, progress=False)
        for split, seed in (("train", 0), ("validation", 0), ("test", 0), ("train", 1))
    ]
    assert len({image.tobytes() for images in sets for image in images.images}) == 64


def test_licences_come_from_the_styles(tmp_path: Path) -> None:
    opened = open_dataset("avatars", size=16, split="test", count=8, cache_dir=tmp_path, progress=False)
    assert opened.label_names == STYLES == tuple(licence.name for licence in opened.licences)
    for licence in opened.licences:
        assert licence.licence == "CC0 1.0"
        assert licence.url.startswith("https://creativecommons.org/publicdomain/zero/")
        assert licence.creator
        assert licence.source


def corners(style: str, count: int) -> set[tuple[int, ...]]:
    return {tuple(render(style, f"corner-{i}", 16)[0, 0].tolist()) for i in range(count)}


def test_backgrounds_vary_and_are_never_left_transparent() -> None:
    for style in ("lorelei", "pixel-art"):
        colours = corners(style, 12)
        assert len(colours) > 4
        assert (255, 255, 255) not in colours
    brightness = [min(colour) for colour in corners("critters", 24)]
    assert min(brightness) < 60  # its own saturated palette
    assert max(brightness) > 190  # the pastels


@pytest.mark.parametrize(
    ("style", "size", "message"),
    [("micah", 64, "lorelei, notionists"), ("lorelei", 8, "16 to"), ("lorelei", 1 << 14, "16 to")],
)
def test_unknown_styles_and_sizes(style: str, size: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        render(style, "a", size)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyvips", None)
    with pytest.raises(MissingExtra, match=r'pip install .*\[train\]"'):
        open_dataset("avatars", size=32, split="train", cache_dir=tmp_path)
