"""The folder of a run: its configuration and its checkpoints, safe against being killed at any moment.

    RUN/config.json               the resolved configuration
    RUN/checkpoint-00001200/      model.safetensors, optimizer.safetensors, ..., state.json
    RUN/images.json               digests of the images, which may move (``images.py``)
    RUN/sheets/, RUN/logs/        sample grids, tensorboard

A checkpoint is written into a folder of another name, flushed, and renamed, so every folder named ``checkpoint-*`` is
whole. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from smalti.errors import OutputError, SmaltiError, UsageError
from smalti.saving.formats import save_png
from smalti.system.files import flush, move_folder, remove_folder, replace_file
from smalti_train.runs.config import PixelRun, Run
from smalti_train.runs.config_files import differences, read_run, to_json
from smalti_train.runs.images import check_moved, keep_digests

KEEP = 2
"""Checkpoints kept: the last, and one more in case the disk damages it."""


class RunFolder:
    """The folder of one configuration; while open, it belongs to one training."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: FileLock | None = None

    def open(self, config: Run, main: bool = True) -> None:
        """Create the folder for ``config``, or open the run that is already there.

        Where several processes train together, only the ``main`` one writes: it takes the lock and clears away. The
        images may lie in another folder than before, if they are the same. Raises UsageError when the folder belongs to
        another configuration or to a training still running, OutputError when it cannot be written.
        """
        try:
            if main:
                self.path.mkdir(parents=True, exist_ok=True)
                self._lock = FileLock(self.path / ".lock", timeout=0)
                self._lock.acquire()
            if (self.path / "config.json").exists():
                self._check_same(config, read_run(self.path / "config.json"))
            for left_over in self.path.glob(".checkpoint-*") if main else ():
                remove_folder(left_over)
        except Timeout:
            raise UsageError(
                f"another training is writing to {self.path}; wait for it or name another folder"
            ) from None
        except OSError as error:
            raise OutputError(f"cannot write to {self.path}: {error}") from error

    def keep_config(self, config: Run) -> None:
        """Write the configuration; from then on the folder belongs to it. Raises OutputError when that fails."""
        try:
            replace_file(self.path / "config.json", to_json(config))
            if not isinstance(config, PixelRun):  # there is nothing to continue
                keep_digests(self.path, config.data)
        except OSError as error:
            raise OutputError(f"cannot write to {self.path}: {error}") from error

    def _check_same(self, config: Run, existing: Any) -> None:
        if type(existing) is not type(config):
            raise UsageError(f"{self.path} holds a run of another kind; name another folder")
        changed = differences(existing, config)
        # Look at the images only where nothing else forbids to continue.
        moved = all(line.startswith("data.root:") for line in changed)
        if moved and check_moved(self.path, existing.data, config.data):
            changed = []
        if changed:
            raise UsageError(
                f"{self.path} was started under another configuration ({'; '.join(changed)}). "
                "Continue it with the same options, or name another folder and start from its weights with --init."
            )

    def close(self) -> None:
        """Release the lock, so that another process may continue the run; no effect if not open."""
        if self._lock is not None:
            self._lock.release()

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted(self.path.glob("checkpoint-*"))

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step lies, or would."""
        return self.path / f"checkpoint-{step:08d}"

    def newest(self) -> int:
        """The step of the newest checkpoint; -1 where there is none."""
        found = self.checkpoints()
        return int(found[-1].name.removeprefix("checkpoint-")) if found else -1

    def save(self, step: int, parts: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Write a checkpoint: groups of tensors by name, and ``state`` as JSON.

        Raises OutputError when it cannot be written (a full disk, say); earlier checkpoints are untouched.
        """
        target, partial = self.checkpoint(step), self.path / f".checkpoint-{step:08d}"
        try:
            partial.mkdir(exist_ok=True)
            for name, tensors in parts.items():
                save_file({key: value.contiguous() for key, value in tensors.items()}, partial / f"{name}.safetensors")
            (partial / "state.json").write_bytes(json.dumps({"step": step, **state}).encode())
            for file in partial.iterdir():
                flush(file)
            remove_folder(target)
            move_folder(partial, target)
        except (OSError, SafetensorError) as error:
            remove_folder(partial)
            kept = self.checkpoints()
            safe = f"{kept[-1].name} is untouched and training continues from there" if kept else "nothing was written"
            raise OutputError(
                f"cannot write {target}: {error}. Free some space and run the command again; {safe}."
            ) from error
        for old in self.checkpoints()[:-KEEP]:
            # Renamed first, so that none that is left is a part; Windows refuses while one of its files is open.
            with contextlib.suppress(OSError):
                remove_folder(old.rename(old.with_name(f".{old.name}")))

    def save_sheet(self, step: int, image: Image.Image) -> None:
        """Write a grid of images as ``sheets/STEP.png``. Raises OutputError when it cannot be written."""
        target = self.path / "sheets" / f"{step:08d}.png"
        try:
            target.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write {target}: {error}") from error
        save_png(image, target)

    def latest(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
        """Tensors by group and JSON state of the newest checkpoint; None for a new run."""
        checkpoints = self.checkpoints()
        return read_checkpoint(checkpoints[-1]) if checkpoints else None


def read_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read what :meth:`RunFolder.save` wrote. Raises SmaltiError, naming the file, when it is damaged."""
    file = path / "state.json"
    try:
        state = json.loads(file.read_bytes())
        parts: dict[str, dict[str, Tensor]] = {}
        for file in sorted(path.glob("*.safetensors")):
            parts[file.stem] = load_file(file)
    except (OSError, SafetensorError, ValueError) as error:
        raise SmaltiError(
            f"{file} cannot be read: {error}. Remove {path} to continue from the checkpoint before it."
        ) from error
    return parts, state


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Flatten an optimiser's state to named tensors (``3.exp_avg``: the third parameter's first moment)."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, slots in state.items() for name, value in slots.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Undo :func:`optimizer_tensors`."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:
            # Files keep no memory layout, but fused optimisers expect moments in the parameter's layout.
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
