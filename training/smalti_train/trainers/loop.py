"""Shared parts of the training loops: processes, precision, order of the images, learning rate, progress."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from smalti.errors import UsageError
from smalti_train.runs.config import LoopConfig, OptimizerConfig
from smalti_train.runs.folder import RunFolder


def start(loop: LoopConfig, folder: RunFolder) -> Accelerator:
    """Set up processes, device and precision; metrics go to tensorboard below the run's folder."""
    try:
        accelerator = Accelerator(
            mixed_precision="no" if loop.precision == "fp32" else loop.precision,
            cpu=not torch.accelerator.is_available(),  # otherwise accelerate overlooks other processes on a CPU
            dynamo_backend="inductor" if loop.compile else "no",
            log_with="tensorboard",
            project_config=ProjectConfiguration(project_dir=str(folder.path), logging_dir=str(folder.path / "logs")),
        )
    except ValueError as error:
        raise UsageError(
            f"precision {loop.precision} does not run on this machine: {error}. Try --precision fp32."
        ) from None
    if loop.batch % accelerator.num_processes:
        raise UsageError(f"batch {loop.batch} does not divide among {accelerator.num_processes} processes")
    if loop.precision == "fp16" and accelerator.device.type == "cpu":
        raise UsageError("fp16 does not train on a CPU; use --precision bf16 or fp32")
    return accelerator


def batch_indices(step: int, batch: int, count: int, seed: int) -> NDArray[np.int64]:
    """Indices of the images of ``step``, from a new permutation for every pass over the data.

    They depend only on the arguments, so a resumed run sees the images that it would have seen uninterrupted.
    """
    positions = np.arange(step * batch, (step + 1) * batch)
    passes = positions // count
    indices = np.empty(batch, np.int64)
    for number in np.unique(passes):
        chosen = passes == number
        order = np.random.default_rng([seed, int(number)]).permutation(count)
        indices[chosen] = order[positions[chosen] % count]
    return indices


def step_generator(seed: int, step: int) -> torch.Generator:
    """Random generator of one step, the same on every process and after every restart."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 2 + 1)


def learning_rate(step: int, loop: LoopConfig, config: OptimizerConfig) -> float:
    """Linear warm-up, then half a cosine from ``lr`` down to ``final_lr * lr`` at the last step."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, loop.steps))))
    peak = config.lr * loop.batch if config.per_image else config.lr
    return peak * warm * (config.final_lr + (1 - config.final_lr) * cosine)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group of the optimiser the same rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def moving_average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Update function for averaged weights, with decay min(``decay``, (1 + n) / (10 + n)) at the n-th update.

    With a constant decay of 0.999 a sixth of the random start would remain after 1800 steps.
    """

    @torch.no_grad()
    def update(averages: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        number = int(count)
        keep = min(decay, (1 + number) / (10 + number))
        for average, value in zip(averages, current):
            average.lerp_(value, 1 - keep)

    return update


def scaler_state(accelerator: Accelerator) -> dict[str, dict[str, float]]:
    """State of fp16's loss scale for a checkpoint's JSON; empty in other precisions."""
    return {} if accelerator.scaler is None else {"scaler": accelerator.scaler.state_dict()}


def restore_scaler(accelerator: Accelerator, state: Mapping[str, Any]) -> None:
    """Undo :func:`scaler_state`."""
    if accelerator.scaler is not None and "scaler" in state:
        accelerator.scaler.load_state_dict(state["scaler"])


@contextlib.contextmanager
def interruptible(accelerator: Accelerator, report: Reporter, checkpoint: Callable[[], None]) -> Iterator[None]:
    """Context for a training's steps: an interrupt writes a checkpoint; terminal and logs are closed in any case."""
    try:
        yield
    except KeyboardInterrupt:
        checkpoint()
        raise
    finally:
        report.close()
        accelerator.end_training()


class Reporter:
    """Progress of a run on stderr: a bar on a terminal, a line every ``every`` seconds elsewhere."""

    def __init__(self, title: str, step: int, steps: int, batch: int, main: bool, every: float = 15.0) -> None:
        self.title, self.steps, self.batch, self.main, self.every = title, steps, batch, main, every
        self.first, self.started, self.spoke = step, time.monotonic(), 0.0
        self.bar: Progress | None = None
        if main and sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
            )
            bar = self.bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
            bar.start()
            self.task = bar.add_task(title, total=steps, completed=step, figures="")

    def __call__(self, step: int, figures: Mapping[str, float]) -> None:
        """Report that ``step`` is done, with its figures."""
        rate = (step - self.first) * self.batch / max(1e-9, time.monotonic() - self.started)
        text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items()) + f"  {rate:.1f} images/s"
        if self.bar:
            self.bar.update(self.task, completed=step, figures=text)
        elif self.main and (time.monotonic() - self.spoke > self.every or step == self.steps):
            self.spoke = time.monotonic()
            left = (self.steps - step) * self.batch / max(1e-9, rate)
            print(f"{self.title} {step}/{self.steps}  {text}  {left / 60:.1f} min left", file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self.bar:
            self.bar.console.print(line, highlight=False)
        elif self.main:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Restore the terminal."""
        if self.bar:
            self.bar.stop()
