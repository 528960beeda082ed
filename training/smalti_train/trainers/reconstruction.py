"""Reconstruction of unseen images during an autoencoder's training: figures and a sheet."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from PIL import Image

from smalti.saving.formats import contact_sheet
from smalti_train.data import ImageSet
from smalti_train.data.pixels import to_images, to_pixels
from smalti_train.evaluation.metrics import code_use, psnr
from smalti_train.runs.loading import Autoencoder

JUDGED = 256
"""Unseen images measured during training; at its end all of them are."""


def _batches(data: ImageSet, limit: int | None, batch: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int32]]]:
    count = min(len(data.images), limit or len(data.images))
    for first in range(0, count, batch):
        yield data.images[first : min(first + batch, count)], data.labels[first : min(first + batch, count)]


@torch.no_grad()
def evaluate(
    model: Autoencoder, data: ImageSet, accelerator: Accelerator, limit: int | None = None, batch: int = 32
) -> dict[str, float]:
    """PSNR in dB over unseen images, mean and per label, and how their tokens use the codebook.

    ``codes_used_percent`` and ``code_perplexity`` are those of :class:`smalti_train.evaluation.metrics.CodeUse`.
    """
    model.eval()
    value_range = model.config.value_range
    uses = np.zeros(model.config.codes, np.int64)
    by_label: dict[int, list[float]] = {}
    for pixels, labels in _batches(data, limit, batch):
        images = to_images(pixels, accelerator.device, value_range)
        with accelerator.autocast():
            ids = model.encode(images)
            decoded = model.decode(ids)
        uses += np.bincount(ids.flatten().cpu().numpy(), minlength=len(uses))
        decibels = psnr(to_pixels(decoded, value_range), pixels)
        for label, value in zip(labels.tolist(), decibels.tolist(), strict=True):
            by_label.setdefault(label, []).append(value)
    figures = {"psnr": float(np.mean([value for values in by_label.values() for value in values]))}
    figures |= {f"psnr/{data.label_names[label]}": float(np.mean(values)) for label, values in sorted(by_label.items())}
    used = code_use(uses)
    return {**figures, "codes_used_percent": used.percent, "code_perplexity": used.perplexity}


@torch.no_grad()
def sheet(model: Autoencoder, data: ImageSet, accelerator: Accelerator, count: int = 16) -> Image.Image:
    """Unseen images above their reconstructions, eight to a row."""
    model.eval()
    value_range = model.config.value_range
    images = to_images(data.images[:count], accelerator.device, value_range)
    with accelerator.autocast():
        decoded = to_pixels(model.decode(model.encode(images)), value_range)
    rows = [row for first in range(0, count, 8) for row in (data.images[first : first + 8], decoded[first : first + 8])]
    return contact_sheet(np.concatenate(rows), columns=8)
