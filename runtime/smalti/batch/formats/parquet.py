"""Files of Parquet, which DuckDB, Polars and pandas read. Its pages carry checksums."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from smalti.batch.formats.format import Damaged, Parts, whole_file
from smalti.batch.libraries import pyarrow
from smalti.batch.rows import Column, Row, Summary

KEY: Final = b"smalti"
"""The key of the summary in a file's metadata."""
GROUP_BYTES: Final = 2**24
"""Bytes of pictures that are held until they are written as a group of rows."""


class Parquet:
    """Parquet, compressed by Zstandard, with a checksum of each page."""

    suffix = ".parquet"

    def write(self, path: Path, columns: Sequence[Column], parts: Parts, finish: Callable[[], Summary]) -> None:
        """Write a file; see :class:`smalti.batch.formats.format.Format`."""
        pa, pq = pyarrow(), pyarrow("parquet")
        schema = pa.schema([(one.name, _type(pa, one)) for one in columns])
        texts = [one.name for one in columns if one.kind == "text" and one.name not in ("digest", "sha256", "path")]
        options: dict[str, Any] = {"compression": "zstd", "compression_level": 1, "write_page_checksum": True}
        options["use_dictionary"] = texts
        options["write_statistics"] = [one.name for one in columns if one.kind in ("uint64", "int32", "text")]
        with whole_file(path) as partial, pq.ParquetWriter(str(partial), schema, **options) as writer:
            for group in _groups(parts):
                arrays = [pa.array(_values(group, one), _type(pa, one)) for one in columns]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=max(1, len(group)))
            writer.add_key_value_metadata({KEY: msgspec.json.encode(finish())})

    def summary(self, path: Path) -> Summary:
        """Read a file's footer; see :class:`smalti.batch.formats.format.Format`."""
        pa, pq = pyarrow(), pyarrow("parquet")
        try:
            found = pq.read_metadata(str(path))
            summary = msgspec.json.decode(found.metadata[KEY], type=Summary)
        except (pa.ArrowInvalid, pa.ArrowException, KeyError, TypeError, msgspec.MsgspecError) as error:
            raise Damaged(f"{path.name}: its end cannot be read: {_short(error)}") from None
        if found.num_rows != summary.rows:
            raise Damaged(f"{path.name}: it has {found.num_rows} rows, and says that it has {summary.rows}")
        return summary

    def rows(self, path: Path) -> Iterator[Row]:
        """Yield rows; see :class:`smalti.batch.formats.format.Format`. Checksums of pages are checked."""
        pa, pq = pyarrow(), pyarrow("parquet")
        shape = self.summary(path).shape
        try:
            with pq.ParquetFile(str(path), page_checksum_verification=True) as file:
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group)
                    for row in table.to_pylist():
                        yield {name: _array(name, value, shape) for name, value in row.items()}
        except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise Damaged(f"{path.name}: its rows cannot be read: {_short(error)}") from None


def _groups(parts: Parts) -> Iterator[list[Row]]:
    """Gather rows into groups of about :data:`GROUP_BYTES`."""
    held: list[Row] = []
    size = 0
    for part in parts:
        held += part
        size += sum(len(row.get("png") or row.get("pixels") or b"") + 1024 for row in part)
        if size >= GROUP_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held


def _type(pa: Any, column: Column) -> Any:
    plain = {"uint64": pa.uint64(), "int32": pa.int32(), "text": pa.string(), "bytes": pa.binary()}
    if column.kind in plain:
        return plain[column.kind]
    inner = pa.float32() if column.kind == "float32s" else pa.int32()
    return pa.list_(inner) if column.length is None else pa.list_(inner, column.length)


def _values(group: list[Row], column: Column) -> list[Any]:
    values = [row[column.name] for row in group]
    return [value.ravel() for value in values] if column.kind in ("int32s", "float32s") else values


def _array(name: str, value: Any, shape: tuple[int, ...]) -> Any:
    """Make arrays of lists again: grids of one shape, where all have the same, and vectors."""
    if not isinstance(value, list):
        return value
    if name == "tokens":
        grid = np.array(value, np.int32)
        return grid.reshape(shape) if shape else grid
    return np.array(value, np.float32)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
