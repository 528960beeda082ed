"""One batch over several processes: which rows are whose, and losses that look at all of them."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

Rows = TypeVar("Rows", Tensor, NDArray[np.int64])


def share(accelerator: Accelerator, whole: Rows) -> Rows:
    """Slice the rows of a batch that belong to this process."""
    each = len(whole) // accelerator.num_processes
    return whole[accelerator.process_index * each : (accelerator.process_index + 1) * each]


class _Whole(torch.autograd.Function):
    """A batch of every process's rows; its gradient is that of the sum of what all processes make of it."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, accelerator: Accelerator) -> Tensor:
        ctx.accelerator = accelerator
        return accelerator.gather(local.contiguous())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride] - of one output
        total = ctx.accelerator.reduce(gradient.contiguous(), reduction="sum")
        return share(ctx.accelerator, total), None


def whole_batch(accelerator: Accelerator, local: Tensor) -> Tensor:
    """Undo :func:`share` (rows in order), with gradient: a loss of the whole batch, computed by every process alike.

    Such a loss may look at all images together, as batch norms do. Its gradient at ``local`` is as many times too large
    as there are processes, so that after their gradients are averaged the parameters' are those of one process.
    """
    if accelerator.num_processes == 1:
        return local
    return cast(Tensor, _Whole.apply(local, accelerator))  # pyright: ignore[reportUnknownMemberType] - torch gives none
