"""Fitting a checkpoint's tensors to a model: reading sizes off shapes, and naming every misfit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from smalti.errors import UsageError
from smalti_train.importers.reading import some

Shapes = Mapping[str, Sequence[int]]
"""Shapes of tensors by their names in the file."""


@dataclass(frozen=True)
class Slot:
    """One tensor that a layout expects."""

    shape: tuple[int, ...]
    name: str | None
    """Its name in the model; None if no model uses it."""


Layout = dict[str, Slot]
"""All tensors that a file must hold, by their names there."""


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes of a state dict."""
    return {name: tuple(value.shape) for name, value in state.items()}


class Published:
    """Names and shapes of a file's tensors below a prefix; sizes are read off them."""

    def __init__(self, shapes: Shapes, prefix: str = "") -> None:
        self.shapes = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
        self.prefix = prefix
        """Prefix of the names in the file; arguments leave it out, messages include it."""

    def size(self, *places: tuple[str, int]) -> int:
        """The size on which most of ``places`` (name, axis) agree, so that a single wrong tensor can be named.

        Raises UsageError when none of them exists.
        """
        shapes = self.shapes
        votes = Counter(shapes[name][axis] for name, axis in places if name in shapes and len(shapes[name]) > axis)
        if not votes:
            raise UsageError(f"lacks {some(self.prefix + name for name, _ in places)}, which tell a size")
        return votes.most_common(1)[0][0]

    def multipliers(self, widths: Sequence[int], first: int, name: str) -> tuple[int, ...]:
        """``widths`` in units of ``first``, the size read from ``name``. Raises UsageError if not whole multiples."""
        if first < 1 or any(width % first for width in widths):
            raise UsageError(f"{self.prefix}{name} asks for {first} channels, of which {list(widths)} are no multiples")
        return tuple(width // first for width in widths)

    def has(self, start: str) -> bool:
        """Whether any name begins with ``start``."""
        return any(name.startswith(start) for name in self.shapes)

    def members(self, stack: str) -> dict[int, set[str]]:
        """The numbered members of a list of modules, each with the first parts of the names below it."""
        found: dict[int, set[str]] = {}
        for name in self.shapes:
            if match := re.match(rf"{re.escape(stack)}\.(\d{{1,6}})\.(\w+)", name):
                found.setdefault(int(match[1]), set()).add(match[2])
        return found


def fitted(state: Mapping[str, Tensor], layout: Layout, what: str) -> dict[str, Tensor]:
    """Copies (float32, contiguous) of the tensors of ``layout`` by the model's names.

    ``what`` names the source in messages. Raises UsageError, naming tensors that are missing or unknown, that have
    another shape than the rest of the file asks for, or that hold values that are not finite.
    """
    lacking = [name for name in layout if name not in state]
    foreign = [name for name in state if name not in layout]
    wrong = [
        f"{name} {list(state[name].shape)} where {list(slot.shape)} belongs"
        for name, slot in layout.items()
        if name in state and tuple(state[name].shape) != slot.shape
    ]
    kinds = (("lacks", lacking), ("has", wrong), ("has the unknown", foreign))
    if faults := [f"{verb} {some(keys)}" for verb, keys in kinds if keys]:
        raise UsageError(f"read as {what}, it {'; it '.join(faults)}")
    found = {
        slot.name: state[name].to(torch.float32, copy=True).contiguous()
        for name, slot in layout.items()
        if slot.name is not None
    }
    if broken := [name for name, slot in layout.items() if slot.name and not found[slot.name].isfinite().all()]:
        raise UsageError(f"is damaged: not every value is a finite number in {some(broken)}")
    return found


def checked_config(config: Mapping[str, Any] | None, allowed: Iterable[str]) -> dict[str, Any]:
    """A copy of a user's ``config`` with lists as tuples.

    ``heads`` and ``resolution`` are whole numbers from 1, ``grid`` two of them, ``attn_resolutions`` any number of
    them. Raises UsageError for a key that is not ``allowed`` (naming those that are) and for other values.
    """
    allowed = tuple(allowed)
    if not isinstance(config or {}, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - from a user
        raise UsageError(
            f"the configuration is a {type(config).__name__}, not names with values ({', '.join(allowed)})"
        )
    checked: dict[str, Any] = {}
    for key, value in (config or {}).items():
        if key not in allowed:
            raise UsageError(f"unknown key {some([str(key)])} in the configuration; allowed are: {', '.join(allowed)}")
        if key in ("grid", "attn_resolutions"):
            listed = list(cast("Sequence[object]", value)) if isinstance(value, list | tuple) else [None]
            if not all(map(_is_size, listed)) or (key == "grid" and len(listed) != 2):
                wanted = (
                    "two whole numbers, h and w in tokens" if key == "grid" else "a list of whole numbers, in cells"
                )
                raise UsageError(f"{key} is {wanted}, not {value!r:.80}")
            checked[key] = tuple(listed)
        elif not _is_size(value):
            raise UsageError(f"{key} is a whole number from 1, not {value!r:.80}")
        else:
            checked[key] = value
    return checked


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
