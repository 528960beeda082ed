"""Feature vectors of images, from a network chosen by name or by a file of weights.

The network is converted to ONNX once and cached. It runs on ONNX Runtime, which is much faster on a CPU than the torch
module.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from smalti.errors import MissingExtra, OutputError
from smalti.system.files import replace_file
from smalti.system.platform import install_hint
from smalti_kernels.platform import usable_cores
from smalti_train.data.cache import default_directory
from smalti_train.models import effnet_lite

BATCH = 32
FORMAT = 1
"""Version of the features; increase it when the same network would give other ones."""


@dataclass(frozen=True)
class FeatureNetwork:
    """Turns images into feature vectors."""

    name: str
    """Name of the network in reports, such as ``EffNet-Lite0``."""
    key: str
    """Key for caches; it names everything that decides the features."""
    side: int
    """Pixels per side to which images are resized."""
    session: onnxruntime.InferenceSession

    def __call__(self, images: NDArray[np.uint8], tick: Callable[[], None] | None = None) -> NDArray[np.float32]:
        """Features (float32 [N, D]) of uint8 [N, H, W, 3]; ``tick`` is called for each image done."""
        parts: list[NDArray[np.float32]] = []
        for first in range(0, len(images), BATCH):
            batch = resized(images[first : first + BATCH], self.side)
            parts.append(self.session.run(None, {"images": batch})[0])
            if tick:
                for _ in batch:
                    tick()
        return np.concatenate(parts)


def resized(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Images (uint8 [N, H, W, 3]) at ``side`` x ``side``, by Pillow's bicubic filter (Parmar et al. 2022)."""
    if images.shape[1:3] == (side, side):
        return np.ascontiguousarray(images)
    size = (side, side)
    return np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in images])


def open_features(source: str | Path | None = None, threads: int | None = None) -> FeatureNetwork:
    """Open the network ``source``: None for EffNet-Lite0, or a file of Inception-v3 or VGG16 weights.

    Raises UsageError for a file that is neither, MissingExtra when a package is not installed.
    """
    if source is None:
        name, side, build = "EffNet-Lite0", effnet_lite.SIDE, effnet_lite.EffNetLite0
        identity = "effnet-lite0"
    else:
        from smalti_train.importers.weight_files import open_weights

        name, side, module, identity = open_weights(Path(source))

        def build() -> nn.Module:
            return module

    key = hashlib.sha256(f"{identity} {FORMAT}".encode()).hexdigest()[:16]
    path = default_directory().parent / "features" / f"{key}.onnx"
    if not path.exists():
        graph = _converted(build(), side)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, graph)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error}. Make room, or set SMALTI_CACHE_DIR") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.log_severity_level = 3
    return FeatureNetwork(name, key, side, onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"]))


class _FromPixels(nn.Module):
    """Feeds uint8 [B, H, W, 3] to a network that takes float [B, 3, H, W] in 0 .. 255."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.permute(0, 3, 1, 2).float())


def _converted(network: nn.Module, side: int) -> bytes:
    try:
        import onnxscript as _  # noqa: F401 - torch would fail without it only half-way through
    except ImportError as error:
        raise MissingExtra(f"converting a feature network needs {error.name}; {install_hint('evaluate')}") from error
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        program = torch.onnx.export(  # pyright: ignore[reportUnknownMemberType] - in part without types
            _FromPixels(network).eval(),
            (example,),
            input_names=["images"],
            output_names=["features"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=18,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto.SerializeToString()


def cached_features(network: FeatureNetwork, key: str, images: NDArray[np.uint8], title: str) -> NDArray[np.float32]:
    """Features (float32 [N, D], stored as float16) of a data set's images, cached under its ``key``."""
    from smalti_train.data.progress import image_progress

    path = default_directory().parent / "features" / f"{network.key}-{key}.npy"
    if path.exists():
        return np.load(path, allow_pickle=False).astype(np.float32)
    with image_progress(title, len(images)) as tick:
        features = network(images, tick).astype(np.float16)
    buffer = io.BytesIO()
    np.save(buffer, features, allow_pickle=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, buffer.getvalue())
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}. Make room, or set SMALTI_CACHE_DIR") from error
    return features.astype(np.float32)
