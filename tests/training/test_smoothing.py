"""The smoothing at the end of an edge decoder: flat places become even, edges stay."""

from __future__ import annotations

import pytest
import torch

from smalti import UsageError
from smalti_train.models.edge_autoencoder import EdgeAutoencoderConfig
from smalti_train.models.smoothing import RANGE, EdgeAwareSmoothing

DISTANCES = (1, 2, 4, 2, 1)


def smooth(images: torch.Tensor, distances: tuple[int, ...] = DISTANCES) -> torch.Tensor:
    with torch.no_grad():
        return EdgeAwareSmoothing(distances)(images)


def two_halves(difference: float) -> torch.Tensor:
    image = torch.full((1, 3, 16, 24), -0.25)
    image[..., 10:] += difference
    return image


def test_one_pass_is_the_formula():
    torch.manual_seed(0)
    image, distance = torch.rand(2, 3, 7, 9) * 0.2, 2
    expected = image.clone()
    for axis in (2, 3):
        before, side = expected.clone(), image.shape[axis]
        for place in range(side):
            here = before.select(axis, place)
            total, weights = here.clone(), torch.ones(2, 1, here.shape[2])
            for neighbour in (place - distance, place + distance):
                if 0 <= neighbour < side:
                    there = before.select(axis, neighbour)
                    weight = (1 - (there - here).square().sum(1, keepdim=True) / RANGE**2).clamp(min=0)
                    total, weights = total + weight * there, weights + weight
            expected.select(axis, place).copy_(total / weights)
    torch.testing.assert_close(smooth(image, (distance,)), expected)


def test_one_colour_stays_what_it_is():
    image = torch.tensor([0.3, -0.7, 1.0]).reshape(1, 3, 1, 1).expand(2, 3, 9, 20)
    torch.testing.assert_close(smooth(image), image, atol=1e-6, rtol=0)


def test_an_edge_beyond_the_range_stays_to_the_last_digit():
    image = two_halves(1.01 * RANGE)
    assert torch.equal(smooth(image), image)


def test_a_step_within_the_range_is_evened_out():
    after = smooth(two_halves(0.3 * RANGE))
    assert after.amax() - after.amin() < 0.3 * RANGE
    assert after.diff(dim=3).abs().max() < 0.15 * RANGE


def test_unevenness_shrinks_and_the_edge_does_not():
    torch.manual_seed(0)
    noisy = two_halves(0.8) + 0.1 * RANGE * torch.randn(1, 3, 16, 24)
    after = smooth(noisy)
    for half in (slice(0, 10), slice(10, 24)):
        assert after[..., half].std() < 0.5 * noisy[..., half].std()
    step = after[..., 10:].mean() - after[..., :10].mean()
    assert abs(step - 0.8) < 0.01


def test_mirrored_images_give_mirrored_results():
    torch.manual_seed(0)
    image = torch.rand(1, 3, 12, 10) * 0.3
    torch.testing.assert_close(smooth(image.flip(2, 3)), smooth(image).flip(2, 3))


def test_half_precision_comes_out_as_single():
    image = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        after = EdgeAwareSmoothing(DISTANCES).half()(image.half())
    assert after.dtype == torch.float32
    torch.testing.assert_close(after, smooth(image.half().float()), atol=1e-4, rtol=0)


def test_gradients_reach_the_image_and_every_range():
    torch.manual_seed(0)
    image = (torch.rand(1, 3, 12, 12) * 0.1).requires_grad_()
    module = EdgeAwareSmoothing(DISTANCES)
    module(image).square().sum().backward()
    assert image.grad is not None
    assert (image.grad != 0).all()
    assert module.sharpness.grad is not None
    assert (module.sharpness.grad != 0).all()


@pytest.mark.parametrize("distances", [(0,), (16,), (1, -2)])
def test_distances_stay_within_a_token(distances):
    with pytest.raises(UsageError, match=r"1 \.\. 15"):
        EdgeAutoencoderConfig(smoothing=distances)
