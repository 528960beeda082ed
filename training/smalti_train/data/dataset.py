"""An open dataset: pixels on disk, labels in memory, licences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from smalti.bundle.manifest import Canvases
from smalti.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

SPLITS = ("train", "validation", "test")
"""The splits of every dataset, disjoint and the same on every machine."""

SIZES = (16, 4096)
"""Smallest and largest side of the square images, in pixels."""


@dataclass(frozen=True)
class Licence:
    """Licence of some of the images; a bundle's manifest repeats it."""

    name: str
    """What it covers: a style, a dataset, a folder."""
    licence: str
    """The licence's name, such as ``CC0 1.0``; ``"unknown"`` if not stated."""
    url: str
    """Address of its text; may be empty."""
    creator: str
    source: str
    """Origin of the artwork or the files: an address or a path."""
    note: str = ""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """One split of a dataset at one size."""

    images: np.memmap
    """uint8 [N, H, W, 3], RGB, 0 to 255, H = W = ``size``; mapped read-only."""
    labels: np.ndarray
    """int32 [N], each an index into ``label_names``; read-only."""
    label_names: tuple[str, ...]
    licences: tuple[Licence, ...]
    name: str
    split: str
    """One of ``SPLITS``."""
    size: int
    """Side of the square images, in pixels."""
    skipped: tuple[str, ...] = ()
    """Files of this split that could not be read, by path relative to the root."""
    canvases: Mapping[str, Canvases] = field(default_factory=dict[str, Canvases])
    """Which canvases suit a label's pictures, for labels where that is known."""

    def __len__(self) -> int:
        """Return N, the number of images."""
        return len(self.labels)


def check_size(size: int) -> None:
    """Raise UsageError unless ``size`` lies within ``SIZES``."""
    if not SIZES[0] <= size <= SIZES[1]:
        raise UsageError(f"size {size}: allowed are {SIZES[0]} to {SIZES[1]} pixels")
