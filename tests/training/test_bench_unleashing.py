"""``bench/papers/unleashing.py``, too small to say anything: commands run, skip what is done, rows become tables."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

BENCH = Path(__file__).parents[2] / "bench/papers"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCH))
    yield importlib.import_module("unleashing")
    sys.path.remove(str(BENCH))


@pytest.fixture(scope="module")
def done(script: ModuleType, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every command but the report has run; its bundle was exported before."""
    root = tmp_path_factory.mktemp("unleashing")
    shutil.copytree(tiny_bundle, root / "work/bundle")
    for name in script.COMMANDS:
        if name != "report":
            call(script, root, name)
    return root


def call(script: ModuleType, root: Path, *arguments: str) -> None:
    script.main(["--tiny", "--work", str(root / "work"), "--results", str(root / "results"), *arguments])


def rows(root: Path, name: str) -> list[dict]:
    return json.loads((root / f"results/{name}.json").read_text())


def test_every_command_leaves_its_rows(done: Path) -> None:
    assert [row["setting"]["variant"] for row in rows(done, "table5")] == [
        "warm start",
        "default",
        "lambda_max = 1",
        "DiffAug",
        "both",
    ]
    assert all(0 < row["codes_used_percent"] <= 100 for row in rows(done, "table5"))
    assert all([step for step, _ in row["curve"]] == [1, 2] for row in rows(done, "figure5"))
    assert {row["setting"]["family"] for row in rows(done, "table4")} == {"absorbing", "autoregressive"}
    assert [row["setting"]["steps"] for row in rows(done, "table3")] == [3, 16]
    full = next(row for row in rows(done, "table4") if row["setting"]["family"] == "absorbing")
    assert rows(done, "table3")[1]["fid_style"] == rows(done, "table1")[1]["fid_style"] == full["fid_style"]
    (bits,) = rows(done, "bits")
    assert bits["bits_per_dim"] == pytest.approx(bits["bits_per_dim_of_pixels"] + bits["bits_per_dim_of_tokens"])
    with Image.open(done / "results/figure4-192x64.webp") as sheet:
        assert sheet.width > 2 * 192
    for name in ("table5", "table4", "table3", "table1", "inpainting"):
        assert (done / f"results/{name}.webp").stat().st_size < 100_000


def test_what_is_done_is_not_done_again(script: ModuleType, done: Path) -> None:
    checkpoints = {path: path.stat().st_mtime_ns for path in done.glob("work/*/checkpoint-*")}
    before = {path: path.read_bytes() for path in done.glob("results/*.json")}
    assert len(before) == 9
    call(script, done, "table5")
    call(script, done, "table1")
    assert {path: path.stat().st_mtime_ns for path in done.glob("work/*/checkpoint-*")} == checkpoints
    assert {path: path.read_bytes() for path in done.glob("results/*.json")} == before


def test_rows_become_tables_and_plots(script: ModuleType, done: Path) -> None:
    text = script.tables.report(script.Bench(script.TINY, done / "work", done / "results")).read_text()
    for name in set(script.COMMANDS) - {"report"}:
        assert f"python bench/papers/unleashing.py {name}\n" in text
    assert "FID-style (EffNet-Lite0)" in text
    pytest.importorskip("matplotlib")
    call(script, done, "report")
    plots = {path.name: path.read_bytes() for path in done.glob("results/*.svg")}
    assert set(plots) == {"figure5.svg", "table1.svg", "table3.svg", "table4.svg", "table5.svg"}
    call(script, done, "report")
    assert {path.name: path.read_bytes() for path in done.glob("results/*.svg")} == plots


def test_a_codebook_is_fitted_to_what_the_encoder_makes(script: ModuleType, done: Path) -> None:
    run = done / "work/warm-1"
    model, config = script.autoencoders.load_autoencoder(run)
    images = script.autoencoders.open_split(config.data, "train").images
    fitted = type(model)(config.model)
    fitted.load_state_dict(script.autoencoders.refitted(run, images))

    @torch.no_grad()
    def error(which: torch.nn.Module) -> tuple[float, int]:
        pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255
        features = which.features(pixels)
        ids = which.quantize.nearest(features)
        return (which.quantize.lookup(ids) - features).square().mean().item(), len(ids.unique())

    (before, used), (after, used_after) = error(model), error(fitted.eval())
    assert after < 0.5 * before
    assert used_after > max(used, 32)
