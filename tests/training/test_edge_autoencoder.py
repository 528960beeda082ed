from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from smalti_train.models.edge_autoencoder import EdgeAutoencoder, EdgeAutoencoderConfig, conv_bn
from smalti_train.models.quantizer import CosineQuantizer, crowding
from smalti_train.models.smoothing import EdgeAwareSmoothing
from smalti_train.presets.catalogue import AUTOENCODERS
from smalti_train.runs.config import AutoencoderRun
from smalti_train.trainers.autoencoder import crops

SMALL = EdgeAutoencoderConfig(codes=16, code_dim=4, channels=(8, 12), encoder_blocks=(1, 1), decoder_blocks=(1, 1))
SINGLE = EdgeAutoencoderConfig(codes=16, code_dim=4, channels=(8,), encoder_blocks=(1,), decoder_blocks=(2,))
DEEP = EdgeAutoencoderConfig(
    codes=16, code_dim=4, channels=(8, 8, 8, 8), encoder_blocks=(0, 0, 1, 0), decoder_blocks=(3, 0, 2, 0)
)
SMOOTH = EdgeAutoencoderConfig(
    codes=16, code_dim=4, channels=(8, 12), encoder_blocks=(1, 1), decoder_blocks=(1, 1), smoothing=(1, 3, 5, 2)
)
EVERY = pytest.mark.parametrize(
    "config",
    [SMALL, SINGLE, DEEP, SMOOTH, AUTOENCODERS["tiny"].model],
    ids=["small", "single", "deep", "smooth", "tiny"],
)

PUBLISHED_DECODER = 2884e9
"""FLOP per megapixel of the smallest published f=16 decoder (189 GFLOP for 256x256 pixels)."""


