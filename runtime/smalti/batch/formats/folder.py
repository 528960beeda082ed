"""Folders: a picture is a file of its own, and a shard is a folder of them that appears whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from smalti.batch.formats.format import Damaged, Parts
from smalti.batch.formats.members import key_of, members, row_of
from smalti.batch.rows import Column, Row, Summary
from smalti.system.files import flush, replace_folder, whole_folder

SUMMARY: Final = "summary.json"


class Folder:
    """A folder for each shard."""

    suffix = ""

    def write(self, path: Path, columns: Sequence[Column], parts: Parts, finish: Callable[[], Summary]) -> None:
        """Write a folder; see :class:`smalti.batch.formats.format.Format`. The columns are those of drawn pictures."""
        del columns
        with whole_folder(path) as partial:
            for part in parts:
                for row in part:
                    for end, content in members(row).items():
                        file = partial / f"{key_of(row)}.{end}"
                        file.write_bytes(content)
                        flush(file)
            (partial / SUMMARY).write_bytes(msgspec.json.encode(finish()))
            flush(partial / SUMMARY)
            replace_folder(partial, path)

    def summary(self, path: Path) -> Summary:
        """Read the summary's file; see :class:`smalti.batch.formats.format.Format`."""
        try:
            return msgspec.json.decode((path / SUMMARY).read_bytes(), type=Summary)
        except (FileNotFoundError, NotADirectoryError, msgspec.MsgspecError) as error:
            raise Damaged(f"{path.name}: its {SUMMARY} cannot be read: {error}") from None

    def rows(self, path: Path) -> Iterator[Row]:
        """Yield rows; see :class:`smalti.batch.formats.format.Format`."""
        key, found = "", dict[str, bytes]()
        for file in sorted(path.iterdir()):
            begin, _, end = file.name.partition(".")
            if file.name == SUMMARY:
                continue
            if begin != key and found:
                yield row_of(found, path.name)
                found = {}
            key = begin
            found[end] = file.read_bytes()
        if found:
            yield row_of(found, path.name)
