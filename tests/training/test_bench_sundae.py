"""``bench/papers/sundae.py``, too small to say anything: commands run, skip what is done, rows become tables."""

from __future__ import annotations

import importlib
import json
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

BENCH = Path(__file__).parents[2] / "bench/papers"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCH))
    yield importlib.import_module("sundae")
    sys.path.remove(str(BENCH))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files such as Fashion-MNIST's: noise, darker or lighter by the label."""
    folder, generator = tmp_path_factory.mktemp("fashion-mnist"), np.random.default_rng(0)
    for prefix, count in (("train", 5040), ("t10k", 20)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = (generator.integers(0, 20, (count, 28, 28)) + 20 * labels[:, None, None]).astype(np.uint8)
        for name, array in (("images", images), ("labels", labels)):
            header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{prefix}-{name}-idx{array.ndim}-ubyte").write_bytes(header + array.tobytes())
    return folder


@pytest.fixture(scope="module")
def done(
    script: ModuleType, pictures: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A folder where every command but the report has run (the avatars' bundle was exported before), and the data."""
    root = tmp_path_factory.mktemp("sundae")
    shutil.copytree(tiny_bundle, root / "work/bundle-avatars")
    for name in script.COMMANDS:
        if name != "report":
            call(script, root, pictures, name)
    return root, pictures


def call(script: ModuleType, root: Path, pictures: Path, *arguments: str) -> None:
    folders = {"work": "work", "results": "results/sundae", "earlier": "earlier"}
    options = [word for name, path in folders.items() for word in (f"--{name}", str(root / path))]
    script.main(["--tiny", *options, "--fashion-mnist", str(pictures), *arguments])


def rows(root: Path, name: str) -> list[dict]:
    return json.loads((root / f"results/sundae/{name}.json").read_text())


def test_every_command_leaves_its_rows(done: tuple[Path, Path]) -> None:
    root, _ = done
    for row in rows(root, "fashion"):
        assert row["samples"] == 10
        assert 0 <= row["label_agreement"] <= 1
        assert len(row["by_label"]) == 10
    assert len(rows(root, "fashion")) == 4
    variants = [row["setting"]["variant"] for row in rows(root, "resampling")]
    assert variants == ["2x2, 2D rotary", "raster, 2D rotary", "2x2, 1D rotary", "raster, 1D rotary"]
    assert all([step for step, _ in row["curve"]] == [1, 2] for row in rows(root, "resampling"))
    assert len({row["bits_per_token"] for row in rows(root, "resampling")}) > 2  # after two steps
    two, three = rows(root, "unrolls")
    assert two["bits_per_token"] == rows(root, "resampling")[0]["bits_per_token"]
    assert three["setting"]["variant"] == "T = 3"
    assert [row["setting"]["steps"] for row in rows(root, "steps")] == [2, 3]
    assert [row["setting"]["last"] for row in rows(root, "temperature")] == [0.7, 1.0]
    assert rows(root, "steps")[1]["fid_style"] == rows(root, "temperature")[0]["fid_style"]
    families = [row["setting"]["family"] for row in rows(root, "versus")]
    assert families == ["SUNDAE, 1 to 0.7", "absorbing, 1", "absorbing, 0.8"]
    assert [row["setting"]["last"] for row in rows(root, "freezing")] == [0.7, 0.3]
    for cost in rows(root, "freezing"):
        assert cost["all"]["calls"] == 24
        assert cost["all"]["network_grids"] == 24 * 8
        assert cost["frozen"]["network_grids"] == sum(cost["curve"]) <= cost["all"]["network_grids"]
    assert all(row["kept_exactly"] for row in rows(root, "inpainting"))
    for name in ("fashion", "temperature", "steps", "versus", "inpainting-avatars", "inpainting-fashion"):
        with Image.open(root / f"results/sundae/{name}.webp") as sheet:
            assert sheet.width > 50
    assert not (root / "results/unleashing/samples.json").exists()  # what was drawn here is told here


def test_what_is_done_is_not_done_again(script: ModuleType, done: tuple[Path, Path]) -> None:
    root, pictures = done
    checkpoints = {path: path.stat().st_mtime_ns for path in root.glob("*/*/checkpoint-*")}
    before = {path: path.read_bytes() for path in root.glob("results/*/*.json")}
    assert checkpoints
    call(script, root, pictures, "steps")
    call(script, root, pictures, "unrolls")
    assert {path: path.stat().st_mtime_ns for path in root.glob("*/*/checkpoint-*")} == checkpoints
    assert {path: path.read_bytes() for path in root.glob("results/*/*.json")} == before


def test_rows_become_tables_and_plots(script: ModuleType, done: tuple[Path, Path]) -> None:
    root, pictures = done
    pytest.importorskip("matplotlib")
    call(script, root, pictures, "report")
    text = (root / "results/sundae/tables.md").read_text()
    for name in set(script.COMMANDS) - {"report"}:
        assert f"python bench/papers/sundae.py {name}\n" in text
    assert "](sundae/fashion.webp)" in text
    plots = {path.stem for path in root.glob("results/sundae/*.svg")}
    assert plots == {"resampling", "unrolls", "steps", "versus", "freezing"}
