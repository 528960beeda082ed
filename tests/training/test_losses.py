from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from smalti_train.models.quantizer import Quantized
from smalti_train.objectives.losses import PerceptualLoss, autoencoder_loss, image_gradients
from smalti_train.runs.config import AutoencoderLossConfig


def quantized(codebook: float = 0.0, commitment: float = 0.0) -> Quantized:
    nothing = torch.zeros(0)
    return Quantized(nothing, nothing, torch.tensor(codebook), torch.tensor(commitment))


def test_gradients_are_differences_of_neighbours() -> None:
    images = torch.arange(6.0).reshape(1, 1, 2, 3) ** 2  # 0 1 4 / 9 16 25
    down, right = image_gradients(images)
    assert down.tolist() == [[[[9, 15, 21]]]]
    assert right.tolist() == [[[[1, 3], [7, 9]]]]


def test_the_gradient_term_of_a_misplaced_edge() -> None:
    images = torch.zeros(1, 3, 4, 4)
    edge = torch.zeros(1, 3, 4, 4)
    edge[:, :, :, 2:] = 1
    terms = autoencoder_loss(edge, images, quantized(), AutoencoderLossConfig())
    assert terms["l1"].item() == pytest.approx(0.5)
    assert terms["mse"].item() == pytest.approx(0.5)
    assert terms["gradient"].item() == pytest.approx(1 / 3)  # one of three differences to the right, none downwards


def test_the_gradient_term_does_not_see_an_even_shift() -> None:
    images = torch.rand(2, 3, 4, 5)
    terms = autoencoder_loss(images + 0.25, images, quantized(), AutoencoderLossConfig())
    assert terms["gradient"].item() == pytest.approx(0, abs=1e-6)
    assert terms["l1"].item() == pytest.approx(0.25)
    assert terms["mse"].item() == pytest.approx(0.0625)


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    weights = AutoencoderLossConfig(l1=1, mse=10, gradient=100, codebook=1000, beta=10000)
    images = torch.zeros(1, 3, 4, 4)
    edge = torch.zeros(1, 3, 4, 4)
    edge[:, :, 3:] = -0.4
    terms = autoencoder_loss(edge, images, quantized(codebook=0.3, commitment=0.7), weights)
    expected = 1 * 0.1 + 10 * 0.04 + 100 * (0.4 / 3) + 1000 * 0.3 + 10000 * 0.7
    assert terms["loss"].item() == pytest.approx(expected, rel=1e-6)


def test_the_perceptual_loss_is_zero_for_equal_images_and_grows_with_blur():
    torch.manual_seed(0)
    loss = PerceptualLoss(64)
    images = (torch.rand(2, 3, 96, 96) > 0.5).float() * 2 - 1
    images = F.interpolate(images[:, :, ::8, ::8], scale_factor=8)  # crisp squares

    def distance(reconstruction, seed=0):
        return float(loss(reconstruction, images, torch.Generator().manual_seed(seed)))

    assert distance(images) == 0
    blurred = [F.avg_pool2d(images, size, 1, size // 2) for size in (3, 7)]
    assert 0 < distance(blurred[0]) < distance(blurred[1])
    assert distance(blurred[0], 1) == distance(blurred[0], 1)
    assert distance(blurred[0], 1) != distance(blurred[0], 2), "the crop moves"


def test_the_perceptual_loss_teaches_the_reconstruction_alone():
    loss = PerceptualLoss(64).train()
    before = [value.clone() for value in loss.state_dict().values()]
    reconstruction = torch.rand(2, 3, 64, 64, requires_grad=True)
    loss(reconstruction, torch.rand(2, 3, 64, 64), torch.Generator()).backward()
    assert reconstruction.grad is not None
    assert reconstruction.grad.abs().max() > 0
    assert all(torch.equal(a, b) for a, b in zip(before, loss.state_dict().values(), strict=True))
    assert not any(parameter.requires_grad for parameter in loss.parameters())
