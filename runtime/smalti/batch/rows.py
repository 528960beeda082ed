"""Rows of a batch, what a file of them says of itself, and digests of both."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np

Row: TypeAlias = Mapping[str, Any]
"""Values by the names of columns: numbers, texts, bytes, or arrays of one type."""
NOT_CONTENT: Final = ("png", "pixels", "bundle", "provider", "precision", "processor", "smalti")
"""Columns that are left out of a digest of rows: pictures have one of their own, and the rest says what computed."""


@dataclass(frozen=True)
class Column:
    """A column of a batch."""

    name: str
    kind: str
    """``uint64``, ``int32``, ``text``, ``bytes``, ``int32s`` or ``float32s`` (lists)."""
    length: int | None = None
    """Of each list; None where lists differ."""


class Failure(msgspec.Struct, frozen=True):
    """A picture that could not be read."""

    path: str
    reason: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a file says of itself."""

    plan: str
    """:attr:`Plan.digest`."""
    shard: int
    rows: int
    digest: str
    """:class:`Content` of its rows."""
    failed: tuple[Failure, ...] = ()
    kinds: tuple[str, ...] = ()
    """What computed its rows: provider, precision, processor."""
    shape: tuple[int, ...] = ()
    """Rows and columns of each grid of tokens, where all have the same."""


class Content:
    """A digest of rows, which grows row by row. It is equal wherever and by whatever equal rows were computed."""

    def __init__(self) -> None:
        """Begin without rows."""
        self._hash, self.rows = hashlib.sha256(), 0

    def add(self, rows: Iterable[Row]) -> None:
        """Take the next rows."""
        for row in rows:
            self._hash.update(row_digest(row))
            self.rows += 1

    def hexdigest(self) -> str:
        """Return the sha256 of all rows so far."""
        return self._hash.hexdigest()


def row_digest(row: Row) -> bytes:
    """Return the sha256 of what a row holds, but for the columns :data:`NOT_CONTENT`."""
    found = hashlib.sha256()
    for name in sorted(row):
        if name not in NOT_CONTENT:
            value = row[name]
            found.update(f"{name}\n".encode())
            found.update(value.tobytes() if isinstance(value, np.ndarray) else msgspec.json.encode(value))
    return found.digest()


def array_digest(array: np.ndarray[Any, Any]) -> str:
    """Return the sha256 of an array's bytes, which stands in a row beside it."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
