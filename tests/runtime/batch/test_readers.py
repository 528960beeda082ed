"""DuckDB, Polars and Faiss read a batch's files, and see in them what smalti wrote."""

from __future__ import annotations

from pathlib import Path

import duckdb
import faiss
import numpy as np
import polars

from smalti.batch import job
from smalti.batch.formats.registry import format_of
from smalti.batch.plan import read_plan, shard_name


def rows_of(folder: Path) -> list[dict]:
    """All rows, as smalti reads them."""
    plan = read_plan(folder).plan
    format = format_of(plan)
    return [row for shard in range(plan.shards) for row in format.rows(folder / shard_name(shard, format.suffix))]


def test_duckdb_and_polars_read_the_same_pictures(alone: Path) -> None:
    expected, files = rows_of(alone), str(alone / "part-*.parquet")
    frame = polars.scan_parquet(files).sort("seed").collect()
    found = duckdb.execute("SELECT seed, label, tokens, png, digest FROM read_parquet(?) ORDER BY seed", [files])
    rows = found.fetchall()
    assert len(rows) == frame.height == len(expected) == 60
    for row, line, wanted in zip(rows, frame.iter_rows(named=True), expected):
        assert row[0] == line["seed"] == wanted["seed"]
        assert row[1] == line["label"] == wanted["label"]
        assert row[2] == line["tokens"] == wanted["tokens"].ravel().tolist()
        assert bytes(row[3]) == line["png"] == wanted["png"]
        assert row[4] == line["digest"] == wanted["digest"]


def test_polars_and_faiss_read_the_same_vectors(embedded: tuple[Path, job.Report]) -> None:
    folder, report = embedded
    expected = rows_of(folder)
    frame = polars.scan_parquet(folder / "part-*.parquet").select("path", "embedding").collect()
    assert frame.height == len(expected) == report.rows == 199
    assert frame["path"].to_list() == [row["path"] for row in expected]
    vectors = np.stack(frame["embedding"].to_list()).astype(np.float32)
    assert np.array_equal(vectors, np.stack([row["embedding"] for row in expected]))
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    likeness, _ = index.search(vectors, 1)
    assert np.allclose(likeness[:, 0], (vectors @ vectors.T).max(axis=1), atol=1e-6)
