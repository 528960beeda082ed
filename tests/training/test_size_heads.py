"""Heads that draw the same tokens at twice and four times the pixels."""

from __future__ import annotations

import dataclasses
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from smalti.errors import UsageError
from smalti_train.models.edge_autoencoder import STEM, EdgeAutoencoderConfig
from smalti_train.models.size_heads import SCALES, Enlargement, SizedAutoencoder, SizedAutoencoderConfig
from smalti_train.models.smoothing import EdgeAwareSmoothing
from smalti_train.presets.catalogue import HEADS

SMALL = SizedAutoencoderConfig(
    EdgeAutoencoderConfig(codes=16, code_dim=4, channels=(8, 8), encoder_blocks=(0, 0), decoder_blocks=(0, 1)),
    width=8,
    blocks=1,
    fine=(6, 4),
)
SMOOTH = dataclasses.replace(SMALL, autoencoder=dataclasses.replace(SMALL.autoencoder, smoothing=(1, 3)), blocks=2)
EVERY = pytest.mark.parametrize("config", [SMALL, SMOOTH, HEADS["tiny"].model], ids=["small", "smooth", "tiny"])


def lively(config: SizedAutoencoderConfig) -> SizedAutoencoder:
    """In eval mode, with no norm fresh and no convolution zero, so that every path carries something."""
    torch.manual_seed(0)
    model = SizedAutoencoder(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.3)
        elif isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        elif isinstance(module, EdgeAwareSmoothing):
            nn.init.constant_(module.sharpness, 0.5)
    return model.eval()


@settings(max_examples=25, deadline=None)
@given(
    scale=st.sampled_from([2, 4]),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_enlargement_is_the_bicubic_one(scale: int, height: int, width: int, seed: int) -> None:
    images = torch.rand(2, 3, 4 * height, 4 * width, generator=torch.Generator().manual_seed(seed))
    found = F.pixel_shuffle(Enlargement(scale)(images), STEM)
    expected = F.interpolate(images, scale_factor=scale, mode="bicubic", align_corners=False)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@EVERY
def test_each_scale_has_its_size_and_the_first_is_the_decoders_own(config: SizedAutoencoderConfig) -> None:
    model = lively(config)
    ids = torch.randint(config.codes, (2, 3, 5))
    with torch.no_grad():
        made = model(ids)
        assert torch.equal(made[1], model.autoencoder.decode(ids).float())
        for scale in SCALES:
            assert made[scale].shape == (2, 3, 3 * config.factor * scale, 5 * config.factor * scale)
            assert torch.equal(model.decode(ids, scale), made[scale])
    with pytest.raises(UsageError, match="1, 2, 4"):
        model.decode(ids, 3)


@EVERY
@pytest.mark.parametrize("scale", SCALES)
def test_a_tile_with_its_halo_decodes_to_the_pixels_of_the_whole(config: SizedAutoencoderConfig, scale: int) -> None:
    model, halo, pixels = lively(config).double(), config.halo(scale), config.factor * scale
    z_side = 2 * halo + 3
    ids = torch.randint(config.codes, (1, z_side, z_side))
    changed = ids.clone()
    far = torch.maximum(*((torch.arange(z_side) - (halo + 1)).abs()[shape] for shape in ((..., None), (None, ...))))
    changed[:, far > halo] = (changed[:, far > halo] + 1) % config.codes
    middle = slice((halo + 1) * pixels, (halo + 2) * pixels)
    with torch.no_grad():
        whole, other = (model.decode(grid, scale)[..., middle, middle] for grid in (ids, changed))
        tile = model.decode(ids[:, 1:-1, 1:-1], scale)[
            ..., halo * pixels : -halo * pixels, halo * pixels : -halo * pixels
        ]
    torch.testing.assert_close(whole, other, atol=1e-6, rtol=0)
    torch.testing.assert_close(whole, tile, atol=1e-6, rtol=0)
    assert whole.std() > 0.01


def test_new_heads_draw_the_enlarged_picture_and_learn_from_the_first_step() -> None:
    torch.manual_seed(0)
    model = SizedAutoencoder(SMALL)
    ids = torch.randint(SMALL.codes, (1, 4, 4))
    made = model.eval()(ids)
    for scale in (2, 4):
        bicubic = F.interpolate(made[1], scale_factor=scale, mode="bicubic", align_corners=False)
        torch.testing.assert_close(made[scale], bicubic, atol=1e-5, rtol=0)
        (made[scale] - torch.rand_like(made[scale])).square().mean().backward(retain_graph=True)
    for last in model.heads.last:
        assert cast(nn.Conv2d, last).weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", [name for name in HEADS if name.startswith("avatars")])
def test_a_megapixel_takes_at_most_30_gflop_and_no_convolution_above_a_quarter_of_its_resolution(name: str) -> None:
    with torch.device("meta"):
        model = SizedAutoencoder(HEADS[name].model).eval()
        ids = torch.zeros(1, 16, 16, dtype=torch.int64)
    sides: dict[int, int] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sides[scale] = max(sides.get(scale, 0), *inputs[0].shape[2:], *output.shape[2:])

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    for scale in SCALES:
        with FlopCounterMode(display=False) as counter:
            side = model.decode(ids, scale).shape[-1]
        assert side == 256 * scale
        assert sides[scale] <= side // 4
        if scale == 4:
            assert counter.get_total_flops() / (side * side / 1e6) < 30e9
