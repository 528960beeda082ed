"""What an encoder's features say of a picture, whatever its scale, crop or colours: fitted at export.

Features are averaged over the cells of a small grid, so that a vector tells what lies where. Plain averages change with
colours more than from one picture to another. A linear discriminant (Fisher 1936; Rao 1948) finds the directions in
which pictures differ from each other most, compared with how much altered copies of one picture differ.
``bench/quality/embedding.py`` measures a bundle's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from smalti_train.data.pixels import to_images
from smalti_train.data.tensors import from_numpy
from smalti_train.models.edge_autoencoder import EdgeAutoencoder

CELLS = 4
"""Cells of the grid along each axis."""
PICTURES, KEPT, SIZE = 512, 256, 128
"""Pictures that are looked at, principal components that are kept of them, and dimensions of an embedding, at most."""
CROPPED = 0.95
"""Share of a picture's side that is left of altered copies."""
GAIN, OFFSET = 0.2, 20.0
"""Most that a channel of an altered copy is multiplied away from 1, and that is added to it (of 255)."""
BATCH = 16
Floats = NDArray[np.floating[Any]]
SHRINKAGE = 1e-3
"""Share of the mean variance that is added to every direction, since pictures are few."""


class Embedding(nn.Module):
    """Features float [N, C, h, w] to vectors float32 [N, D] of length 1."""

    centre: Tensor
    projection: Tensor

    def __init__(self, centre: Tensor, projection: Tensor) -> None:
        """``centre`` is float [C * CELLS**2], ``projection`` float [D, C * CELLS**2]."""
        super().__init__()
        self.register_buffer("centre", centre)
        self.register_buffer("projection", projection)

    def forward(self, features: Tensor) -> Tensor:
        """Embed."""
        told = averaged(features) - self.centre.float()
        # As a convolution, because TensorRT-RTX has no fp32 matrix products for Turing.
        vectors = F.conv2d(told[..., None, None], self.projection.float()[..., None, None])
        return F.normalize(vectors[..., 0, 0], dim=1)


class SeeingEncoder(nn.Module):
    """An autoencoder with the embedding of its features, which its encoder's graph answers too."""

    def __init__(self, autoencoder: EdgeAutoencoder, embedding: Embedding) -> None:
        super().__init__()
        self.autoencoder, self.embedding = autoencoder, embedding


def averaged(features: Tensor) -> Tensor:
    """Averages over CELLS x CELLS equal cells: float32 [N, C, h, w] to [N, C * CELLS**2]; cells may divide pixels."""
    rows, columns = (_overlaps(size, features.device) for size in features.shape[2:])
    # As sums, not as products of matrices; see above.
    bands = (features.float()[:, :, None] * rows[..., None]).sum(3)  # [N, C, CELLS, w]
    return (bands[:, :, :, None] * columns).sum(4).flatten(1)


def _overlaps(size: int, device: torch.device) -> Tensor:
    """Share of each cell that each of ``size`` places covers: float32 [CELLS, size]."""
    place = torch.arange(size, device=device, dtype=torch.float32)
    edge = torch.arange(CELLS, device=device, dtype=torch.float32)[:, None]
    scaled = place * CELLS / size
    low, high = torch.maximum(scaled, edge), torch.minimum(scaled + CELLS / size, edge + 1)
    return (high - low).clamp(min=0)


def seen(autoencoder: EdgeAutoencoder, images: Tensor) -> Tensor:
    """Features that are embedded (float [N, C, h, w]) of images float [N, 3, H, W]: those before the last layer.

    The last layer reduces them to the few dimensions of a code.
    """
    *layers, _ = autoencoder.encoder
    for layer in layers:
        images = layer(images)
    return images


@torch.no_grad()
def fitted(autoencoder: EdgeAutoencoder, pictures: NDArray[np.uint8]) -> Embedding:
    """Fit the embedding of an autoencoder in eval mode to pictures uint8 [N, H, W, 3], N at least 2.

    It looks at ``PICTURES`` of them and at altered copies of each; the same pictures give the same embedding.
    """
    parts: list[Floats] = []
    for first in range(0, min(len(pictures), PICTURES), BATCH):
        part = np.asarray(pictures[first : first + BATCH])
        kinds = [to_images(np.stack(kind)) for kind in zip(*(_copies(one, first + i) for i, one in enumerate(part)))]
        parts.append(np.stack([averaged(seen(autoencoder, kind)).double().numpy() for kind in kinds]))
    features = np.concatenate(parts, axis=1)  # [kinds, N, F]
    mean: Floats = features.mean(axis=0)
    centre: Floats = mean.mean(axis=0)
    kept = max(1, min(KEPT, len(mean) // 2, mean.shape[1]))
    components: Floats = np.linalg.svd(mean - centre, full_matrices=False).Vh[:kept].T  # [F, kept]
    within = _covariance((features - mean).reshape(-1, mean.shape[1]) @ components)
    within += SHRINKAGE * float(np.trace(within)) / kept * np.eye(kept)
    root: Floats = np.linalg.cholesky(within)
    whitening: Floats = np.linalg.inv(root).T
    between = _covariance((mean - centre) @ components @ whitening)
    strongest: Floats = np.linalg.eigh(between).eigenvectors[:, ::-1][:, :SIZE]
    projection: Floats = components @ whitening @ strongest
    projection /= np.abs(projection).max()
    return Embedding(*(from_numpy(np.asarray(part, np.float32)) for part in (centre, projection.T)))


def _covariance(rows: Floats) -> Floats:
    return rows.T @ rows / len(rows)


def _copies(pixels: NDArray[np.uint8], index: int) -> Iterator[NDArray[np.uint8]]:
    """A picture and its altered copies, all uint8 [H, W, 3]: half its size and back, cropped, in other colours."""
    height, width, _ = pixels.shape
    image, chance = Image.fromarray(pixels), np.random.default_rng(index)
    yield pixels
    half = image.resize((max(1, width // 2), max(1, height // 2)), Image.Resampling.LANCZOS)
    yield np.asarray(half.resize((width, height), Image.Resampling.LANCZOS))
    tall, wide = max(1, round(CROPPED * height)), max(1, round(CROPPED * width))
    top, left = (int(chance.random() * (room + 1)) for room in (height - tall, width - wide))
    crop = image.crop((left, top, left + wide, top + tall))
    yield np.asarray(crop.resize((width, height), Image.Resampling.LANCZOS))
    gain: Floats = chance.uniform(1 - GAIN, 1 + GAIN, 3)
    offset: Floats = chance.uniform(-OFFSET, OFFSET, 3)
    values: Floats = pixels.astype(np.float64) * gain + offset
    yield values.clip(0, 255).astype(np.uint8)
