"""Rows of pictures that are described: embedded, or encoded to tokens."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smalti.batch.drawing import TOLD
from smalti.batch.inputs import Inputs
from smalti.batch.loading import said_in_rows
from smalti.batch.plan import Places, Plan
from smalti.batch.rows import Column, Failure, Row, array_digest
from smalti.codec.opening import frames, reading
from smalti.codec.pictures import read
from smalti.drawing.generator import Generator
from smalti.drawing.loaded import EMBEDDING
from smalti.errors import BundleError, OutOfMemory, UsageError, for_outsiders
from smalti.saving.targets import LARGEST_FILE
from smalti.system.platform import reachable

TOGETHER: Final = 16
"""Pictures that are described in one call, unless they are large."""
MOST_BYTES: Final = 2**27
"""Bytes of the pixels of one call's pictures."""
Pixels = NDArray[np.uint8]


class Describing:
    """Describes the pictures of shards. Those that cannot be read are kept as failures, and the others go on."""

    def __init__(self, folder: Path, plan: Plan, places: Places, generator: Generator) -> None:
        """Take a loaded bundle. Raises BundleError for one without an encoder or features, and OSError."""
        self.plan, self.generator = plan, generator
        self.root = Path(places.inputs or ".")
        self._inputs = Inputs(folder)
        self._said = said_in_rows(generator, plan)
        self.shape = ()
        self.columns = columns_of(plan, _features(generator) if plan.work == "embed" else None)
        self.failed: list[Failure] = []
        """Of the shard that was described last."""

    def paths(self, shard: int) -> list[str]:
        """Return the paths of a shard's pictures."""
        return self._inputs.of(shard)

    def rows(self, shard: int) -> Iterator[list[Row]]:
        """Describe the pictures of a shard, some at a time."""
        self.failed = []
        held: list[tuple[str, str, Pixels]] = []
        size = 0
        for path in self.paths(shard):
            try:
                held.append((path, *read_picture(self.root, path)))
                size += held[-1][2].nbytes
            except (UsageError, OutOfMemory, OSError) as error:
                self._fail(path, error)
            if len(held) == TOGETHER or size > MOST_BYTES:
                yield self._described(held)
                held, size = [], 0
        if held:
            yield self._described(held)

    def _described(self, pictures: list[tuple[str, str, Pixels]]) -> list[Row]:
        """Describe pictures together; where that fails, one by one, so that those which do not fit are named."""
        found: dict[int, NDArray[Any]] = {}
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, (_, _, pixels) in enumerate(pictures):
            groups.setdefault(() if self.plan.work == "embed" else pixels.shape, []).append(index)
        for own in groups.values():
            try:
                found |= zip(own, self.call([pictures[index][2] for index in own]))
            except (UsageError, OutOfMemory):
                for index in own:
                    try:
                        found[index] = self.call([pictures[index][2]])[0]
                    except (UsageError, OutOfMemory) as error:
                        self._fail(pictures[index][0], error)
        return [self._row(pictures[index][0], pictures[index][1], found[index]) for index in sorted(found)]

    def call(self, pictures: Sequence[Pixels]) -> NDArray[Any]:
        """Return features float32 [N, D] of pictures, or tokens int32 [N, h, w] of pictures of one size."""
        if self.plan.work == "embed":
            return self.generator.embed(pictures)
        return self.generator.encode(pictures, self.plan.options["resolution"], fit=self.plan.options["fit"])

    def _row(self, path: str, sha256: str, found: NDArray[Any]) -> Row:
        row: dict[str, Any] = {"path": path, "sha256": sha256, "digest": array_digest(found), **self._said}
        if self.plan.work == "embed":
            return {**row, "embedding": found}
        return {**row, "rows": found.shape[0], "columns": found.shape[1], "tokens": found}

    def _fail(self, path: str, error: BaseException) -> None:
        told = getattr(error, "strerror", None) or for_outsiders(str(error)) or type(error).__name__
        self.failed.append(Failure(path, " ".join(told.split())[:500]))


def columns_of(plan: Plan, features: int | None) -> list[Column]:
    """Return the columns of described pictures, with so many features."""
    found = (
        [Column("embedding", "float32s", features)]
        if plan.work == "embed"
        else [Column("rows", "int32"), Column("columns", "int32"), Column("tokens", "int32s")]
    )
    texts = [Column(name, "text") for name in ("digest", *TOLD)]
    return [Column("path", "text"), Column("sha256", "text"), *found, *texts]


def read_picture(root: Path, path: str) -> tuple[str, Pixels]:
    """Return the sha256 of a picture's bytes, and its pixels uint8 [H, W, 3]. Raises UsageError and OSError."""
    content = _content(root / path, path)
    return hashlib.sha256(content).hexdigest(), _pixels(content, path)


def _content(file: Path, path: str) -> bytes:
    place = reachable(file)
    if not place.is_file():  # a pipe could block for ever
        raise UsageError(f"{path} does not exist, or is no file")
    if place.stat().st_size > LARGEST_FILE:
        raise UsageError(f"{path} has more than {LARGEST_FILE} bytes, which are not read; make it smaller")
    return place.read_bytes()


def _pixels(content: bytes, path: str) -> Pixels:
    with reading(path):
        image = Image.open(io.BytesIO(content))
        frames(image)
        image.load()
    return read(image, path).pixels  # without telling of each transparent one among millions


def _features(generator: Generator) -> int:
    """Return the number of features. Raises BundleError for a bundle without any."""
    component = generator.manifest.components.get("encoder")
    shapes = [one.shape for one in component.outputs if one.name == EMBEDDING] if component else []
    if not shapes or not isinstance(shapes[0][-1], int):
        raise BundleError(f"{generator.bundle.path} has no features to embed pictures with; take another bundle")
    return shapes[0][-1]
