"""Building models without values, for their names and shapes or before weights are loaded."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

INITIALISERS = {"normal_", "uniform_", "kaiming_uniform_", "kaiming_normal_", "trunc_normal_", "xavier_uniform_"}
"""Functions that fill a tensor with random numbers and return it."""


class _Idle(TorchFunctionMode):
    """Skips functions that fill tensors with random numbers."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in INITIALISERS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def unfilled() -> Generator[None]:
    """Modules built inside use no memory and draw no random numbers; fill them by ``load_state_dict(assign=True)``.

    The meta device alone would do, but torch's ``normal_`` on it first imports torch's compiler, for many seconds.
    """
    with torch.device("meta"), _Idle():
        yield