def lively(config: EdgeAutoencoderConfig) -> EdgeAutoencoder:
    """An autoencoder in eval mode in which every path carries something: norms are neither fresh nor zero."""
    torch.manual_seed(0)
    model = EdgeAutoencoder(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
        elif isinstance(module, EdgeAwareSmoothing):
            nn.init.constant_(module.sharpness, 0.5)  # so wide that most colours mix
    return model.eval()


@EVERY
def test_rectangles_become_grids_of_tokens_and_images_again(config: EdgeAutoencoderConfig) -> None:
    model = lively(config)
    images = torch.rand(3, 3, 2 * config.factor, 5 * config.factor) * 2 - 1
    with torch.no_grad():
        ids = model.encode(images)
        decoded = model.decode(ids)
        reconstruction, features, quantized = model(images)
    assert config.factor == 4 * 2 ** (len(config.channels) - 1)
    assert ids.shape == (3, 2, 5)
    assert ids.dtype == torch.int64
    assert 0 <= ids.min() <= ids.max() < config.codes
    assert decoded.shape == reconstruction.shape == images.shape
    assert features.shape == (3, config.code_dim, 2, 5)
    assert torch.equal(quantized.ids, ids)
    torch.testing.assert_close(reconstruction, decoded)


@EVERY
def test_the_halo_is_exact(config: EdgeAutoencoderConfig) -> None:
    model, halo, factor = lively(config).double(), config.halo, config.factor
    side = 2 * halo + 5
    z = torch.randn(1, config.code_dim, side, side, dtype=torch.double, requires_grad=True)
    middle = slice((halo + 2) * factor, (halo + 3) * factor)  # the pixels of the token in the middle
    tile = model.decoder(z)[:, :, middle, middle]
    (tile * torch.randn_like(tile)).sum().backward()
    influence = z.grad.abs().sum((0, 1))
    offsets = (torch.arange(side) - (halo + 2)).abs()
    distance = torch.maximum(offsets[:, None], offsets[None, :])
    assert influence[distance > halo].max() == 0
    assert influence[distance == halo].max() > 0


@pytest.mark.parametrize("top", [0, 8, 16], ids=["upper edge", "inside", "lower edge"])
@pytest.mark.parametrize("left", [0, 9], ids=["left edge", "inside"])
def test_a_crop_with_its_halo_decodes_to_the_pixels_of_the_whole(top: int, left: int) -> None:
    config = AUTOENCODERS["tiny"].model
    model, halo, factor, tile = lively(config), config.halo, config.factor, 4
    ids = torch.randint(config.codes, (1, 20, 20), generator=torch.Generator().manual_seed(1))
    y, x = max(0, top - halo), max(0, left - halo)
    with torch.no_grad():
        whole = model.decode(ids)
        crop = model.decode(ids[:, y : top + tile + halo, x : left + tile + halo])
    expected = whole[:, :, top * factor : (top + tile) * factor, left * factor : (left + tile) * factor]
    inner_y, inner_x = (top - y) * factor, (left - x) * factor
    found = crop[:, :, inner_y : inner_y + tile * factor, inner_x : inner_x + tile * factor]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 0.03  # the smoothing evens out part of it


def test_the_decoder_needs_less_than_a_fiftieth_of_the_smallest_published_one() -> None:
    with torch.device("meta"):
        model = EdgeAutoencoder(AUTOENCODERS["avatars-256-decoder"].model).eval()
        ids = torch.zeros(1, 16, 16, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        image = model.decode(ids)
    assert image.shape == (1, 3, 256, 256)
    per_megapixel = counter.get_total_flops() / (256 * 256 / 1e6)
    assert 1e9 < per_megapixel < PUBLISHED_DECODER / 50


@pytest.mark.parametrize("name", [name for name, run in AUTOENCODERS.items() if isinstance(run, AutoencoderRun)])
def test_no_convolution_runs_above_a_quarter_of_the_resolution(name: str) -> None:
    with torch.device("meta"):
        model = EdgeAutoencoder(AUTOENCODERS[name].model).eval()
        images = torch.zeros(1, 3, 256, 256)
    sides: list[int] = []

    def note(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        sides.append(max(*inputs[0].shape[2:], *output.shape[2:]))

    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    for module in convolutions:
        module.register_forward_hook(note)
    model(images)
    assert len(sides) == len(convolutions)
    assert max(sides) == 256 // 4


@pytest.mark.cases
def test_a_border_is_like_the_inside_where_padding_repeats_it() -> None:
    """Of a picture that does not change towards its borders, all tokens are one; with zeros beyond, they are not."""
    torch.manual_seed(0)
    flat = torch.rand(8, 3, 1, 1).expand(8, 3, 64, 64) * 2 - 1
    for padding, even in (("replicate", True), ("zeros", False)):
        model = lively(dataclasses.replace(SMALL, codes=512, padding=padding))
        with torch.no_grad():
            features = model.encoder(flat)
        apart = (features - features[:, :, 4:5, 4:5]).abs().amax()
        assert (apart < 1e-4) == even, padding


@pytest.mark.parametrize("stride", [1, 2])
def test_repeating_the_border_is_the_same_in_training_and_after(stride: int) -> None:
    torch.manual_seed(0)
    conv = conv_bn(3, 5, stride=stride, padding="replicate")[0]
    image = torch.randn(2, 3, 12, 8)
    assert torch.equal(conv.train()(image), conv.eval()(image))
    assert torch.equal(conv(image), F.conv2d(F.pad(image, (1, 1, 1, 1), "replicate"), conv.weight, stride=stride))


@settings(max_examples=20, deadline=None)
@given(side=st.integers(1, 4), number=st.integers(0, 10**6))
def test_crops_lie_on_the_grid_of_tokens_inside_the_picture(side: int, number: int) -> None:
    y, x = np.mgrid[:64, :64].astype(np.uint8)
    images = np.stack([y, x, y], axis=-1)[None].repeat(2, 0)
    cut = crops(images, 16 * side, 16, 3, number)
    assert cut.shape == (2, 16 * side, 16 * side, 3)
    top, left = cut[0, 0, 0, :2]
    assert top % 16 == left % 16 == 0
    assert np.array_equal(cut, images[:, top : top + 16 * side, left : left + 16 * side])
    assert np.array_equal(cut, crops(images, 16 * side, 16, 3, number))


def test_crops_come_from_everywhere() -> None:
    images = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1).repeat(3, 3)
    assert {int(crops(images, 2, 1, 0, number)[0, 0, 0, 0]) for number in range(100)} == {0, 1, 2, 4, 5, 6, 8, 9, 10}


def test_crowding_is_nothing_where_codes_are_used_evenly_and_grows_as_fewer_are() -> None:
    codes = torch.eye(32)
    few = [crowding(torch.eye(32)[:used].repeat(32 // used, 1) @ codes.T) for used in (32, 16, 4, 1)]
    assert few[0] < 1e-3
    assert all(fewer > more + 0.1 for more, fewer in pairwise(few))
    features = (0.2 * torch.randn(64, 32) + torch.eye(32)[0]).requires_grad_()
    crowded = crowding(F.normalize(features, dim=1) @ codes.T)
    for _ in range(50):
        (gradient,) = torch.autograd.grad(crowding(F.normalize(features, dim=1) @ codes.T), features)
        features = (features - 20 * gradient).detach().requires_grad_()
    assert crowding(F.normalize(features, dim=1) @ codes.T) < crowded - 0.1


def quantizer(codes: int = 20, dim: int = 5) -> CosineQuantizer:
    torch.manual_seed(2)
    made = CosineQuantizer(codes, dim)
    with torch.no_grad():
        made.codebook.mul_(torch.rand(codes, 1) * 3 + 0.1)  # training does not keep codes at unit length
    return made


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def test_the_nearest_code_is_the_one_a_search_through_all_finds() -> None:
    made, z = quantizer(), torch.randn(2, 5, 6, 7)
    features = unit(z.permute(0, 2, 3, 1).double().numpy())
    codes = unit(made.codebook.detach().double().numpy())
    distances = np.square(features[..., None, :] - codes).sum(-1)
    expected = distances.argmin(-1)
    assert np.array_equal(made.nearest(z).numpy(), expected)
    quantized = made(z)
    assert np.array_equal(quantized.ids.numpy(), expected)
    np.testing.assert_allclose(quantized.z_q.detach().permute(0, 2, 3, 1), codes[expected], atol=1e-6)
    np.testing.assert_allclose(made.lookup(quantized.ids).detach(), quantized.z_q.detach(), atol=1e-6)
    assert quantized.codebook_loss.item() == pytest.approx(distances.min(-1).mean(), rel=1e-5)
    assert quantized.commitment_loss.item() == pytest.approx(distances.min(-1).mean(), rel=1e-5)


def test_the_decoders_gradient_passes_straight_through_to_the_encoder() -> None:
    made, z, upstream = quantizer(), torch.randn(2, 5, 3, 3, requires_grad=True), torch.randn(2, 5, 3, 3)
    (made(z).z_q * upstream).sum().backward()
    (expected,) = torch.autograd.grad((F.normalize(z, dim=1) * upstream).sum(), z)
    torch.testing.assert_close(z.grad, expected)
    assert made.codebook.grad is None or made.codebook.grad.abs().max() == 0


@pytest.mark.parametrize("term", ["codebook_loss", "commitment_loss"])
def test_each_term_pulls_one_side_only(term: str) -> None:
    made, z = quantizer(), torch.randn(2, 5, 3, 3, requires_grad=True)
    getattr(made(z), term).backward()

    def pulled(tensor: Tensor) -> bool:
        return tensor.grad is not None and tensor.grad.abs().max().item() > 0

    assert pulled(made.codebook) == (term == "codebook_loss")
    assert pulled(z) == (term == "commitment_loss")


def reseed(made: CosineQuantizer, used: list[int], z: Tensor, patience: int = 3, seed: int = 0) -> int:
    count = z.shape[0] * z.shape[2] * z.shape[3]
    ids = torch.tensor((used * count)[:count]).reshape(z.shape[0], *z.shape[2:])
    return made.reseed_idle(z, ids, patience, torch.Generator().manual_seed(seed))


def test_reseeding_moves_idle_codes_onto_features_and_no_others() -> None:
    made, z = quantizer(codes=8), torch.randn(2, 5, 8, 8)
    before = made.codebook.detach().clone()
    assert reseed(made, [1, 5], z) == 0
    assert reseed(made, [1, 2], z) == 0  # code 2 was in use here: its patience begins anew
    assert torch.equal(made.codebook, before)
    assert reseed(made, [1, 5], z) == 5
    moved = (made.codebook != before).any(1)
    assert moved.tolist() == [True, False, False, True, True, False, True, True]
    features = {tuple(row) for row in F.normalize(z, dim=1).permute(0, 2, 3, 1).reshape(-1, 5).tolist()}
    places = {tuple(row) for row in made.codebook.detach()[moved].tolist()}
    assert len(places) == 5
    assert places <= features
    before = made.codebook.detach().clone()
    assert [reseed(made, [1, 5], z) for _ in range(2)] == [0, 1]
    assert (made.codebook != before).any(1).nonzero().flatten().tolist() == [2]  # the others begin anew


def test_reseeding_depends_on_the_generator_alone() -> None:
    z = torch.randn(1, 5, 8, 8)
    books = []
    for seed in (3, 3, 4):
        made = quantizer()
        reseed(made, [0], z, patience=1, seed=seed)
        books.append(made.codebook.detach())
    assert torch.equal(books[0], books[1])
    assert not torch.equal(books[0], books[2])


def test_reseeding_hands_at_most_a_quarter_of_a_batch_to_new_codes() -> None:
    assert reseed(quantizer(codes=100), [0], torch.randn(1, 5, 4, 6), patience=1) == 6
