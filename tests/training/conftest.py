"""What training's tests share: short runs, a user's pictures, and weights of the shapes that others publish."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from smalti_train.models.inception_v3 import InceptionV3
from smalti_train.models.vgg16 import VGG16
from smalti_train.runs.config import AnyRun, VQGANRun

Brief = Callable[..., AnyRun]
State = dict[str, Tensor]


@pytest.fixture(scope="session")
def brief() -> Brief:
    """Shorten a preset to the images, steps and precision of ``tiny_runs``; keywords change more of its loop."""

    def shortened(config: AnyRun, **loop: object) -> AnyRun:
        data = dataclasses.replace(config.data, train_count=64, validation_count=64)
        changed = dataclasses.replace(config.loop, **{"steps": 20, "precision": "fp32", **loop})
        return dataclasses.replace(config, data=data, loop=changed)

    return shortened


@pytest.fixture(scope="session")
def small_vqgan(brief: Brief) -> VQGANRun:
    """``tiny-vqgan`` on images of 32 pixels, 4 per step, without perceptual term, judged from its third step on."""
    from smalti_train.presets.catalogue import AUTOENCODERS

    config = brief(AUTOENCODERS["tiny-vqgan"], steps=10, batch=4)
    assert isinstance(config, VQGANRun)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, size=(32, 32)),
        data=dataclasses.replace(config.data, size=32),
        loss=dataclasses.replace(config.loss, perceptual=0.0, start=2),
    )


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder of 40 pictures under two labels: coloured discs and bars."""
    root = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    for label in ("discs", "bars"):
        (root / label).mkdir()
        for index in range(20):
            place, size = generator.integers(16, 48, 2), generator.integers(6, 16)
            inside = (
                (y - place[0]) ** 2 + (x - place[1]) ** 2 < size**2 if label == "discs" else abs(x - place[0]) < size
            )
            ground, ink = generator.integers(0, 256, (2, 3))
            pixels = np.where(inside[..., None], ink, ground).astype(np.uint8)
            Image.fromarray(pixels).save(root / label / f"{index}.png")
    return root


def light(network: Callable[[], nn.Module]) -> State:
    """Weights of the right shapes, each tensor one number repeated, so that a file of them is small."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in network().state_dict().items()}
    return {key: torch.tensor((1 + index) / 1024).expand(shape) for index, (key, shape) in enumerate(shapes.items())}


@pytest.fixture
def vgg() -> State:
    """As torchvision publishes it."""
    classifier = {"classifier.0.weight": torch.zeros(1).expand(4096, 25088), "classifier.6.bias": torch.zeros(1000)}
    return {**light(VGG16), **classifier}


@pytest.fixture
def inception() -> State:
    """What Inception-v3 files have in common; counts of batches left out, as in files of old."""
    state = light(lambda: InceptionV3(fid=True))
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


@pytest.fixture
def fid(inception: State) -> State:
    """As pytorch-fid publishes it."""
    return {**inception, "fc.weight": torch.zeros(1).expand(1008, 2048), "fc.bias": torch.zeros(1008)}


@pytest.fixture
def google(inception: State) -> State:
    """As torchvision publishes it."""
    auxiliary = {
        "AuxLogits.conv0.conv.weight": torch.zeros(1).expand(128, 768, 1, 1),
        "AuxLogits.conv0.bn.num_batches_tracked": torch.tensor(0),
        "AuxLogits.fc.weight": torch.zeros(1).expand(1000, 768),
    }
    return {**inception, **auxiliary, "fc.weight": torch.zeros(1).expand(1000, 2048), "fc.bias": torch.zeros(1000)}


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    def save(held: object, name: str = "weights.pth", **options: bool) -> Path:
        torch.save(held, tmp_path / name, **options)
        return tmp_path / name

    return save
