"""The list of pictures that a batch describes: gathered once, without reading them, and kept beside the plan."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from smalti.batch.formats.format import whole_file
from smalti.batch.libraries import pyarrow
from smalti.errors import UsageError
from smalti.system.platform import reachable

INPUTS: Final = "inputs.parquet"
SUFFIXES: Final = frozenset(
    (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm", ".pgm", ".jp2")
)
"""Ends of names that are taken for pictures in a folder."""


@dataclass
class Listed:
    """What is known of a list of pictures once it was gone through."""

    count: int = 0

    def __post_init__(self) -> None:
        """Begin without any."""
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        """sha256 of the paths, each with a new line after it."""
        return self._hash.hexdigest()

    def through(self, paths: Iterable[str]) -> Iterator[str]:
        """Yield paths, and count them. Raises UsageError for one whose name is no text."""
        for path in paths:
            try:
                self._hash.update(f"{path}\n".encode())
            except UnicodeEncodeError:
                raise UsageError(f"{path!r}: its name is no text in UTF-8; rename it, or leave it out") from None
            self.count += 1
            yield path


def list_pictures(source: Path) -> tuple[str, Iterator[str]]:
    """Return a folder and the paths of pictures below it, with forward slashes, in an order that is always the same.

    ``source`` is that folder, in which names of pictures are found by their ends, or a text file with a path in each
    line; such paths begin in the folder of that file. Raises UsageError for what is neither.
    """
    place = reachable(source)
    if place.is_dir():
        return str(place.absolute()), _below(place)
    if not place.is_file():
        raise UsageError(f"{source}: a folder of pictures is needed, or a text file with the path of one in each line")
    return str(place.absolute().parent), _lines(place)


def write_inputs(folder: Path, paths: Iterable[str], rows_per_file: int) -> None:
    """Write the list for the batch in ``folder``, in groups of ``rows_per_file``, which bound the memory.

    Raises OutputError.
    """
    pa, pq = pyarrow(), pyarrow("parquet")
    schema, left = pa.schema([("path", pa.string())]), iter(paths)
    options = {"compression": "zstd", "use_dictionary": False}
    with whole_file(folder / INPUTS) as partial, pq.ParquetWriter(str(partial), schema, **options) as writer:
        while group := list(islice(left, rows_per_file)):
            table = pa.Table.from_arrays([pa.array(group, pa.string())], schema=schema)
            writer.write_table(table, row_group_size=len(group))


class Inputs:
    """The list of a batch's pictures, of which a shard is read at a time."""

    def __init__(self, folder: Path) -> None:
        """Open the list. Raises OSError."""
        self._file: Any = pyarrow("parquet").ParquetFile(str(folder / INPUTS))

    def of(self, shard: int) -> list[str]:
        """Return the paths of a shard's pictures."""
        return self._file.read_row_group(shard)["path"].to_pylist()


def _below(folder: Path) -> Iterator[str]:
    """Walk a folder in the order of names. Links to folders are not followed, since they may lead in circles."""
    for above, inner, files in os.walk(folder):
        inner.sort()
        begin = Path(above).relative_to(folder)
        for name in sorted(files):
            if Path(name).suffix.lower() in SUFFIXES:
                yield (begin / name).as_posix()


def _lines(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            if path := line.rstrip("\r\n"):
                yield path
