"""What a worker does with a shard: write its file, or check it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from smalti.batch.describing import Describing
from smalti.batch.drawing import Drawing
from smalti.batch.formats.registry import format_of
from smalti.batch.loading import Loading, kind_of, open_generator
from smalti.batch.plan import read_plan, shard_name
from smalti.batch.rows import Content, Failure, Row, Summary
from smalti.drawing.generator import Generator
from smalti.errors import UsageError
from smalti.version import __version__


@dataclass(frozen=True)
class Receipt:
    """What became of a shard."""

    shard: int
    rows: int
    failed: tuple[Failure, ...]
    digest: str
    kinds: tuple[str, ...]
    problems: tuple[str, ...] = ()
    """What a check found."""


Do: TypeAlias = Callable[[int], Receipt]
"""Does the work of a shard, by its number."""


class Task(Protocol):
    """What is sent to every worker: it is small, and opens what the work needs there."""

    def opened(self) -> Do:
        """Return what does the work of a shard. Raises SmaltiError where this machine cannot do it."""
        ...


@dataclass(frozen=True)
class Making:
    """Write the files of a batch."""

    folder: Path
    loading: Loading

    def opened(self) -> Do:
        """Load the bundle, and return what writes a shard's file.

        Raises UsageError where the folder is not there, or smalti is of another version; and what :func:`smalti.load`
        raises.
        """
        if not self.folder.is_dir():
            raise UsageError(f"{self.folder} is not there on {platform.node()}; on a cluster, name a shared folder")
        found = read_plan(self.folder)
        if found.plan.smalti != __version__:
            raise UsageError(
                f"the batch was planned by smalti {found.plan.smalti}, and {platform.node()} has {__version__}, which "
                "may draw otherwise; install the same"
            )
        plan, format = found.plan, format_of(found.plan)
        generator = open_generator(self.loading, plan.bundle_digest)
        maker = maker_of(self.folder, generator)
        kind, digest = str(kind_of(generator, plan)), plan.digest

        def make(shard: int) -> Receipt:
            content, path = Content(), self.folder / shard_name(shard, format.suffix)

            def parts() -> Iterator[list[Row]]:
                for part in maker.rows(shard):
                    content.add(part)
                    yield part

            def finish() -> Summary:
                failed = tuple(maker.failed) if isinstance(maker, Describing) else ()
                return Summary(
                    plan=digest,
                    shard=shard,
                    rows=content.rows,
                    digest=content.hexdigest(),
                    failed=failed,
                    kinds=(kind,),
                    shape=maker.shape,
                )

            format.write(path, maker.columns, parts(), finish)
            return receipt_of(finish())

        return make


def maker_of(folder: Path, generator: Generator) -> Drawing | Describing:
    """Return what makes the rows of the batch in ``folder``."""
    found = read_plan(folder)
    if found.plan.work == "generate":
        return Drawing(found.plan, generator)
    return Describing(folder, found.plan, found.places, generator)


def receipt_of(summary: Summary) -> Receipt:
    """Return the receipt of a file that is there."""
    return Receipt(summary.shard, summary.rows, summary.failed, summary.digest, summary.kinds)
