"""From the names and shapes of a checkpoint to those of a model: sizes read off, every misfit named."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smalti.errors import UsageError
from smalti_train.importers.reading import some

Shapes = Mapping[str, Sequence[int]]
"""Shape of every tensor by its name in the file."""


@dataclass(frozen=True)
class Slot:
    """What a layout expects under one name."""

    shape: tuple[int, ...]
    name: str | None
    """The model's name for it; None where files hold it and no model uses it."""


Layout = dict[str, Slot]
"""Everything a file has to hold, by its name there."""


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes of a state dict."""
    return {name: tuple(value.shape) for name, value in state.items()}


class Published:
    """Names and shapes of a file's tensors below a prefix, and the sizes that they tell."""

    def __init__(self, shapes: Shapes, prefix: str = "") -> None:
        self.shapes = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
        self.prefix = prefix
        """Left out of the names that are asked for, put back into those of messages."""

    def size(self, *places: tuple[str, int]) -> int:
        """The size that most of ``places`` (name, axis) agree on, so that a single wrong tensor is found out and named.

        Raises UsageError when none of them is there.
        """
        shapes = self.shapes
        votes = Counter(shapes[name][axis] for name, axis in places if name in shapes and len(shapes[name]) > axis)
        if not votes:
            raise UsageError(f"lacks {some(self.prefix + name for name, _ in places)}, which tell a size")
        return votes.most_common(1)[0][0]

    def multipliers(self, widths: Sequence[int], first: int, name: str) -> tuple[int, ...]:
        """``widths`` in units of ``first``, which ``name`` told; UsageError where they are no multiples."""
        if first < 1 or any(width % first for width in widths):
            raise UsageError(f"{self.prefix}{name} asks for {first} channels, of which {list(widths)} are no multiples")
        return tuple(width // first for width in widths)

    def has(self, start: str) -> bool:
        """Whether any name starts so."""
        return any(name.startswith(start) for name in self.shapes)

    def members(self, stack: str) -> dict[int, set[str]]:
        """The numbered members of a list of modules, each with the first names of what is below it."""
        found: dict[int, set[str]] = {}
        for name in self.shapes:
            if match := re.match(rf"{re.escape(stack)}\.(\d{{1,6}})\.(\w+)", name):
                found.setdefault(int(match[1]), set()).add(match[2])
        return found


def fitted(state: Mapping[str, Tensor], layout: Layout, what: str) -> dict[str, Tensor]:
    """Copies (float32, contiguous) of the tensors of ``layout`` by the model's names.

    Raises UsageError that names what the file lacks, what it has too much, what has another shape than the rest of the
    file asks for, and what is not a finite number. ``what`` says what the file was read as.
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
    """A copy of a user's ``config`` with pairs as tuples; known are the keys below.

    ``heads`` and ``resolution``: a whole number from 1; ``grid``: two of them; ``attn_resolutions``: any number of
    them. Raises UsageError for a key that is not ``allowed`` (naming those that are) and for another kind of value.
    """
    allowed = tuple(allowed)
    if not isinstance(config or {}, Mapping):
        raise UsageError(
            f"the configuration is a {type(config).__name__}, not names with values ({', '.join(allowed)})"
        )
    checked: dict[str, Any] = {}
    for key, value in (config or {}).items():
        if key not in allowed:
            raise UsageError(f"unknown key {some([str(key)])} in the configuration; allowed are: {', '.join(allowed)}")
        if key in ("grid", "attn_resolutions"):
            listed = list(value) if isinstance(value, list | tuple) else [None]
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
