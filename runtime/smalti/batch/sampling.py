"""Make some rows of a batch again on this machine, and compare."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from smalti.batch.describing import Describing, read_picture
from smalti.batch.drawing import Drawing
from smalti.batch.formats.format import Damaged
from smalti.batch.formats.registry import format_of
from smalti.batch.loading import Loading, kind_of, open_generator
from smalti.batch.plan import Plan, read_plan, shard_name
from smalti.batch.rows import Row
from smalti.batch.shards import maker_of
from smalti.errors import UsageError

CLOSE: Final = 1e-5
"""How far features may differ: pictures that are embedded alone are rounded otherwise than in a batch."""


@dataclass(frozen=True)
class Compared:
    """What came of making some rows again."""

    rows: int
    equal: int
    other_kind: int
    """Rows that another kind of machine made than this one, which need not be equal."""
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def draw_again(folder: Path, loading: Loading, count: int) -> Compared:
    """Make ``count`` rows again, chosen by the plan's digest, as far as they are there.

    Raises BundleError where the bundle is another one, and as :func:`smalti.load` does.
    """
    plan = read_plan(folder).plan
    generator = open_generator(loading, plan.bundle_digest)
    maker, here = maker_of(folder, generator), str(kind_of(generator, plan))
    chosen: dict[int, list[int]] = defaultdict(list)
    for row in random.Random(plan.digest).sample(range(plan.rows), min(count, plan.rows)):
        chosen[row // plan.rows_per_file].append(row)
    made = equal = other = 0
    problems: list[str] = []
    notes: list[str] = []
    format = format_of(plan)
    for shard, rows in sorted(chosen.items()):
        path = folder / shard_name(shard, format.suffix)
        try:
            same_kind = here in format.summary(path).kinds
            there = {row["seed" if plan.work == "generate" else "path"]: row for row in format.rows(path)}
        except (Damaged, OSError):
            continue  # which the check of files tells
        for number in sorted(rows):
            key = _key(plan, maker, shard, number)
            if key not in there:
                continue
            made += 1
            other += not same_kind
            told = _differs(maker, there[key], number)
            equal += not told
            if told:
                line = f"{path.name}: {key}, made again here, {told}"
                (problems if same_kind else notes).append(line)
    if other:
        notes.append(f"{other} of them were made by another kind of machine than this one ({here}), and may differ")
    return Compared(made, equal, other, tuple(problems), tuple(notes))


def _key(plan: Plan, maker: Drawing | Describing, shard: int, number: int) -> int | str:
    if isinstance(maker, Describing):
        return maker.paths(shard)[number - plan.rows_of(shard).start]
    return plan.seed + number


def _differs(maker: Drawing | Describing, there: Row, number: int) -> str:
    """Say how a row differs from what is made here; empty where it does not."""
    if isinstance(maker, Drawing):
        (again,) = maker.drawn([number])
        if again["digest"] == there["digest"] and np.array_equal(again["tokens"], there["tokens"]):
            return ""
        same = float(np.equal(again["tokens"].ravel(), there["tokens"].ravel()).mean())
        return f"has {same:.1%} of its tokens" + ("" if again["label"] == there["label"] else ", and another label")
    try:
        sha256, pixels = read_picture(maker.root, there["path"])
    except (UsageError, OSError) as error:
        return f"cannot be read any more: {error}"
    if sha256 != there["sha256"]:
        return "is another file by now"
    found = maker.call([pixels])[0]
    if maker.plan.work == "embed":
        far = float(np.abs(found - there["embedding"]).max())
        return "" if far <= CLOSE else f"has features that differ by {far:.2g}"
    return "" if np.array_equal(found.ravel(), there["tokens"].ravel()) else "has other tokens"
