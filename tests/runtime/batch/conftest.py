"""What the tests of batches share: a fake bundle, planned batches, and runs of them in this process and in others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.batches import ONE
from helpers.fake_bundle import SlowBackend, write_fake_bundle
from helpers.house import HOUSE
from smalti.batch import job
from smalti.batch.asking import Asked, plan_description, plan_draw
from smalti.batch.loading import Loading

TESTS = HOUSE / "tests"


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bundle without graphs."""
    return write_fake_bundle(tmp_path_factory.mktemp("fake") / "bundle")


@pytest.fixture(scope="session")
def loading(fake: Path) -> Loading:
    return Loading(str(fake), backend=SlowBackend())


@pytest.fixture(scope="session")
def planned(fake: Path) -> Callable[..., Path]:
    """Plan a batch in a folder; 60 pictures in files of 7 where nothing else is said."""

    def planned(folder: Path, *, options: dict[str, Any] | None = None, **fields: Any) -> Path:
        fields = {"rows": 60, "seed": 5, "rows_per_file": 7, **fields}
        resume = bool(fields.pop("resume", False))
        plan_draw(Asked(folder, resume, str(fake), fields, options=options or {"steps": 2}))
        return folder

    return planned


@pytest.fixture(scope="session")
def alone(planned: Callable[..., Path], loading: Loading, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planned batch, drawn by one process that nobody disturbed."""
    folder = planned(tmp_path_factory.mktemp("alone") / "batch")
    job.run(folder, loading, ONE)
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 pictures of two sizes in two folders, one of them cut off."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(200):
        file = folder / ("a" if index % 2 else "b") / f"{index:03}.png"
        file.parent.mkdir(exist_ok=True)
        side = 8 if index % 3 else 16
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (side, 8, 3), np.uint8)).save(file)
    broken = folder / "a/137.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (folder / "notes.txt").write_text("no picture", "utf-8")
    return folder


@pytest.fixture(scope="session")
def embedded(
    fake: Path, pictures: Path, loading: Loading, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, job.Report]:
    """The pictures, embedded by one process, and its report."""
    folder = tmp_path_factory.mktemp("embedded") / "batch"
    plan_description(Asked(folder, bundle=str(fake), fields={"rows_per_file": 30}, source=pictures), "embed")
    return folder, job.run(folder, loading, ONE)


Driver = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def driver(fake: Path) -> Iterator[Driver]:
    """Run a planned batch in a process of its own: folder, seconds of each call, address, actors."""
    started: list[subprocess.Popen[str]] = []

    def driver(
        folder: Path, seconds: float = 0.0, address: str = "-", actors: int = 2, more: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(TESTS), **(more or {})}
        script = TESTS / "helpers/batch_driver.py"
        line = [sys.executable, str(script), str(folder), str(fake), str(seconds), address, str(actors)]
        process = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=environment
        )
        started.append(process)
        return process

    yield driver
    for process in started:
        process.kill()
        process.communicate(timeout=30)
