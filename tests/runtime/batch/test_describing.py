"""Pictures that are embedded or encoded: what cannot be read is named, and the rest is done."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import smalti
from helpers.batches import ONE, files
from helpers.fake_bundle import SlowBackend
from smalti.batch import job
from smalti.batch.asking import Asked, plan_description
from smalti.batch.formats.parquet import Parquet
from smalti.errors import UsageError


def rows_of(folder: Path) -> list:
    return [row for path in sorted(folder.glob("part-*")) for row in Parquet().rows(path)]


def test_one_corrupt_picture_among_200_is_named_and_the_others_are_embedded(embedded, pictures, fake, loading) -> None:
    folder, report = embedded
    assert (report.rows, report.failed, report.files) == (199, 1, 7)
    (line,) = (folder / "failed.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["path"] == "a/137.png"
    assert "cannot be read as an image" in json.loads(line)["reason"]
    assert json.loads(line)["file"] == "part-000002.parquet"
    rows = rows_of(folder)
    assert [row["path"] for row in rows] == sorted(
        path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png") if path.name != "137.png"
    )
    expected = smalti.load(fake, backend=SlowBackend()).embed([Image.open(pictures / row["path"]) for row in rows])
    np.testing.assert_allclose(np.stack([row["embedding"] for row in rows]), expected, atol=1e-6)
    found = job.verify(folder, loading, ONE, 8)
    assert (found.problems, found.failed, found.rows) == ((), 1, 199)
    assert found.sampled == found.equal


def test_two_processes_and_a_resumed_run_write_the_same(embedded, pictures, fake, loading, tmp_path: Path) -> None:
    folder, report = embedded
    asked = Asked(tmp_path / "batch", bundle=str(fake), fields={"rows_per_file": 30}, source=pictures)
    plan_description(asked, "embed")
    assert job.run(asked.folder, loading, job.Running(actors=2)).digest == report.digest
    for name in ("part-000000.parquet", "part-000004.parquet"):
        (asked.folder / name).unlink()
    (asked.folder / "failed.jsonl").unlink()
    plan_description(Asked(asked.folder, resume=True), "embed")
    assert job.run(asked.folder, loading, ONE).failed == 1
    assert files(asked.folder) == files(folder)
    assert (asked.folder / "failed.jsonl").read_bytes() == (folder / "failed.jsonl").read_bytes()


def test_a_list_of_paths_is_taken_in_its_order(pictures: Path, fake: Path, loading, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    named = [str(pictures / "b/010.png"), str(pictures / "a/003.png"), "missing.png", str(pictures / "b/010.png")]
    listed.write_text("\n".join(named) + "\n", "utf-8")
    plan_description(Asked(tmp_path / "batch", bundle=str(fake), source=listed), "encode")
    report = job.run(tmp_path / "batch", loading, ONE)
    assert (report.rows, report.failed) == (3, 1)
    rows = rows_of(tmp_path / "batch")
    assert [row["path"] for row in rows] == [named[0], named[1], named[3]]
    gen = smalti.load(fake, backend=SlowBackend())
    for row in rows:
        tokens = gen.encode([Image.open(row["path"])])[0]
        assert np.array_equal(row["tokens"], tokens.ravel())
        assert (row["rows"], row["columns"]) == tokens.shape
    assert job.verify(tmp_path / "batch", loading, ONE, 4).problems == ()


def test_pictures_that_came_or_went_are_other_work(pictures, fake, embedded, tmp_path: Path) -> None:
    folder, _ = embedded
    (tmp_path / "one.png").write_bytes((pictures / "b/010.png").read_bytes())
    with pytest.raises(UsageError, match="holds other work: rows is 200 there and 1 here"):
        plan_description(Asked(folder, resume=True, source=tmp_path), "embed")
    with pytest.raises(UsageError, match="holds a batch of embed"):
        plan_description(Asked(folder, resume=True), "encode")


def test_what_cannot_be_described_is_told(fake: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no pictures in it"):
        plan_description(Asked(tmp_path / "batch", bundle=str(fake), source=tmp_path / "empty"), "embed")
    with pytest.raises(UsageError, match="a folder of pictures is needed"):
        plan_description(Asked(tmp_path / "batch", bundle=str(fake), source=tmp_path / "nowhere"), "embed")
    with pytest.raises(UsageError, match="which pictures"):
        plan_description(Asked(tmp_path / "batch", bundle=str(fake)), "embed")
