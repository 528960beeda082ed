"""verify: what is missing, doubled, foreign or changed is named, and what is whole passes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.batches import ONE
from smalti.batch import job
from smalti.batch.checking import compared
from smalti.batch.libraries import pyarrow
from smalti.batch.loading import Loading


@pytest.fixture
def copy(alone: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(alone, tmp_path / "copy"))


def rewritten(path: Path, change) -> None:
    """Write a file of rows again after ``change``, a function of its table, with the same summary and checksums."""
    pa, pq = pyarrow(), pyarrow("parquet")
    table = pq.read_table(path)
    pq.write_table(change(pa, table).replace_schema_metadata(pq.read_metadata(path).metadata), path)


def problems(folder: Path, loading: Loading, sample: int = 0) -> tuple[str, ...]:
    return job.verify(folder, loading, ONE, sample).problems


def test_a_whole_batch_passes_and_its_sample_is_made_again(alone: Path, loading: Loading) -> None:
    found = job.verify(alone, loading, job.Running(actors=2), 8)
    assert (found.problems, found.notes, found.rows, found.sampled, found.equal) == ((), (), 60, 8, 8)


def test_a_missing_file_is_named_with_its_seeds(copy: Path, loading: Loading) -> None:
    (copy / "part-000002.parquet").unlink()
    assert problems(copy, loading, 60) == ("part-000002.parquet is missing, with seeds 19 .. 25",)


def test_a_damaged_file_and_a_stranger_are_named(copy: Path, loading: Loading) -> None:
    content = (copy / "part-000001.parquet").read_bytes()
    (copy / "part-000001.parquet").write_bytes(content[:1000] + b"xxxx" + content[1004:])
    shutil.copy(copy / "part-000003.parquet", copy / "part-000099.parquet")
    shutil.copy(copy / "part-000003.parquet", copy / "part-000004.parquet")
    damaged, other, missing, foreign, stranger = problems(copy, loading)
    assert damaged.startswith("part-000001.parquet is damaged")
    assert other == "part-000004.parquet is of another batch, or of shard 3"
    assert missing == "part-000004.parquet: seed 33, 34, 35, 36, 37 and 2 more missing"
    assert "not of this file" in foreign
    assert stranger == "part-000099.parquet is no file of this batch"


def test_what_verify_says_mends_the_batch(copy: Path, loading: Loading) -> None:
    content = (copy / "part-000001.parquet").read_bytes()
    (copy / "part-000001.parquet").write_bytes(content[:1000] + b"xxxx" + content[1004:])
    shutil.copy(copy / "part-000003.parquet", copy / "part-000099.parquet")
    (copy / "part-000005.parquet").unlink()
    (note,) = job.verify(copy, loading, ONE, 0).notes
    assert note == "to mend it, remove part-000001.parquet, part-000099.parquet, and resume"
    for name in re.findall(r"part-\d+\.parquet", note):
        (copy / name).unlink()
    assert job.run(copy, loading, ONE).made == 14
    assert problems(copy, loading, 8) == ()


def test_a_doubled_row_and_a_missing_one_are_named(copy: Path, loading: Loading) -> None:
    path = copy / "part-000000.parquet"
    rewritten(path, lambda pa, table: pa.concat_tables([table.slice(0, 6), table.slice(2, 1)]))
    missing, doubled, other = problems(copy, loading)
    assert missing == "part-000000.parquet: seed 11 missing"
    assert doubled == "part-000000.parquet: seed 7 doubled"
    assert other == "part-000000.parquet: its rows are not those that were written"


@pytest.mark.parametrize("name", ["png", "digest", "tokens", "label"])
def test_a_changed_row_is_seen(name: str, copy: Path, loading: Loading) -> None:
    def change(pa, table):
        place, values = table.schema.get_field_index(name), table[name].to_pylist()
        values[3] = {"png": values[4], "digest": "0" * 64, "label": "nobody"}.get(name, values[4])
        if name == "tokens":
            values[3] = [(token + 1) % 16 for token in values[4]]
        return table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))

    rewritten(copy / "part-000005.parquet", change)
    (told,) = problems(copy, loading)
    changed = "part-000005.parquet: changed 43"
    assert told == (
        changed if name in ("png", "digest") else "part-000005.parquet: its rows are not those that were written"
    )


def test_a_sample_that_is_drawn_otherwise_is_told(copy: Path, loading: Loading, fake: Path) -> None:
    plan = json.loads((copy / "plan.json").read_text("utf-8"))
    plan["plan"]["options"]["temperature"] = 0.5
    (copy / "plan.json").write_text(json.dumps(plan), "utf-8")
    told = job.verify(copy, loading, ONE, 60)
    assert told.sampled == 60
    assert len([line for line in told.problems if "made again here, has" in line]) == 60 - told.equal


def test_rows_of_another_kind_are_noted_and_need_not_be_equal(copy: Path, loading: Loading, monkeypatch) -> None:
    import smalti.batch.sampling as sampling

    monkeypatch.setattr(sampling, "kind_of", lambda *_: "abacus")
    found = job.verify(copy, loading, ONE, 4)
    assert (found.problems, found.equal) == ((), 4)
    assert found.notes == ("4 of them were made by another kind of machine than this one (abacus), and may differ",)


keys = st.lists(st.integers(0, 9), max_size=12)


@given(keys, st.lists(st.integers(0, 9), max_size=9, unique=True), st.sets(st.integers(0, 9)))
def test_nothing_is_told_only_where_every_planned_row_is_there_once(found, planned, failed) -> None:
    told = compared("part", "seed", found, planned, failed)
    whole = sorted(found) == sorted(set(found)) and set(found) <= set(planned) <= set(found) | failed
    assert (told == []) == whole
    assert np.all(["part: seed " in line for line in told])
