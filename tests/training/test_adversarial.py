from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smalti.errors import UsageError
from smalti_train.models.discriminator import Discriminator, DiscriminatorConfig
from smalti_train.models.meta_init import unfilled
from smalti_train.models.quantizer_gumbel import GumbelQuantized
from smalti_train.models.quantizer_nearest import NearestQuantizer
from smalti_train.objectives.adversarial import (
    adaptive_lambda,
    discriminator_loss,
    generator_loss,
    quantizer_loss,
    vqgan_loss,
)
from smalti_train.objectives.diff_augment import REACH, augment, diff_augment, draw_augmentation
from smalti_train.runs.config import VQGANLossConfig

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 1e-4


def arrays(name: str) -> dict[str, Tensor]:
    with np.load(FIXTURES / f"{name}.npz") as held:
        return {key: torch.from_numpy(held[key]) for key in held.files}


def published(name: str) -> dict[str, Tensor]:
    held = torch.load(FIXTURES / name, weights_only=True)
    return held.get("state_dict", held)


# The discriminator.


def test_discriminator_gives_the_published_logits() -> None:
    wanted = arrays("ut_vqgan_nearest_small")
    state = {
        name.removeprefix("disc."): value
        for name, value in published("ut_vqgan_nearest_small.th").items()
        if name.startswith("disc.")
    }
    model = Discriminator(DiscriminatorConfig(filters=8, layers=2))
    model.load_state_dict(state)
    assert (model.eval()(wanted["x"]) - wanted["disc_logits"]).abs().max() < TOLERANCE


@pytest.mark.parametrize(
    ("file", "prefix"), [("ut_vqgan_full", "disc."), ("taming_vqmodel_f16_1024", "loss.discriminator.")]
)
def test_full_size_names_and_shapes(file: str, prefix: str) -> None:
    lines = (line.split("\t") for line in (FIXTURES / f"{file}.txt").read_text().splitlines())
    wanted = {name.removeprefix(prefix): shape for name, shape, _ in lines if name.startswith(prefix)}
    with unfilled():
        state = Discriminator(DiscriminatorConfig()).state_dict()
    assert {name: str(tuple(value.shape)) for name, value in state.items()} == wanted


def test_a_logit_sees_its_patch_alone() -> None:
    torch.manual_seed(0)
    model = Discriminator(DiscriminatorConfig(filters=2, layers=3)).eval()
    images = torch.zeros(1, 3, 160, 160, requires_grad=True)
    logits = model(images)
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    assert images.grad is not None
    touched = images.grad.abs().sum(dim=(0, 1)).nonzero()
    assert (touched.amax(0) - touched.amin(0) + 1).tolist() == [70, 70]


def test_sizes_of_a_discriminator_are_checked() -> None:
    with pytest.raises(UsageError, match="at least one layer"):
        DiscriminatorConfig(layers=0)


# Augmentation.


def test_augmentation_gives_the_published_images() -> None:
    wanted = arrays("ut_diffaug_seed55")
    found = diff_augment(wanted["x"], torch.Generator().manual_seed(55))
    assert (found - wanted["y"]).abs().max() < TOLERANCE


def test_ranges_of_the_draw() -> None:
    draw = draw_augmentation(4000, 64, 32, torch.Generator().manual_seed(0))
    for values, low, high in ((draw.brightness, -0.5, 0.5), (draw.saturation, 0, 2), (draw.contrast, 0.5, 1.5)):
        assert values.min() >= low
        assert values.max() <= high
        assert float(values.max() - values.min()) > 0.99 * (high - low)
    for values, side in ((draw.dy, 64), (draw.dx, 32)):
        assert values.unique().tolist() == list(range(-int(side * REACH), int(side * REACH) + 1))


def test_each_change_by_itself() -> None:
    images = torch.rand(2, 3, 8, 8)
    still = draw_augmentation(2, 8, 8)
    still = dataclasses.replace(
        still,
        brightness=torch.zeros(2, 1, 1, 1),
        saturation=torch.ones(2, 1, 1, 1),
        contrast=torch.ones(2, 1, 1, 1),
        dy=torch.zeros(2, 1, 1, 1, dtype=torch.int64),
        dx=torch.zeros(2, 1, 1, 1, dtype=torch.int64),
    )
    torch.testing.assert_close(augment(images, still), images)
    lighter = augment(images, dataclasses.replace(still, brightness=still.brightness + 0.25))
    torch.testing.assert_close(lighter, images + 0.25)
    grey = augment(images, dataclasses.replace(still, saturation=still.brightness))
    torch.testing.assert_close(grey, images.mean(1, keepdim=True).expand_as(images))
    flat = augment(images, dataclasses.replace(still, contrast=still.brightness))
    torch.testing.assert_close(flat, images.mean((1, 2, 3), keepdim=True).expand_as(images))
    one = torch.ones(2, 1, 1, 1, dtype=torch.int64)
    moved = augment(images, dataclasses.replace(still, dy=one * 2, dx=-one))
    torch.testing.assert_close(moved[:, :, :6, 1:], images[:, :, 2:, :7])
    assert moved[:, :, 6:].abs().max() == moved[:, :, :, 0].abs().max() == 0


def test_a_process_draws_for_all_and_takes_its_rows() -> None:
    images = torch.rand(6, 3, 16, 16)
    draw = draw_augmentation(6, 16, 16, torch.Generator().manual_seed(3))
    halves = [augment(images[first : first + 3], draw.rows(first, first + 3)) for first in (0, 3)]
    torch.testing.assert_close(torch.cat(halves), augment(images, draw))


