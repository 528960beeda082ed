"""Tars of WebDataset: the files of a picture follow each other, and are called alike up to the first dot."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from smalti.batch.formats.format import Damaged, Parts, whole_file
from smalti.batch.formats.members import key_of, members, row_of
from smalti.batch.rows import Column, Row, Summary

SUMMARY: Final = "__smalti__/summary.json"
"""The last member. WebDataset skips what begins so."""


class WebDataset:
    """A tar for each shard, without compression."""

    suffix = ".tar"

    def write(self, path: Path, columns: Sequence[Column], parts: Parts, finish: Callable[[], Summary]) -> None:
        """Write a file; see :class:`smalti.batch.formats.format.Format`. The columns are those of drawn pictures."""
        del columns
        with whole_file(path) as partial, tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
            for part in parts:
                for row in part:
                    for end, content in members(row).items():
                        _add(tar, f"{key_of(row)}.{end}", content)
            _add(tar, SUMMARY, msgspec.json.encode(finish()))

    def summary(self, path: Path) -> Summary:
        """Read the last member; see :class:`smalti.batch.formats.format.Format`."""
        try:
            with tarfile.open(path, "r:") as tar:
                held = tar.extractfile(SUMMARY)
                return msgspec.json.decode(held.read() if held else b"", type=Summary)
        except (tarfile.TarError, KeyError, EOFError, msgspec.MsgspecError) as error:
            raise Damaged(f"{path.name}: its end cannot be read: {error}") from None

    def rows(self, path: Path) -> Iterator[Row]:
        """Yield rows; see :class:`smalti.batch.formats.format.Format`."""
        key, found = "", dict[str, bytes]()
        try:
            with tarfile.open(path, "r|") as tar:
                for member in tar:
                    begin, _, end = member.name.partition(".")
                    if begin != key and found:
                        yield row_of(found, path.name)
                        found = {}
                    key = begin
                    held = tar.extractfile(member)
                    if held and member.name != SUMMARY:
                        found[end] = held.read()
            if found:
                yield row_of(found, path.name)
        except (tarfile.TarError, EOFError) as error:
            raise Damaged(f"{path.name}: its rows cannot be read: {error}") from None


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a member that says nothing of when and by whom it was written, so that equal rows give equal files."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
