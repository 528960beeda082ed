"""Check the files of a batch: each is whole, has the rows that the plan says, each once, and none has changed."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from smalti.batch.formats.format import Damaged, Format
from smalti.batch.formats.registry import format_of
from smalti.batch.inputs import Inputs
from smalti.batch.plan import Plan, read_plan, shard_name
from smalti.batch.rows import Content, Row, array_digest
from smalti.batch.shards import Do, Receipt
from smalti.codec.opening import reading
from smalti.errors import UsageError
from smalti.saving.recipe import digest

NAMED: Final = 5
"""Rows of a kind that a message names; the others are counted."""


@dataclass(frozen=True)
class Checking:
    """Read the files of a batch and compare them with its plan."""

    folder: Path

    def opened(self) -> Do:
        """Return what checks a shard's file. No bundle is needed."""
        plan = read_plan(self.folder).plan
        inputs = None if plan.work == "generate" else Inputs(self.folder)

        def check(shard: int) -> Receipt:
            return check_shard(self.folder, plan, format_of(plan), inputs, shard)

        return check


def check_shard(folder: Path, plan: Plan, format: Format, inputs: Inputs | None, shard: int) -> Receipt:
    """Check one file; the receipt has what is wrong, in words."""
    path = folder / shard_name(shard, format.suffix)
    if not path.exists():
        return Receipt(shard, 0, (), "", (), (f"{path.name} is missing, with {_told_rows(plan, shard)}",))
    problems: list[str] = []
    keys: list[Any] = []
    changed: list[Any] = []
    content = Content()
    try:
        summary = format.summary(path)
        for row in format.rows(path):
            keys.append(row["seed" if inputs is None else "path"])
            content.add([row])
            if not is_unchanged(plan, row):
                changed.append(keys[-1])
    except (Damaged, OSError) as error:
        told = str(error).removeprefix(f"{path.name}: ")
        return Receipt(shard, len(keys), (), "", (), (f"{path.name} is damaged: {told}",))
    except (KeyError, TypeError, ValueError) as error:
        told = f"{path.name} is damaged: its columns are not those of a batch ({error})"
        return Receipt(shard, len(keys), (), "", (), (told,))
    if (summary.plan, summary.shard) != (plan.digest, shard):
        problems.append(f"{path.name} is of another batch, or of shard {summary.shard}")
    failed = {one.path for one in summary.failed}
    named = [plan.seed + row for row in plan.rows_of(shard)] if inputs is None else inputs.of(shard)
    problems += compared(path.name, "seed" if inputs is None else "picture", keys, named, failed)
    if changed:
        problems.append(f"{path.name}: changed {_some(changed)}")
    elif content.hexdigest() != summary.digest:
        problems.append(f"{path.name}: its rows are not those that were written")
    return Receipt(shard, len(keys), summary.failed, content.hexdigest(), summary.kinds, tuple(problems))


def compared(name: str, what: str, found: Sequence[Any], planned: Sequence[Any], failed: set[str]) -> list[str]:
    """Compare the keys of a file's rows with those that are planned; return what is missing, doubled or foreign."""
    there, wanted = Counter(found), Counter(planned)
    missing = [key for key in wanted if key not in there and key not in failed]
    doubled = [key for key, times in there.items() if times > max(1, wanted[key])]
    foreign = [key for key in there if key not in wanted]
    told = (("missing", missing), ("doubled", doubled), ("not of this file", foreign))
    return [f"{name}: {what} {_some(keys)} {state}" for state, keys in told if keys]


def is_unchanged(plan: Plan, row: Row) -> bool:
    """Whether a row still holds what its digest was taken of; always true for a picture of which nothing is kept."""
    if plan.work != "generate":
        return array_digest(row["embedding" if plan.work == "embed" else "tokens"]) == row["digest"]
    try:
        if plan.keep == "png":
            with reading("a row"):
                pixels = np.asarray(Image.open(io.BytesIO(row["png"])).convert("RGB"))
        elif plan.keep == "pixels":
            pixels = np.frombuffer(row["pixels"], np.uint8).reshape(row["height"], row["width"], 3)
        else:
            return True
    except (UsageError, ValueError):
        return False
    return digest(pixels) == row["digest"]


def strangers(folder: Path, plan: Plan) -> list[str]:
    """Return names of files that look like the batch's and are none of them."""
    suffix = format_of(plan).suffix
    known = {shard_name(shard, suffix) for shard in range(plan.shards)}
    return sorted(path.name for path in folder.glob("part-*") if path.name not in known)


def _told_rows(plan: Plan, shard: int) -> str:
    rows = plan.rows_of(shard)
    if plan.work == "generate":
        return f"seeds {plan.seed + rows.start} .. {plan.seed + rows.stop - 1}"
    return f"pictures {rows.start} .. {rows.stop - 1} of the list"


def _some(keys: Sequence[Any]) -> str:
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return ", ".join(map(str, keys[:NAMED])) + more
