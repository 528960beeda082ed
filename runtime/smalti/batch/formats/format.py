"""What a format of a batch's files does, and how a file appears whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

from smalti.batch.rows import Column, Row, Summary
from smalti.errors import OutputError, SmaltiError
from smalti.system.files import beside, flush, move_file, remove_folder

Parts: TypeAlias = Iterable[Sequence[Row]]
"""Rows, some at a time."""


class Damaged(SmaltiError):
    """A file of a batch that is cut off or changed."""


class Format(Protocol):
    """A format: each file holds the rows of one shard, and a summary of itself."""

    suffix: str

    def write(self, path: Path, columns: Sequence[Column], parts: Parts, finish: Callable[[], Summary]) -> None:
        """Write a file, which appears whole or not at all. ``finish`` is called once all parts are taken.

        Raises OutputError.
        """
        ...

    def summary(self, path: Path) -> Summary:
        """Return what a file says of itself, without reading its rows. Raises Damaged, and OSError."""
        ...

    def rows(self, path: Path) -> Iterator[Row]:
        """Yield the rows of a file, in order, and check what the format has to check them by.

        Raises Damaged, and OSError.
        """
        ...


@contextlib.contextmanager
def whole_file(path: Path) -> Generator[Path]:
    """Give a name beside ``path`` to write to; the file is flushed and takes its place at the end.

    Whatever happens inside, nothing else stays. An OSError becomes an OutputError that names ``path``.
    """
    partial = beside(path)
    try:
        yield partial
        flush(partial)
        move_file(partial, path)
    except OSError as error:
        if isinstance(error, SmaltiError):
            raise
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def remove_any(path: Path) -> None:
    """Remove a file or a folder that may exist, as far as it can be removed."""
    if path.is_dir():
        remove_folder(path)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
