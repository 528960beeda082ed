from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.errors import UsageError
from smalti_train.evaluation.features import _converted
from smalti_train.models.vgg16 import DIM, VGG16, normalised

BEFORE_STAGE = ((), (0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Indices that torchvision gives the convolutions of each stage."""


@pytest.fixture(scope="module")
def network() -> VGG16:
    torch.manual_seed(0)
    made = VGG16()
    for key, value in made.state_dict().items():
        nn.init.kaiming_normal_(value) if key.endswith("weight") else value.normal_(0, 0.1)
    return made


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Three pictures, float [3, 3, 48, 32]."""
    y, x = torch.meshgrid(torch.arange(48) / 8, torch.arange(32) / 8, indexing="ij")
    pictures = [[torch.sin(x * (1 + i) + y * (3 - i) + c * i) for c in range(3)] for i in range(3)]
    return (127.5 + 127.5 * torch.stack([torch.stack(planes) for planes in pictures])).floor()


def walked(network: VGG16, images: Tensor, stages: int) -> Tensor:
    """The last activation of a stage, worked out from the parameters alone."""
    parameters = network.state_dict()
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (images / 255 - mean[:, None, None]) / deviation[:, None, None]
    for stage in range(1, stages + 1):
        for index in BEFORE_STAGE[stage]:
            x = F.conv2d(x, parameters[f"features.{index}.weight"], parameters[f"features.{index}.bias"], padding=1)
            x = x.clamp(min=0)
        if stage < stages:
            x = F.max_pool2d(x, 2)
    return x


def test_size_of_the_published_network(network: VGG16) -> None:
    assert sum(parameter.numel() for parameter in network.parameters()) == 14_714_688
    indices = [index for stage in BEFORE_STAGE for index in stage]
    assert list(network.state_dict()) == [
        f"features.{index}.{kind}" for index in indices for kind in ("weight", "bias")
    ]


def test_white_black_and_grey() -> None:
    grey = torch.full((1, 3, 1, 1), 255.0) * torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    torch.testing.assert_close(normalised(grey), torch.zeros(1, 3, 1, 1), atol=1e-5, rtol=0)
    white = normalised(torch.full((1, 3, 1, 1), 255.0)).flatten()
    torch.testing.assert_close(white, torch.tensor([2.2489, 2.4286, 2.6400]), atol=1e-4, rtol=0)


def test_taps_are_the_last_activations_of_their_stages(network: VGG16, images: Tensor) -> None:
    taps = network.taps(images)
    assert [tuple(tap.shape[1:]) for tap in taps] == [
        (64, 48, 32),
        (128, 24, 16),
        (256, 12, 8),
        (512, 6, 4),
        (512, 3, 2),
    ]
    for stage, tap in enumerate(taps, start=1):
        torch.testing.assert_close(tap, walked(network, images, stage), atol=1e-4, rtol=1e-4)


def test_taps_come_in_the_order_asked_for(network: VGG16, images: Tensor) -> None:
    third, first = network.taps(images, (3, 1))
    assert third.shape[1] == 256
    assert first.shape[1] == 64


def test_gradients_reach_images_and_not_parameters(network: VGG16, images: Tensor) -> None:
    images = images[:1].clone().requires_grad_()
    sum(tap.square().mean() for tap in network.taps(images, (1, 2))).backward()
    assert images.grad is not None
    assert (images.grad != 0).float().mean() > 0.9
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network.train().training


@pytest.mark.parametrize("stages", [(), (0,), (1, 6)])
def test_other_stages_are_refused(network: VGG16, images: Tensor, stages: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="stages 1 to 5"):
        network.taps(images, stages)


def test_features_are_means_after_the_last_pool(network: VGG16, images: Tensor) -> None:
    features = network(images)
    assert features.shape == (3, DIM)
    pooled = F.max_pool2d(walked(network, images, 5), 2)
    torch.testing.assert_close(features, pooled.mean(dim=(2, 3)), atol=1e-4, rtol=1e-4)


def test_converts(network: VGG16) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 1, 3)) * np.ones((1, 32, 32, 1))
    pixels = pixels.astype(np.uint8)
    session = onnxruntime.InferenceSession(_converted(network, 32), providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": pixels})[0]
    wanted = network(torch.from_numpy(pixels).permute(0, 3, 1, 2).float()).numpy()
    assert np.abs(found - wanted).max() < 1e-3 * wanted.std(axis=0).mean()
