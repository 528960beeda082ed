"""Rows of drawn pictures."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from smalti.batch.loading import said_in_rows
from smalti.batch.plan import Plan
from smalti.batch.rows import Column, Row
from smalti.drawing.generator import Generator
from smalti.drawing.result import Result
from smalti.errors import OutOfMemory
from smalti.families.settings import DECLARED, resolve
from smalti.saving.recipe import digest

AT_ONCE: Final = 16
"""Pictures drawn together on a CPU; more take memory, and no less time each."""
AT_ONCE_ON_DEVICE: Final = 64
TOLD: Final = ("bundle", "provider", "precision", "processor", "smalti")


class Drawing:
    """Draws the rows of shards."""

    def __init__(self, plan: Plan, generator: Generator) -> None:
        """Take a loaded bundle. Raises UsageError and OutOfMemory for a draw that is too much."""
        self.plan, self.generator = plan, generator
        self.options: dict[str, Any] = {
            name: msgspec.convert(value, DECLARED[name]) for name, value in plan.options.items() if value is not None
        }
        self._said = said_in_rows(generator, plan)
        settings = resolve(generator.manifest, 1, plan.seed, {**self.options})  # pyright: ignore[reportArgumentType]
        factor = generator.manifest.resolution(settings.resolution).factor
        self.shape = settings.size[1] // factor, settings.size[0] // factor
        self.columns = columns_of(plan, self.shape)
        self._together = self._most_together()

    def rows(self, shard: int) -> Iterator[list[Row]]:
        """Draw the rows of a shard, some at a time."""
        own = self.plan.rows_of(shard)
        for first in range(own.start, own.stop, self._together):
            yield self.drawn(range(first, min(first + self._together, own.stop)))

    def drawn(self, rows: Sequence[int]) -> list[Row]:
        """Draw some rows together."""
        seeds = [self.plan.seed + row for row in rows]
        labels = [self.plan.label_of(row) for row in rows]
        result = self.generator.generate(seeds=seeds, label=labels, **self.options)
        return [self._row(result, index) for index in range(len(seeds))]

    def _row(self, result: Result, index: int) -> Row:
        pixels = np.asarray(result.images[index])
        row: dict[str, Any] = {
            "seed": result.settings.seeds[index],
            "label": result.settings.labels[index],
            "tokens": result.tokens[index],
            "width": pixels.shape[1],
            "height": pixels.shape[0],
            "digest": digest(pixels),
            **self._said,
        }
        if self.plan.keep == "png":
            result.save(buffer := io.BytesIO(), which=index, format="png")
            row["png"] = buffer.getvalue()
        elif self.plan.keep == "pixels":
            row["pixels"] = pixels.tobytes()
        return row

    def _most_together(self) -> int:
        """Return how many pictures are drawn at once: fewer where the limit of memory says so."""
        most = AT_ONCE if self.generator.report.actual == "cpu" else AT_ONCE_ON_DEVICE
        while True:
            settings = resolve(self.generator.manifest, most, 0, {**self.options})  # pyright: ignore[reportArgumentType]
            try:
                self.generator.limits.check_draw(self.generator.manifest, settings)
                return most
            except OutOfMemory:
                if most == 1:
                    raise
                most //= 2


def columns_of(plan: Plan, shape: tuple[int, int]) -> list[Column]:
    """Return the columns of drawn pictures, whose grids have so many rows and columns of tokens."""
    kept = [Column(plan.keep, "bytes")] if plan.keep != "none" else []
    return [
        Column("seed", "uint64"),
        Column("label", "text"),
        Column("tokens", "int32s", shape[0] * shape[1]),
        *kept,
        Column("width", "int32"),
        Column("height", "int32"),
        Column("digest", "text"),
        *(Column(name, "text") for name in TOLD),
    ]
