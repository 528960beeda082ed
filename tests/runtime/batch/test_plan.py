"""The plan: its files hold every row once, and whatever decides a row decides its digest."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalti.batch.asking import Asked, plan_draw
from smalti.batch.plan import Plan, read_plan
from smalti.errors import UsageError

PLAN = Plan(
    work="generate",
    bundle="fake",
    bundle_digest="0" * 64,
    provider="cpu",
    precision="auto",
    rows=60,
    rows_per_file=7,
    format="parquet",
)
OTHER = {
    "smalti": "0.0.1",
    "work": "embed",
    "bundle": "other",
    "bundle_digest": "1" * 64,
    "provider": "cuda",
    "precision": "fp32",
    "rows": 61,
    "rows_per_file": 8,
    "format": "folder",
    "seed": 1,
    "labels": ("a",),
    "options": {"steps": 3},
    "keep": "none",
    "inputs": "2" * 64,
}


@given(st.integers(1, 3000), st.integers(1, 700))
def test_files_hold_every_row_once_in_order(rows: int, rows_per_file: int) -> None:
    plan = msgspec.structs.replace(PLAN, rows=rows, rows_per_file=rows_per_file)
    assert [row for shard in range(plan.shards) for row in plan.rows_of(shard)] == list(range(rows))
    assert all(1 <= len(plan.rows_of(shard)) <= rows_per_file for shard in range(plan.shards))


@given(st.integers(1, 2**40), st.integers(1, 2**20))
def test_huge_batches_are_cut_without_being_listed(rows: int, rows_per_file: int) -> None:
    plan = msgspec.structs.replace(PLAN, rows=rows, rows_per_file=rows_per_file)
    assert plan.rows_of(0).start == 0
    assert plan.rows_of(plan.shards - 1).stop == rows


@given(st.lists(st.text(max_size=3), max_size=4), st.integers(0, 50))
def test_labels_take_turns(labels: list[str], row: int) -> None:
    plan = msgspec.structs.replace(PLAN, labels=tuple(labels))
    assert plan.label_of(row) == (labels[row % len(labels)] if labels else None)


@pytest.mark.parametrize("name", OTHER)
def test_every_field_decides_the_digest(name: str) -> None:
    assert set(OTHER) | {"schema"} == set(Plan.__struct_fields__)
    assert msgspec.structs.replace(PLAN, **{name: OTHER[name]}).digest != PLAN.digest


def test_a_plan_is_read_as_it_was_written(planned, tmp_path: Path, fake: Path) -> None:
    folder = planned(tmp_path / "batch", options={"steps": 3, "size": (8, 8)})
    found = read_plan(folder)
    assert (found.plan.rows, found.plan.seed, found.plan.options["steps"]) == (60, 5, 3)
    assert found.places.bundle == str(fake)
    again = plan_draw(Asked(folder, resume=True))
    assert again == found
    assert plan_draw(Asked(folder, True, str(fake), {"rows": 60}, options={"steps": 3, "size": (8, 8)})) == found


@pytest.mark.parametrize(
    ("fields", "options", "told"),
    [
        ({"rows": 61}, {}, "rows is 60 there and 61 here"),
        ({"seed": 6}, {}, "seed is 5 there and 6 here"),
        ({"rows_per_file": 8}, {}, "rows_per_file is 7"),
        ({"precision": "fp32"}, {}, "precision is 'auto' there"),
        ({}, {"steps": 4}, "options is"),
    ],
)
def test_other_work_is_not_resumed(fields, options, told: str, planned, tmp_path: Path) -> None:
    folder = planned(tmp_path / "batch")
    before = (folder / "plan.json").read_bytes()
    with pytest.raises(UsageError, match=told):
        plan_draw(Asked(folder, resume=True, fields=fields, options=options))
    assert (folder / "plan.json").read_bytes() == before


def test_a_folder_that_holds_something_is_refused(planned, tmp_path: Path) -> None:
    folder = planned(tmp_path / "batch")
    with pytest.raises(UsageError, match="--resume"):
        planned(folder)
    (tmp_path / "own").mkdir()
    (tmp_path / "own/letter.txt").write_text("mine", "utf-8")
    for resume in (False, True):
        with pytest.raises(UsageError, match="holds no batch"):
            planned(tmp_path / "own", resume=resume)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"rows": 0}, "count 0: allowed are 1"),
        ({"rows_per_file": 0}, "rows_per_file 0"),
        ({"seed": 2**64 - 30}, "for the last of 60 pictures"),
        ({"format": "csv"}, "allowed are parquet, webdataset, folder"),
        ({"keep": "jpeg"}, "allowed are png, pixels, none"),
        ({"provider": "abacus"}, "provider 'abacus'"),
    ],
)
def test_what_is_not_allowed_is_told_before_anything_is_written(fields, told: str, planned, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=told):
        planned(tmp_path / "batch", **fields)
    assert not (tmp_path / "batch").exists()
