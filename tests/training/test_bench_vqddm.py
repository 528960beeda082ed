"""``bench/papers/vqddm.py``, too small to say anything: commands run, skip what is done, rows become tables."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

BENCH = Path(__file__).parents[2] / "bench/papers"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCH))
    yield importlib.import_module("vqddm")
    sys.path.remove(str(BENCH))


@pytest.fixture(scope="module")
def done(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where every command but the report has run."""
    root = tmp_path_factory.mktemp("vqddm")
    for name in script.COMMANDS:
        if name != "report":
            call(script, root, name)
    return root


def call(script: ModuleType, root: Path, *arguments: str) -> None:
    folders = {"work": "work", "results": "results/vqddm", "earlier": "earlier"}
    options = [word for name, path in folders.items() for word in (f"--{name}", str(root / path))]
    script.main(["--tiny", *options, *arguments])


def rows(root: Path, name: str) -> list[dict]:
    return json.loads((root / f"results/vqddm/{name}.json").read_text())


def test_every_command_leaves_its_rows(done: Path) -> None:
    settings = [tuple(row["setting"].values()) for row in rows(done, "refit")]
    assert settings == [
        (autoencoder, codebook, codes, decoder)
        for autoencoder in ("vqgan", "edge")
        for codebook, codes in (("starved", 64), ("rebuilt", 64), ("rebuilt", 32))
        for decoder in ("as trained", "trained further")
    ]
    for figures in (rows(done, "refit")[:6], rows(done, "refit")[6:]):
        used = [row["codes_used_percent"] for row in figures]
        assert used[0] == used[1] <= 100 * 20 / 64
        assert used[2] == used[3] > 2 * used[0]
        assert used[4] == used[5] > 2 * used[0]
        assert figures[2]["psnr_db"] != figures[3]["psnr_db"]
    assert [row["setting"]["steps"] for row in rows(done, "steps")] == [1, 2, 3]
    assert all(row["bits_per_token"] > 0 for row in rows(done, "steps"))
    pairs = {(row["setting"]["given"], row["setting"]["family"]) for row in rows(done, "completion")}
    assert len(pairs) == 6
    assert all(row["images"] == 8 for row in rows(done, "completion"))
    costs = {row["setting"]["prior"]: row for row in rows(done, "costs")}
    published = costs["multinomial U-Net, published"]
    assert published["parameters_millions"] == pytest.approx(117.6, abs=0.1)
    assert published["gflop_per_call"] == pytest.approx(2.2, abs=0.3)
    assert costs["absorbing transformer, published"]["gflop_per_call"] == pytest.approx(42.1, rel=0.1)
    assert all(costs[name]["seconds_per_image"] > 0 for name in ("multinomial U-Net", "SUNDAE hourglass"))
    for name in ("refit-vqgan", "refit-edge", "steps", "completion-upper", "completion-lower"):
        with Image.open(done / f"results/vqddm/{name}.webp") as sheet:
            assert sheet.width > 50


def test_what_is_done_is_not_done_again(script: ModuleType, done: Path) -> None:
    checkpoints = {path: path.stat().st_mtime_ns for path in done.glob("*/*/checkpoint-*")}
    before = {path: path.read_bytes() for path in done.glob("results/*/*.json")}
    assert checkpoints
    call(script, done, "refit")
    call(script, done, "steps")
    assert {path: path.stat().st_mtime_ns for path in done.glob("*/*/checkpoint-*")} == checkpoints
    assert {path: path.read_bytes() for path in done.glob("results/*/*.json")} == before


def test_rows_become_tables_and_plots(script: ModuleType, done: Path) -> None:
    pytest.importorskip("matplotlib")
    call(script, done, "report")
    text = (done / "results/vqddm/tables.md").read_text()
    for name in set(script.COMMANDS) - {"report"}:
        assert f"python bench/papers/vqddm.py {name}\n" in text
    assert "](vqddm/refit-edge.webp)" in text
    assert {path.stem for path in done.glob("results/vqddm/*.svg")} == {"refit", "steps"}
