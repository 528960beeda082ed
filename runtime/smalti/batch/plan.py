"""The plan of a batch: everything that decides its rows, written first, so that it can be resumed and verified."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

import msgspec

from smalti.errors import UsageError
from smalti.system.files import write_whole
from smalti.system.platform import command_line, reachable
from smalti.version import __version__

Work: TypeAlias = Literal["generate", "embed", "encode"]
Kept: TypeAlias = Literal["png", "pixels", "none"]
FORMATS: Final = ("parquet", "webdataset", "folder")
KEPT: Final[tuple[Kept, ...]] = get_args(Kept)
PLAN: Final = "plan.json"
SCHEMA: Final = 1
MOST_ROWS: Final = 2**40
"""Rows of a batch."""
Positive = Annotated[int, msgspec.Meta(ge=1)]


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides the rows of a batch, and how they are cut into files."""

    schema: Literal[1] = SCHEMA
    smalti: str = __version__
    """The version that made the plan."""
    work: Work
    bundle: str
    bundle_digest: str
    provider: str
    """As it was asked for; each row says what computed it."""
    precision: str
    rows: Positive
    rows_per_file: Positive
    format: str
    seed: int = 0
    """Of row 0; row i has seed + i."""
    labels: tuple[str, ...] = ()
    """They take turns; none are drawn by the seeds."""
    options: dict[str, Any] = {}
    """Of a draw, all of them; of ``encode``, the resolution and the fit."""
    keep: Kept = "png"
    """What of a drawn picture is kept beside its tokens."""
    inputs: str = ""
    """sha256 of the list of pictures that are described."""

    @property
    def shards(self) -> int:
        """Number of files."""
        return -(-self.rows // self.rows_per_file)

    def rows_of(self, shard: int) -> range:
        """Return the rows of a file, by their numbers."""
        first = shard * self.rows_per_file
        return range(first, min(first + self.rows_per_file, self.rows))

    def label_of(self, row: int) -> str | None:
        """Return the label of a row; None where its seed draws it."""
        return self.labels[row % len(self.labels)] if self.labels else None

    @property
    def digest(self) -> str:
        """sha256 that each file carries, so that files of another batch are known."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Where a batch finds what it reads. They may differ between machines, and decide no row."""

    bundle: str | None = None
    """A path; None for the bundle inside smalti of the plan's name."""
    inputs: str | None = None
    """The folder that the paths of pictures begin in."""


class PlanFile(msgspec.Struct, frozen=True, kw_only=True):
    """What ``plan.json`` holds."""

    plan: Plan
    places: Places


def write_plan(folder: Path, plan: Plan, places: Places) -> None:
    """Write the plan into the folder of a batch. Raises OutputError."""
    content = msgspec.json.format(msgspec.json.encode(PlanFile(plan=plan, places=places)), indent=2)
    write_whole(folder / PLAN, content + b"\n")


def read_plan(folder: Path) -> PlanFile:
    """Read the plan of a batch. Raises UsageError where the folder has none that can be read."""
    file = reachable(folder / PLAN)
    try:
        return msgspec.json.decode(file.read_bytes(), type=PlanFile)
    except FileNotFoundError:
        raise UsageError(
            f"{folder} has no {PLAN}, so it is no batch; name the folder that '{command_line()} batch' wrote to"
        ) from None
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{file} cannot be read: {error}; take another folder and begin anew") from None


def check_same(asked: Plan, found: Plan, folder: Path) -> None:
    """Raise UsageError where a batch that is to be resumed is other work than what was asked for."""
    other = [
        f"{name} is {getattr(found, name)!r} there and {getattr(asked, name)!r} here"
        for name in Plan.__struct_fields__
        if getattr(asked, name) != getattr(found, name)
    ]
    if other:
        raise UsageError(
            f"{folder} holds other work: {'; '.join(other)}; resume it with what it began with (--resume and -o alone "
            "take all from its plan), or take another folder"
        )


def shard_name(shard: int, suffix: str) -> str:
    """Return the name of a file, such as ``part-000012.parquet``."""
    return f"part-{shard:06}{suffix}"
