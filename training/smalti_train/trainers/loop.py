"""Parts of the training loop: processes and precision, order of the images, random generators, learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration
from numpy.typing import NDArray
from torch import nn

from smalti.errors import UsageError
from smalti_train.runs.config import LoopConfig, OptimizerConfig
from smalti_train.runs.folder import RunFolder
from smalti_train.runs.machines import PATIENCE

Model = TypeVar("Model", bound=nn.Module)


def start(loop: LoopConfig, folder: RunFolder) -> Accelerator:
    """Set up processes, device and precision; metrics go to tensorboard below the run's folder."""
    try:
        accelerator = Accelerator(
            mixed_precision="no" if loop.precision == "fp32" else loop.precision,
            cpu=not torch.accelerator.is_available(),  # otherwise accelerate overlooks other processes on a CPU
            dynamo_backend="inductor" if loop.compile else "no",
            log_with="tensorboard",
            project_config=ProjectConfiguration(project_dir=str(folder.path), logging_dir=str(folder.path / "logs")),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
    except ValueError as error:
        raise UsageError(
            f"precision {loop.precision} does not run on this machine: {error}. Try --precision fp32."
        ) from None
    if loop.batch % (count := accelerator.num_processes):
        fitting = max(fewer for fewer in range(1, count) if loop.batch % fewer == 0)
        raise UsageError(
            f"batch {loop.batch} does not divide among {count} processes: start {fitting}, or begin a new run with "
            f"--batch {loop.batch + count - loop.batch % count}"
        )
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


def channels_last(model: Model) -> Model:
    """Lay out the weights of ``model`` for convolutions over images whose channels lie last."""
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue, reportUnknownVariableType] - missing from torch's stubs


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


def scaler_state(accelerator: Accelerator) -> dict[str, dict[str, float]]:
    """State of fp16's loss scale for a checkpoint's JSON; empty in other precisions."""
    return {} if accelerator.scaler is None else {"scaler": accelerator.scaler.state_dict()}


def restore_scaler(accelerator: Accelerator, state: Mapping[str, Any]) -> None:
    """Undo :func:`scaler_state`."""
    if accelerator.scaler is not None and "scaler" in state:
        accelerator.scaler.load_state_dict(state["scaler"])
