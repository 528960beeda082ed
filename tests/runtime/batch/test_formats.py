"""The formats: what was written is read again, equal rows give equal files, and damage is seen."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import smalti
from helpers.batches import ONE
from helpers.fake_bundle import SlowBackend
from smalti.batch import job
from smalti.batch.checking import check_shard, is_unchanged
from smalti.batch.formats.format import Damaged
from smalti.batch.formats.registry import format_of
from smalti.batch.plan import FORMATS, KEPT, read_plan, shard_name


@pytest.fixture(scope="module", params=FORMATS)
def written(request, planned, loading, tmp_path_factory):
    """A batch in a format; its format and plan."""
    folder = planned(tmp_path_factory.mktemp(request.param) / "batch", rows=11, format=request.param)
    job.run(folder, loading, ONE)
    plan = read_plan(folder).plan
    return folder, format_of(plan), plan


def test_rows_are_what_generate_draws(written, fake: Path) -> None:
    folder, format, plan = written
    expected = smalti.load(fake, backend=SlowBackend()).generate(11, 5, steps=2)
    rows = [row for shard in range(2) for row in format.rows(folder / shard_name(shard, format.suffix))]
    assert [row["seed"] for row in rows] == list(range(5, 16))
    for row, image, tokens, label in zip(rows, expected.images, expected.tokens, expected.settings.labels):
        assert np.array_equal(row["tokens"], tokens)
        assert row["tokens"].dtype == np.int32
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(row["png"]))), np.asarray(image))
        assert smalti.read_recipe(io.BytesIO(row["png"])).seeds == (row["seed"],)
        assert (row["label"], row["provider"], row["smalti"]) == (label, "null", smalti.__version__)
        assert is_unchanged(plan, row)
    assert format.summary(folder / shard_name(1, format.suffix)).rows == 4


@pytest.mark.parametrize("kept", KEPT)
def test_what_is_kept_of_pictures_changes_no_digest(kept: str, alone: Path, planned, loading, tmp_path: Path) -> None:
    report = job.run(planned(tmp_path / "batch", keep=kept), loading, ONE)
    assert report.digest == job.verify(alone, loading, ONE, 0).digest
    found = job.verify(tmp_path / "batch", loading, ONE, 3)
    assert (found.problems, found.equal) == ((), 3)


def test_a_file_that_was_cut_off_or_changed_is_seen(written, tmp_path: Path) -> None:
    folder, format, _ = written
    path = folder / shard_name(0, format.suffix)
    if path.is_dir():
        (broken := tmp_path / path.name).mkdir()
        for file in path.iterdir():
            (broken / file.name).write_bytes(file.read_bytes())
        (broken / f"{5:020}.json").write_bytes(b"{")
        with pytest.raises(Damaged):
            list(format.rows(broken))
        (broken / "summary.json").unlink()
        with pytest.raises(Damaged):
            format.summary(broken)
        return
    content, broken = path.read_bytes(), tmp_path / path.name
    for end in (0, 3, len(content) // 2, len(content) - 3 if format.suffix == ".parquet" else len(content) // 4):
        broken.write_bytes(content[:end])
        with pytest.raises((Damaged, OSError)):
            format.summary(broken)


def test_each_changed_byte_of_a_parquet_is_seen_or_changes_no_row(alone: Path, tmp_path: Path) -> None:
    plan, path = read_plan(alone).plan, alone / "part-000000.parquet"
    format, content, same = format_of(plan), path.read_bytes(), list(format_of(plan).rows(path))
    seen = 0
    for place in np.random.default_rng(1).integers(4, len(content), 80):
        changed = bytearray(content)
        changed[place] ^= 0x10
        (tmp_path / path.name).write_bytes(changed)
        if check_shard(tmp_path, plan, format, None, 0).problems:
            seen += 1
            continue
        rows = list(format.rows(tmp_path / path.name))  # it was one of the statistics, which nobody reads here
        assert all(np.array_equal(a[name], b[name]) for a, b in zip(rows, same) for name in b)
    assert seen > 40


def test_a_tar_is_one_that_webdataset_reads(written) -> None:
    folder, format, _ = written
    if format.suffix != ".tar":
        return
    with tarfile.open(folder / "part-000000.tar") as tar:
        names = tar.getnames()
    assert names[:3] == [f"{5:020}.tokens.npy", f"{5:020}.png", f"{5:020}.json"]
    assert names[-1] == "__smalti__/summary.json"


def test_equal_rows_give_equal_files(written, planned, loading, tmp_path: Path) -> None:
    folder, _, plan = written
    again = planned(tmp_path / "batch", rows=11, format=plan.format)
    job.run(again, loading, job.Running(actors=2))
    for path in folder.glob("part-*"):
        pairs = [path] if path.is_file() else sorted(path.iterdir())
        for own in pairs:
            assert own.read_bytes() == (again / own.relative_to(folder)).read_bytes()
