"""Functions of torch that its own annotations leave without a type, with one."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def from_numpy(array: NDArray[Any]) -> Tensor:
    """An array as a tensor that shares its memory."""
    return torch.from_numpy(array)  # pyright: ignore[reportUnknownMemberType] - its argument has no type


def listed(tensor: Tensor) -> list[Any]:
    """Numbers of a tensor, in lists for every dimension beyond the first."""
    return tensor.tolist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - a list of anything


def distinct(tensor: Tensor) -> Tensor:
    """The values of a tensor, each once, in rising order."""
    return tensor.unique()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - it depends on options


def distinct_and_places(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """The values of a tensor, each once, in rising order; and the index among them of every element."""
    return torch.unique(tensor, return_inverse=True)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def distinct_rows(tensor: Tensor) -> Tensor:
    """The rows of a tensor, each once."""
    return tensor.unique(dim=0)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - as above


def seed_torch(seed: int) -> None:
    """Seed torch's own random generators, on every device."""
    torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType] - its argument has no type
