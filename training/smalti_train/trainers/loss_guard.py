"""Stops a training whose loss is no longer finite, before it overwrites a good checkpoint."""

from __future__ import annotations

import sys

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from smalti.errors import TrainingError
from smalti_train.runs.config import LoopConfig
from smalti_train.runs.folder import RunFolder

EVERY = 10
"""Steps between two checks; checking every step would make the CPU wait for the GPU."""
NEVER = sys.maxsize


class LossWatch:
    """Remembers the first step whose loss was not finite, and stops the training soon after.

    On every process, call it after every step with that step's loss, and call :meth:`check` before a checkpoint.
    """

    def __init__(self, accelerator: Accelerator, loop: LoopConfig, folder: RunFolder, *models: nn.Module) -> None:
        self.accelerator, self.loop, self.folder, self.models = accelerator, loop, folder, models
        self.first = torch.full((1,), NEVER, device=accelerator.device)

    def __call__(self, step: int, *losses: Tensor) -> None:
        """Record the losses (scalars) of ``step``, counted from 1.

        Checks at every tenth step and whenever something is evaluated, drawn or saved. Raises TrainingError when a loss
        was not finite.
        """
        finite = torch.stack([loss.detach() for loss in losses]).isfinite().all()
        self.first = torch.where(finite, self.first, self.first.clamp(max=step))
        loop = self.loop
        due = (EVERY, loop.evaluate_every, loop.sheet_every, loop.checkpoint_every, loop.steps)
        if any(step % every == 0 for every in due):
            everyone = self.accelerator.gather(self.first)  # all must stop: one alone would leave the others waiting
            self._stop_if(int(everyone.min()))

    def check(self) -> None:
        """Raise TrainingError unless all losses so far and all weights are finite."""
        self._stop_if(int(self.first))
        for model in self.models:
            for name, parameter in model.named_parameters():
                if not bool(parameter.detach().isfinite().all()):
                    raise TrainingError(f"the weights {name} are no longer finite. {self._remedy()}")

    def _stop_if(self, first: int) -> None:
        if first < NEVER:
            raise TrainingError(f"the loss of step {first} is not a finite number. {self._remedy()}")

    def _remedy(self) -> str:
        precision = "" if self.loop.precision == "fp32" else ", or with --precision fp32"
        kept = self.folder.checkpoints()
        if not kept:
            return f"No checkpoint was written before. Train into another folder with a lower --lr{precision}."
        return (
            f"{kept[-1]}, from before, is kept: train into another folder with --init {self.folder.path} and a lower "
            f"--lr{precision}."
        )