def test_gradients_pass_through_the_augmentation() -> None:
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    diff_augment(images, torch.Generator().manual_seed(0)).square().sum().backward()
    assert images.grad is not None
    assert (images.grad != 0).float().mean() > 0.6


# Losses.


def test_hinge_losses() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0])
    assert discriminator_loss(real, fake).item() == pytest.approx(((0 + 0.5 + 2) / 3 + (0 + 1) / 2) / 2)
    assert generator_loss(fake).item() == pytest.approx(1.5)


@pytest.mark.parametrize("legacy", [False, True])
def test_beta_on_the_right_term_and_on_the_legacy_one(legacy: bool) -> None:
    wanted = arrays("taming_vqmodel_small")
    quantizer = NearestQuantizer(64, 24)
    with torch.no_grad():
        quantizer.embedding.weight.copy_(published("taming_vqmodel_small.ckpt")["quantize.embedding.weight"])
    z = wanted["prequant"].requires_grad_()
    loss = quantizer_loss(quantizer(z), VQGANLossConfig(beta=0.25, legacy_beta=legacy))
    assert (loss - wanted["loss_legacy" if legacy else "loss_fixed"]).abs() < TOLERANCE
    to_features, to_codes = torch.autograd.grad(loss, (z, quantizer.embedding.weight))
    error = (z - wanted["z_q"]).detach()
    pull = 2 * error / error.numel()
    torch.testing.assert_close(to_features, pull * (1 if legacy else 0.25))
    moved = torch.zeros(64, 24).index_add_(0, wanted["ids"].flatten(), -pull.permute(0, 2, 3, 1).reshape(-1, 24))
    torch.testing.assert_close(to_codes, moved * (0.25 if legacy else 1))


def test_loss_of_the_gumbel_quantizer() -> None:
    quantized = GumbelQuantized(torch.zeros(0), torch.zeros(0), torch.tensor(3.0))
    assert quantizer_loss(quantized, VQGANLossConfig()).item() == pytest.approx(3e-8)
    assert quantizer_loss(quantized, VQGANLossConfig(kl=5e-4)).item() == pytest.approx(1.5e-3)


def test_lambda_is_the_ratio_of_gradients_clamped() -> None:
    layer = nn.Parameter(torch.tensor([1.0, 2.0]))
    small, large = (layer * torch.tensor([0.3, 0.4])).sum(), (layer * torch.tensor([3.0, 4.0])).sum()
    assert adaptive_lambda(small, large, layer).item() == pytest.approx(0.5 / (5 + 1e-4))
    assert adaptive_lambda(large, small, layer).item() == 1
    assert adaptive_lambda(large, small, layer, limit=1e4).item() == pytest.approx(5 / (0.5 + 1e-4))
    assert adaptive_lambda(large, 0 * layer.sum(), layer, limit=1e4).item() == 1e4
    assert not adaptive_lambda(small, large, layer).requires_grad


def test_several_processes_find_the_lambda_of_one() -> None:
    torch.manual_seed(0)
    layer = nn.Parameter(torch.randn(3))
    values = torch.randn(4, 3)

    def losses(rows: Tensor) -> tuple[Tensor, Tensor]:
        return (rows @ layer).square().mean(), (rows @ layer).sin().mean()

    whole = adaptive_lambda(*losses(values), layer, limit=1e4)
    shares = [torch.autograd.grad(loss, layer)[0] for half in (values[:2], values[2:]) for loss in losses(half)]
    means = iter([(shares[0] + shares[2]) / 2, (shares[1] + shares[3]) / 2])  # what an all-reduce would give
    torch.testing.assert_close(adaptive_lambda(*losses(values[:2]), layer, 1e4, reduce=lambda _: next(means)), whole)


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    layer = nn.Parameter(torch.ones(3, 1, 1))
    images = torch.zeros(2, 3, 4, 4)
    reconstruction = images + 0.5 * layer
    quantized = NearestQuantizer(4, 2)(torch.zeros(1, 2, 2, 2) + 1)
    weights = VQGANLossConfig(l1=2, perceptual=3, codebook=5, beta=0.5, adversarial=0.25, lambda_max=0.1)
    distance = torch.tensor([0.2, 0.4])
    before = vqgan_loss(reconstruction, images, quantized, weights, distance)
    assert set(before) == {"l1", "perceptual", "quantizer", "loss"}
    expected = 2 * 0.5 + 3 * 0.3 + before["quantizer"].item()
    assert before["loss"].item() == pytest.approx(expected)
    fake = reconstruction.mean((1, 2, 3)) * 0.1
    after = vqgan_loss(reconstruction, images, quantized, weights, distance, fake, layer)
    assert after["adversarial"].item() == pytest.approx(-0.05)
    assert after["lambda"].item() == pytest.approx(0.1)
    assert after["loss"].item() == pytest.approx(expected + 0.25 * 0.1 * -0.05)
    with pytest.raises(UsageError, match="last layer"):
        vqgan_loss(reconstruction, images, quantized, weights, distance, fake)


def test_when_the_discriminator_counts() -> None:
    weights = VQGANLossConfig(start=5)
    assert [weights.judged(step) for step in (0, 4, 5, 6)] == [False, False, True, True]
    assert not VQGANLossConfig(start=0, adversarial=0).judged(3)
    with pytest.raises(UsageError, match="weight beta"):
        VQGANLossConfig(beta=-1)
