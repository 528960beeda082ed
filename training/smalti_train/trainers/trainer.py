"""The loop of every training: start, resume, steps, figures, sheets and checkpoints.

A training opens its data, builds its models, registers what a checkpoint holds, and gives :meth:`Trainer.run` one
function for a step and one each for the figures and the sheet of its present state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from smalti_train.data import ImageSet
from smalti_train.data.config import DataConfig, open_split
from smalti_train.runs.config import AutoencoderRun, CodecRun, HeadsRun, PreviewRun, PriorRun, VQGANRun
from smalti_train.runs.folder import RunFolder, optimizer_tensors, read_checkpoint, restore_optimizer
from smalti_train.runs.images import SPLITS, digest
from smalti_train.runs.loading import Autoencoder, trained_steps
from smalti_train.runs.machines import check_same, check_shared, gathered, together, wait_until
from smalti_train.runs.processes import share
from smalti_train.runs.token_cache import keep_autoencoder
from smalti_train.trainers.averaging import Average
from smalti_train.trainers.interrupts import Interrupts
from smalti_train.trainers.loop import (
    Model,
    batch_indices,
    learning_rate,
    restore_scaler,
    scaler_state,
    set_learning_rate,
    start,
    step_generator,
)
from smalti_train.trainers.loss_guard import LossWatch
from smalti_train.trainers.reporter import Reporter

LOG_EVERY = 10
"""Steps between two reports of the losses."""
Trained = AutoencoderRun | VQGANRun | PriorRun | PreviewRun | HeadsRun


class Stateful(Protocol):
    """Part of a training whose tensors belong into a checkpoint: a model, an average, a table."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors by name."""
        ...

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Take the tensors of :meth:`state_dict`."""
        ...


@contextlib.contextmanager
def training(title: str, config: Trained, path: Path) -> Generator[Trainer]:
    """Context of one training of ``config`` in the run below ``path``, which no other training may write meanwhile.

    Raises UsageError for a configuration that does not fit the run or the machine.
    """
    with contextlib.closing(RunFolder(path)) as folder, together():
        trainer = Trainer(title, config, folder)
        try:
            yield trainer
        finally:
            trainer.accelerator.free_memory()


class Trainer:
    """One run in training; :func:`training` makes it.

    ``step`` counts the steps done. ``accelerator`` knows the processes, the device and the precision.
    """

    def __init__(self, title: str, config: Trained, folder: RunFolder) -> None:
        self.title, self.config, self.folder = title, config, folder
        self.accelerator = start(config.loop, folder)
        self.main = self.accelerator.is_main_process
        with self.accelerator.main_process_first():
            folder.open(config, main=self.main)
        check_shared(self.accelerator, folder.path)
        saved = self._latest()
        self.new = saved is None
        """Whether no checkpoint was there."""
        self.step = 0
        self._saved: dict[str, dict[str, Tensor]] = {}
        if saved is not None:
            self._saved, self.step = saved[0], saved[1]["step"]
            restore_scaler(self.accelerator, saved[1])
        self._parts: dict[str, Stateful] = {}
        self._averages: list[Average[Any]] = []

    def _latest(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
        """Read the checkpoint that is the newest to the main process; None for a new run."""
        newest = gathered(self.accelerator, self.folder.newest())[0]
        if newest < 0:
            return None
        path = self.folder.checkpoint(newest)
        wait_until((path / "state.json").exists, self.folder.path)
        return read_checkpoint(path)

    def open_images(self, data: DataConfig | None = None) -> tuple[ImageSet, ImageSet]:
        """Open the images to train on and those to measure on: the run's, or those of ``data``.

        All processes may build a missing cache: where they share its folder, one does and the others wait, and else
        each machine builds its own. Raises UsageError where the processes then have different images.
        """
        train, validation = (open_split(data or self.config.data, split) for split in SPLITS)
        if self.accelerator.num_processes > 1:
            for images in (train, validation):
                check_same(self.accelerator, digest(images), f"{images.split} images")
        return train, validation

    def open_data(self) -> tuple[ImageSet, ImageSet]:
        """Open the run's images, and keep the configuration, as it fits them."""
        splits = self.open_images()
        self.keep_config()
        return splits

    def keep_config(self) -> None:
        """Write the configuration into the folder, once it is known to fit the data."""
        if self.main:
            self.folder.keep_config(self.config)

    def keep_autoencoder(self, codec: Autoencoder, config: CodecRun, source: Path | None) -> None:
        """Copy the autoencoder of the run ``source`` into the folder (None: it is there); keep the configuration."""
        if self.main:
            keep_autoencoder(self.folder.path, codec, config, trained_steps(source) if source else None)
        self.keep_config()

    def register(self, name: str, part: Stateful, init: Mapping[str, Tensor] | None = None) -> None:
        """Have every checkpoint hold ``part`` under ``name``.

        A resumed run's part gets its tensors back here; a new run's part starts from ``init``, if that is given.
        """
        if self.new and init is not None:
            part.load_state_dict(init)
        elif not self.new:
            tensors = self._saved.pop(name)  # not kept in memory beside the part
            if isinstance(part, torch.optim.Optimizer):
                restore_optimizer(part, tensors)
            else:
                part.load_state_dict(tensors)
        self._parts[name] = part

    def adam(self, model: nn.Module, name: str = "optimizer") -> torch.optim.Optimizer:
        """Register AdamW over those weights of ``model`` that learn, as the run's configuration wants it."""
        wanted = self.config.optimizer
        optimizer = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            betas=wanted.betas,
            weight_decay=wanted.weight_decay,
            fused=True,
        )
        self.register(name, optimizer)
        return optimizer

    def average(self, model: Model, decay: float, every: int = 1) -> Average[Model]:
        """Register an average of the weights of ``model``, which the loop updates after every ``every``-th step."""
        average = Average(model, decay, every)
        self.register("ema", average)
        average.averaged.to(self.accelerator.device)
        self._averages.append(average)
        return average

    def update(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Move the weights of ``model`` by their gradients, clipped as configured, and clear those."""
        if self.config.optimizer.clip:
            self.accelerator.clip_grad_norm_(model.parameters(), self.config.optimizer.clip)
        optimizer.step()
        optimizer.zero_grad()

    def rows(self, number: int, count: int) -> NDArray[np.int64]:
        """Indices, in rising order, of those of ``count`` images that this process sees at step ``number``."""
        loop = self.config.loop
        return np.sort(share(self.accelerator, batch_indices(number, loop.batch, count, loop.seed)))

    def scalars(self, **values: float) -> dict[str, Tensor]:
        """Numbers as scalars on this training's device."""
        return {name: torch.tensor(float(value), device=self.accelerator.device) for name, value in values.items()}

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over the processes."""
        return self.accelerator.reduce(value, reduction="mean")

    def mean_gradients(self, model: nn.Module) -> None:
        """Average the gradients of ``model``, which accelerate did not prepare, over the processes."""
        if self.accelerator.num_processes > 1:
            for parameter in model.parameters():
                parameter.grad = None if parameter.grad is None else self.mean(parameter.grad)

    def reports(self, step: int) -> bool:
        """Whether the losses of ``step``, counted from 0, are reported."""
        return (step + 1) % LOG_EVERY == 0 or step + 1 == self.config.loop.steps

    def run(
        self,
        step: Callable[[int, torch.Generator], dict[str, Tensor]],
        evaluate: Callable[[bool], dict[str, float]],
        sheet: Callable[[], Image.Image] | None = None,
        shown: tuple[str, ...] = ("loss",),
    ) -> None:
        """Train to the last step of the configuration, and leave a checkpoint there and at an interrupt or SIGTERM.

        A signal that comes to any process stops all of them after the same step (:class:`Interrupts`).

        ``step`` gets the number of the step, counted from 0, and its random generator, which is the same on every
        process; it returns scalars by name, of which those ``shown`` stand in the progress line. ``evaluate`` measures
        unseen data, all of it when its argument is true. Raises TrainingError when a scalar or a weight is no longer
        finite, OutputError when something cannot be written.
        """
        loop, accelerator = self.config.loop, self.accelerator
        optimizers = [part for part in self._parts.values() if isinstance(part, torch.optim.Optimizer)]
        models = [part for part in self._parts.values() if isinstance(part, nn.Module)]
        accelerator.init_trackers("tensorboard")
        report = Reporter(self.title, self.step, loop.steps, loop.batch, self.main)
        watch = LossWatch(accelerator, loop, self.folder, *models)
        interrupts, stopped, whole = Interrupts(accelerator), False, True
        try:
            with interrupts:
                while self.step < loop.steps and not stopped:
                    rate = learning_rate(self.step, loop, self.config.optimizer)
                    for optimizer in optimizers:
                        set_learning_rate(optimizer, rate)
                    whole = False
                    scalars = step(self.step, step_generator(loop.seed, self.step))
                    self.step += 1
                    for average in self._averages:
                        average.update(self.step)
                    whole = True
                    watch(self.step, *scalars.values())

                    last = self.step == loop.steps
                    if self.reports(self.step - 1):
                        means = accelerator.reduce({name: value.detach() for name, value in scalars.items()}, "mean")
                        figures = {name: value.item() for name, value in means.items()}
                        accelerator.log({f"train/{name}": value for name, value in figures.items()}, step=self.step)
                        accelerator.log({"lr": rate}, step=self.step)
                        report(self.step, {name: figures[name] for name in shown if name in figures})
                    if self.main and (last or self.step % loop.evaluate_every == 0):
                        interrupts.aside(partial(self._evaluate, evaluate, last, report))
                    if self.main and sheet is not None and (last or self.step % loop.sheet_every == 0):
                        interrupts.aside(partial(self._draw, sheet))
                    stopped = interrupts.agreed()
                    if last or stopped or self.step % loop.checkpoint_every == 0:
                        self._checkpoint(watch)
            accelerator.wait_for_everyone()  # while the main process evaluates, say
        except KeyboardInterrupt:
            if whole:  # else a part of the step's changes has been made, and the next run would make it again
                self._checkpoint(watch)
            raise
        finally:
            report.close()
            for tracker in accelerator.trackers:
                tracker.finish()
        if stopped:
            interrupts.obey()

    def _evaluate(self, evaluate: Callable[[bool], dict[str, float]], last: bool, report: Reporter) -> None:
        figures = evaluate(last)
        self.accelerator.log({f"validation/{name}": value for name, value in figures.items()}, step=self.step)
        said = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        report.say(f"step {self.step}: validation {said}")

    def _draw(self, sheet: Callable[[], Image.Image]) -> None:
        self.folder.save_sheet(self.step, sheet())

    def _checkpoint(self, watch: LossWatch) -> None:
        watch.check()
        if self.main:
            tensors = {
                name: optimizer_tensors(part) if isinstance(part, torch.optim.Optimizer) else part.state_dict()
                for name, part in self._parts.items()
            }
            self.folder.save(self.step, tensors, scaler_state(self.accelerator))
