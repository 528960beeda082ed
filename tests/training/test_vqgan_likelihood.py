from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from smalti_train.objectives.vqgan_likelihood import bits_per_dimension, dequantized, gaussian_nats


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 1.0)])
def test_dequantized_images_are_in_their_bin(value_range: tuple[float, float]) -> None:
    pixels = torch.arange(256.0)
    black, white = value_range
    images = (black + pixels / 255 * (white - black)).expand(100, 256)
    values = (dequantized(images, 5, value_range, generator()) - black) / (white - black) * 32
    assert torch.equal(values.floor(), (pixels // 8).expand(100, 256))
    assert (values - values.floor()).mean().item() == pytest.approx(0.5, abs=0.01)


def test_gaussian_by_torch() -> None:
    torch.manual_seed(0)
    values, mean, logsigma = (torch.randn(2, 3, 4, 5) for _ in range(3))
    wanted = -torch.distributions.Normal(mean, logsigma.exp()).log_prob(values).sum((1, 2, 3))
    torch.testing.assert_close(gaussian_nats(values, mean, logsigma), wanted)


def bits(levels: Tensor, mean: float, sigma: float, prior: float, value_range: tuple[float, float]) -> float:
    """The bound, averaged over many noises, for images of one pixel and one channel on ``levels`` (of 32)."""
    black, white = value_range
    images = (black + (levels * 8 + 3) / 255 * (white - black)).view(-1, 1, 1, 1)
    values = dequantized(images, 5, value_range, generator())
    mu = torch.full_like(values, black + mean * (white - black))
    logsigma = torch.full_like(values, math.log(sigma * (white - black)))
    nats = gaussian_nats(values, mu, logsigma)
    return bits_per_dimension(nats, torch.full_like(nats, prior), 1, 5, value_range).mean().item()


@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 1.0)])
def test_the_bound_is_above_the_probability_of_a_level_and_close(value_range: tuple[float, float]) -> None:
    mean, sigma = 0.4, 0.2
    gaussian = torch.distributions.Normal(mean, sigma)
    for level in (3, 12, 30):
        edges = torch.tensor([level / 32, (level + 1) / 32])
        exact = -math.log2(float(gaussian.cdf(edges[1]) - gaussian.cdf(edges[0])))
        found = bits(torch.full((20000,), float(level)), mean, sigma, 0.0, value_range)
        assert exact - 0.003 < found < exact + 0.02


def test_the_prior_counts_per_dimension() -> None:
    levels = torch.full((100,), 7.0)
    extra = bits(levels, 0.4, 0.2, math.log(2), (0.0, 1.0)) - bits(levels, 0.4, 0.2, 0.0, (0.0, 1.0))
    assert extra == pytest.approx(1, abs=1e-4)


def test_a_uniform_density_costs_its_bits() -> None:
    """Every value equally likely: 5-bit levels cost 5 bits, whatever the range."""
    for black, white in ((0.0, 1.0), (-1.0, 1.0)):
        nats = torch.tensor([12 * math.log(white - black)])  # a density of 1 / (white - black) per dimension
        assert bits_per_dimension(nats, torch.zeros(1), 12, 5, (black, white)).item() == pytest.approx(5)
