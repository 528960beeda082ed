"""Sizes of arrays from those of others, by the names that a manifest gives their free sides."""

from __future__ import annotations

import math

from smalti.bundle.manifest import TensorSpec
from smalti.errors import BundleError

Sides = dict[str, int]
"""Size of each free side by its name, such as n, h or p."""


def sides_of(spec: TensorSpec, shape: tuple[int, ...], known: Sides) -> None:
    """Learn free sides from an array's shape: a side ``16*h`` of 64 says that h is 4."""
    for said, size in zip(spec.shape, shape):
        if isinstance(said, str) and "+" not in said:
            *factors, name = said.split("*")
            known[name] = size // math.prod(int(factor) for factor in factors)


def shape_of(spec: TensorSpec, known: Sides) -> tuple[int, ...]:
    """Return the shape of an array whose free sides are known.

    Raises BundleError for a side that is a number in no way.
    """
    try:
        return tuple(said if isinstance(said, int) else _size(said, known) for said in spec.shape)
    except (KeyError, ValueError):
        raise BundleError(f"the shape {list(spec.shape)} of {spec.name} does not follow from {known}") from None


def _size(said: str, known: Sides) -> int:
    """The size of a side such as ``16*h`` or ``p+k``."""
    return sum(
        math.prod(int(part) if part.strip().isdigit() else known[part.strip()] for part in term.split("*"))
        for term in said.split("+")
    )
