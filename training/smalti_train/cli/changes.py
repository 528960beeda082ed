"""How the options of ``smalti train`` change a preset."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

from smalti.errors import UsageError
from smalti_train.cli.options import Changes
from smalti_train.data.config import DataConfig
from smalti_train.runs.config import AnyRun, Precision


def resolve(config: AnyRun, changes: Changes) -> AnyRun:
    """Change single fields of a preset. Raises UsageError for values that are not allowed."""
    check_numbers(changes.lr, steps=changes.steps, batch=changes.batch)
    if changes.precision is not None and changes.precision not in get_args(Precision):
        raise UsageError(f"precision {changes.precision!r}: allowed are {', '.join(get_args(Precision))}")

    def changed(*names: str) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(changes, name)) is not None}

    loop = dataclasses.replace(config.loop, **changed("steps", "batch", "precision", "compile", "seed"))
    optimizer = dataclasses.replace(config.optimizer, **changed("lr"))
    return dataclasses.replace(config, loop=loop, optimizer=optimizer, data=with_images(config.data, changes))


def check_numbers(lr: float | None, **counts: int | None) -> None:
    """Raise UsageError for counts below 1 and for a rate outside 0 .. 1."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise UsageError(f"{name} {value}: at least 1 is needed")
    if lr is not None and not 0 < lr < 1:
        raise UsageError(f"lr {lr}: must lie between 0 and 1")


def with_images(config: DataConfig, changes: Changes) -> DataConfig:
    """The configuration with another data set or root, if given."""
    config = config if changes.data is None else dataclasses.replace(config, name=changes.data)
    return config if changes.root is None else dataclasses.replace(config, root=str(changes.root.resolve()))
