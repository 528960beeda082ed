"""Averages of a model's weights over the steps of its training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from smalti_train.trainers.loop import Model


class Average(Generic[Model]):
    """A copy of ``source``, called ``model``, whose weights are averages over steps; its buffers are the source's.

    ``decay`` lies in 0 .. 1. The first update copies the weights; the n-th after it keeps a share of
    min(``decay``, (1 + n) / (10 + n)). With a constant 0.999 a sixth of the random start would remain after 1800 steps.
    """

    def __init__(self, source: Model, decay: float, every: int = 1) -> None:
        self.source, self.decay, self.every = source, decay, every
        self.averaged = AveragedModel(source, multi_avg_fn=self._follow)

    @property
    def model(self) -> Model:
        """The model with the averaged weights."""
        return cast(Model, self.averaged.module)

    def update(self, step: int) -> None:
        """Let the weights follow, if ``step`` (counted from 1) is a multiple of ``every``."""
        if step % self.every == 0:
            self.averaged.n_averaged.fill_(step // self.every - 1)  # a resumed run counts on
            self.averaged.update_parameters(self.source)

    @torch.no_grad()
    def _follow(self, averages: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        keep = min(self.decay, (1 + int(count)) / (10 + int(count)))
        for average, value in zip(averages, current, strict=True):
            average.lerp_(value, 1 - keep)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights, under the model's own names."""
        return self.model.state_dict()

    def load_state_dict(self, state_dict: Any, /) -> None:
        """Undo :meth:`state_dict`."""
        self.model.load_state_dict(state_dict)
