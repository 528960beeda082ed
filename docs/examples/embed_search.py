"""Embed a folder of pictures with smalti batch, then ask DuckDB and Faiss about the files it wrote.

python docs/examples/embed_search.py PICTURES INDEX [--like PICTURE] [--most 5] [--actors 2] [--bundle BUNDLE]

It needs smalti[batch], duckdb and faiss-cpu. Run it again to go on after an interrupt.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import duckdb
import faiss
import numpy as np
from PIL import Image

import smalti


def embedded(asked: argparse.Namespace) -> None:
    """Write vectors of all pictures to Parquet. With exit code 1, failed.jsonl may name some that could not be read."""
    line = [sys.executable, "-m", "smalti.cli", "batch", "embed", str(asked.pictures), "-o", str(asked.index)]
    line += ["--actors", str(asked.actors), "--resume"]
    line += ["--bundle", asked.bundle] if asked.bundle else []
    done = subprocess.run(line, check=False, stdout=sys.stderr).returncode
    if done and not (done == 1 and (asked.index / "failed.jsonl").exists()):
        sys.exit(done)


def by_duckdb(files: str, like: np.ndarray, most: int) -> list[tuple[str, float]]:
    """Let a query find the nearest pictures. Vectors have length 1, so their product is their likeness."""
    query = f"""
        SELECT path, array_inner_product(embedding::FLOAT[{len(like)}], ?::FLOAT[{len(like)}]) AS likeness
        FROM read_parquet(?) ORDER BY likeness DESC, path LIMIT ?
    """
    return duckdb.execute(query, [like.tolist(), files, most]).fetchall()


def by_faiss(files: str, like: np.ndarray, most: int) -> list[tuple[str, float]]:
    """Let an index in memory find them. For millions of pictures, take one of Faiss's approximate indices."""
    table = duckdb.execute("SELECT path, embedding FROM read_parquet(?) ORDER BY path", [files]).fetchnumpy()
    vectors = np.stack([np.asarray(row, np.float32) for row in table["embedding"]])
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    likeness, places = index.search(like[None], most)
    return [(str(table["path"][place]), float(value)) for place, value in zip(places[0], likeness[0]) if place >= 0]


def main() -> None:
    """Embed, and search by both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("index", type=Path, help="a folder for the vectors")
    parser.add_argument("--like", type=Path, help="a picture; by default the first one")
    parser.add_argument("--most", type=int, default=5)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--bundle", help="a folder or .zip; by default the embedded bundle")
    asked = parser.parse_args()
    embedded(asked)
    files = str(asked.index / "part-*.parquet")
    count, first = duckdb.execute("SELECT count(*), min(path) FROM read_parquet(?)", [files]).fetchall()[0]
    print(f"{count} pictures")
    try:
        like = smalti.load(asked.bundle).embed([Image.open(asked.like or asked.pictures / first)])[0]
    except (OSError, smalti.SmaltiError) as error:
        sys.exit(str(error))
    for name, search in (("DuckDB", by_duckdb), ("Faiss", by_faiss)):
        print(name)
        for path, likeness in search(files, like, asked.most):
            print(f"{likeness:.3f}  {path}")


if __name__ == "__main__":
    main()
