"""A prior's run keeps a copy of its autoencoder, and the tokens of the training images."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from safetensors.torch import save

from smalti.errors import OutputError, UsageError
from smalti.system.files import replace_file
from smalti_train.data.dataset import ImageSet
from smalti_train.data.pixels import to_images
from smalti_train.data.progress import image_progress
from smalti_train.runs.config import CodecRun, PixelRun
from smalti_train.runs.config_files import differences, to_json
from smalti_train.runs.loading import Autoencoder, load_autoencoder
from smalti_train.runs.machines import wait_until


def find_autoencoder(run: Path, source: Path | None) -> tuple[Autoencoder, CodecRun]:
    """Load the autoencoder of a prior's run: from the run ``source``, or from the copy in the prior's run.

    Raises UsageError when there is neither, or when ``source`` has changed since the prior's run began.
    """
    own = run / "autoencoder"
    if source is None:
        if not own.exists():
            raise UsageError("a new run learns an autoencoder's tokens: name that one's run with --autoencoder")
        return load_autoencoder(own)
    model, config = load_autoencoder(source)
    copy = own / "model.safetensors"
    if copy.exists() and copy.read_bytes() != save(model.state_dict()):
        changed = "; ".join(differences(config, load_autoencoder(own)[1])) or "its weights were trained further"
        raise UsageError(
            f"{source} is not the autoencoder this run began with ({changed}). Leave --autoencoder out to continue "
            "with the run's own copy, or start another run."
        )
    return model, config


def keep_autoencoder(run: Path, model: Autoencoder, config: CodecRun, steps: int | None = None) -> None:
    """Copy the autoencoder into a prior's run, so that training it further does not break the pair.

    The copy's configuration records the ``steps`` made (if known) in place of the steps planned. An existing copy is
    left alone. Raises OutputError when the copy cannot be written.
    """
    own = run / "autoencoder"
    if (own / "model.safetensors").exists():
        return
    if steps is not None and not isinstance(config, PixelRun):
        config = dataclasses.replace(config, loop=dataclasses.replace(config.loop, steps=steps))
    try:
        own.mkdir(parents=True, exist_ok=True)
        replace_file(own / "config.json", to_json(config))
        replace_file(own / "model.safetensors", save(model.state_dict()))
    except OSError as error:
        raise OutputError(f"cannot write to {own}: {error}") from error


@torch.no_grad()
def encode_images(
    model: Autoencoder, data: ImageSet, accelerator: Accelerator, flip: bool, title: str, batch: int = 64
) -> NDArray[np.int16]:
    """Tokens (int16 [N, h, w]) of every image, followed by those of the mirrored images when ``flip`` is set.

    Computed in fp32 whatever the run's precision: in bf16 one patch in nine gets another code (avatars-256), and the
    prior would learn tokens that differ from those of a bundle's encoder.
    """
    parts: list[NDArray[np.int16]] = []
    model.to(accelerator.device)
    with image_progress(title, len(data) * (1 + flip), enabled=accelerator.is_main_process) as tick:
        for mirrored in (False, True)[: 1 + flip]:
            for first in range(0, len(data), batch):
                images = to_images(data.images[first : first + batch], accelerator.device, model.config.value_range)
                ids = model.encode(images.flip(3) if mirrored else images)
                parts.append(ids.cpu().numpy().astype(np.int16))
                for _ in range(len(images)):
                    tick()
    return np.concatenate(parts)


def cached_tokens(
    path: Path, model: Autoencoder, data: ImageSet, accelerator: Accelerator, flip: bool, title: str
) -> NDArray[np.int16]:
    """Read the tokens at ``path`` (int16 [N or 2N, h, w]), which lies in the run folder.

    If the file does not exist, the main process encodes the images first, while the others wait for it. Raises
    OutputError when the file cannot be written, UsageError where it does not appear to another process.
    """
    with accelerator.main_process_first():
        if accelerator.is_main_process and not path.exists():
            buffer = io.BytesIO()
            np.save(buffer, encode_images(model, data, accelerator, flip, title), allow_pickle=False)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_file(path, buffer.getvalue())
            except OSError as error:
                raise OutputError(f"cannot write {path}: {error}") from error
    if not wait_until(path.exists, path.parent):
        raise UsageError(f"{path} does not appear here; look whether this machine still sees the run folder")
    return np.load(path, allow_pickle=False)
