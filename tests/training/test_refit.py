from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from helpers.statistics import chi_square_z
from smalti.errors import UsageError
from smalti_train.data.pixels import to_images
from smalti_train.models.edge_autoencoder import EdgeAutoencoder, EdgeAutoencoderConfig
from smalti_train.models.pixels import PixelCodes, PixelCodesConfig
from smalti_train.models.vqgan import VQGAN, VQGANConfig
from smalti_train.runs.loading import Autoencoder
from smalti_train.trainers.codebook_refit import afk_mc2, feature_pool, k_means, refit_codebook, with_codebook

EDGE = EdgeAutoencoderConfig(codes=24, code_dim=8, channels=(8, 16), encoder_blocks=(0, 1), decoder_blocks=(0, 1))
NEAREST = VQGANConfig(
    codes=24, code_dim=6, channels=32, multipliers=(1, 2), encoder_blocks=1, decoder_blocks=1, attention_levels=()
)
SIZES = [400, 200, 100, 80, 60, 50, 40, 30, 30, 20] + [12] * 10
"""Vectors in each cluster of :func:`blobs`."""
Images = NDArray[np.uint8]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(config: EdgeAutoencoderConfig | VQGANConfig) -> Autoencoder:
    torch.manual_seed(0)
    return (EdgeAutoencoder(config) if isinstance(config, EdgeAutoencoderConfig) else VQGAN(config)).eval()


@pytest.fixture(scope="module")
def images() -> Images:
    """Images of 16 pixels, each of few colours out of many, so that features come in clusters."""
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 256, (30, 2, 2, 3))
    return blocks.repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8)


def usage(autoencoder: Autoencoder, images: Images) -> float:
    with torch.no_grad():
        ids = autoencoder.encode(to_images(images, value_range=autoencoder.config.value_range))
    return len(ids.unique()) / autoencoder.config.codes


def blobs(seed: int = 0, spread: float = 0.05) -> Tensor:
    """Twenty tight clusters of uneven sizes, float32 [1130, 4]."""
    generator = seeded(seed)
    middles = 3 * torch.randn(len(SIZES), 4, generator=generator)
    points = torch.cat([middle.expand(size, -1) for middle, size in zip(middles, SIZES)])
    return points + spread * torch.randn(points.shape, generator=generator)


def cost(pool: Tensor, centres: Tensor) -> float:
    """Sum of the squared distances to the nearest centre."""
    return torch.cdist(pool.double(), centres.double()).square().amin(1).sum().item()


@torch.no_grad()
@pytest.mark.parametrize("config", [EDGE, NEAREST], ids=["cosine", "nearest"])
def test_a_pool_is_of_random_images_at_random_places(
    config: EdgeAutoencoderConfig | VQGANConfig, images: Images
) -> None:
    model, images = build(config).train(), images[:6]
    pool = feature_pool(model, images, 12_000, seed=1, batch=4)
    assert model.training
    model.eval()
    assert (pool.shape, pool.dtype) == ((12_000, config.code_dim), torch.float32)
    pixels = to_images(images, value_range=config.value_range)
    if isinstance(model, EdgeAutoencoder):
        features = F.normalize(model.encoder(pixels), dim=1)
        torch.testing.assert_close(pool.norm(dim=1), torch.ones(12_000))
    else:
        assert isinstance(model, VQGAN)
        features = model.features(pixels)
    known = features.permute(0, 2, 3, 1).flatten(0, 2)
    distances = torch.cdist(pool, known, compute_mode="donot_use_mm_for_euclid_dist")
    assert distances.amin(1).max() < 1e-5
    # Features of one value share their chance; with it, all come up as often as images and places drawn uniformly.
    same = torch.cdist(known, known, compute_mode="donot_use_mm_for_euclid_dist") < 1e-5
    first = same.int().argmax(1)
    counts = np.bincount(first[distances.argmin(1)].numpy(), minlength=len(known))
    assert chi_square_z(counts, np.bincount(first.numpy(), minlength=len(known)) / len(known)) < 3.7


def test_a_pool_is_decided_by_its_seed_and_not_by_the_batch(images: Images) -> None:
    model = build(EDGE)
    pool = feature_pool(model, images, 50, seed=3)
    torch.testing.assert_close(feature_pool(model, images, 50, seed=3, batch=4), pool)
    assert not torch.allclose(feature_pool(model, images, 50, seed=4), pool)


def test_progress_is_shown_where_it_is_asked_for(images: Images, capsys: pytest.CaptureFixture[str]) -> None:
    feature_pool(build(EDGE), images, 5, seed=0, progress=True)
    assert "features" in capsys.readouterr().err
    feature_pool(build(EDGE), images, 5, seed=0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("config", [EDGE, NEAREST], ids=["cosine", "nearest"])
@pytest.mark.parametrize("codes", [24, 10, 40])
def test_codes_come_into_use(config: EdgeAutoencoderConfig | VQGANConfig, codes: int, images: Images) -> None:
    model = build(config)
    with torch.no_grad():  # as training leaves it: one code near the features, the others out of reach
        away = torch.full((config.codes, config.code_dim), 100.0)
        away[0] = feature_pool(model, images, 1, seed=0)[0]
        model = with_codebook(model, F.normalize(away, dim=1) if config is EDGE else away)
    before = usage(model, images)
    pool = feature_pool(model, images, 600, seed=0)
    codebook = refit_codebook(model, pool, codes, seed=0)
    assert codebook.shape == (codes, config.code_dim)
    if config is EDGE:
        torch.testing.assert_close(codebook.norm(dim=1), torch.ones(codes))
    refitted = with_codebook(model, codebook)
    assert before <= 2 / config.codes
    assert usage(refitted, images) >= 0.95
    assert refitted.config == dataclasses.replace(config, codes=codes)
    assert not refitted.training
    name = "quantizer.codebook" if config is EDGE else "quantize.embedding.weight"
    for key, value in refitted.state_dict().items():
        assert torch.equal(value, codebook if key == name else model.state_dict()[key])


def test_a_fitting_codebook_lowers_the_error_of_quantisation(images: Images) -> None:
    model = build(NEAREST)
    assert isinstance(model, VQGAN)
    pool = feature_pool(model, images, 600, seed=0)
    codebook = refit_codebook(model, pool, 24, seed=0)
    before = cost(pool, model.state_dict()["quantize.embedding.weight"])
    assert cost(pool, codebook) < 0.5 * before
    assert cost(pool, codebook) < 0.9 * cost(pool, pool[:24])


def test_seeds_are_vectors_of_the_pool_decided_by_the_seed() -> None:
    pool = blobs()
    seeds = afk_mc2(pool, 20, chain=50, seed=5)
    assert torch.equal(seeds, afk_mc2(pool, 20, chain=50, seed=5))
    assert not torch.equal(seeds, afk_mc2(pool, 20, chain=50, seed=6))
    assert (seeds[:, None] == pool).all(2).any(1).all()
    assert (seeds.shape, seeds.dtype) == ((20, 4), torch.float32)


def test_seeds_cost_less_than_uniform_ones() -> None:
    """Over thirty clusterings of thirty pools; were they alike, the mean would be this far off once in a million."""
    ours, uniform = [], []
    for seed in range(30):
        pool = blobs(seed)
        ours.append(np.log(cost(pool, afk_mc2(pool, 20, chain=100, seed=seed))))
        uniform.append(np.log(cost(pool, pool[torch.randperm(len(pool), generator=seeded(seed))[:20]])))
    gain = np.array(uniform) - np.array(ours)
    assert gain.mean() / (gain.std(ddof=1) / np.sqrt(len(gain))) > 5


def test_long_chains_choose_by_squared_distance_from_the_seeds_so_far() -> None:
    pool = torch.tensor([[0.0], [1.0], [2.0], [4.0]])
    drawn = torch.stack([afk_mc2(pool, 3, chain=40, seed=seed).flatten() for seed in range(2500)])
    ids = {value: index for index, value in enumerate(pool.flatten().tolist())}
    found = np.bincount([16 * ids[a] + 4 * ids[b] + ids[c] for a, b, c in drawn.tolist()], minlength=64)
    wanted = np.zeros((4, 4, 4))
    squared = torch.cdist(pool, pool).square().numpy().astype(float)
    for a in range(4):
        for b in range(4):
            nearest = np.minimum(squared[a], squared[b])
            wanted[a, b] = 0.25 * squared[a, b] / squared[a].sum() * nearest / nearest.sum()
    assert chi_square_z(found, wanted.flatten()) < 3.7


def test_a_chain_of_one_step_is_the_proposal() -> None:
    pool = torch.tensor([[0.0], [1.0], [2.0], [4.0]])
    drawn = torch.stack([afk_mc2(pool, 2, chain=1, seed=seed).flatten() for seed in range(1500)])
    second = drawn[drawn[:, 0] == 0][:, 1].int()
    wanted = np.array([0, 1, 4, 0, 16]) / 21 / 2 + np.array([1, 1, 1, 0, 1]) / 8
    assert chi_square_z(np.bincount(second.numpy(), minlength=5), wanted) < 3.7


def test_as_many_seeds_as_equal_vectors_can_be_had() -> None:
    assert torch.equal(afk_mc2(torch.ones(3, 2), 3, chain=4, seed=0), torch.ones(3, 2))
    assert torch.equal(afk_mc2(torch.ones(1, 2), 1, chain=4, seed=0), torch.ones(1, 2))


def test_k_means_finds_clusters() -> None:
    pool = blobs()
    places = torch.tensor([0, *SIZES[:-1]]).cumsum(0)  # of each cluster's first vector
    centres = k_means(pool, pool[places], iterations=50)
    assert cost(pool, centres) == pytest.approx(0.05**2 * pool.numel(), rel=0.1)  # what the clusters are wide
    means = torch.stack([part.mean(0) for part in pool.split(SIZES)])
    torch.testing.assert_close(centres, means, atol=1e-5, rtol=0)


def test_rounds_of_k_means_never_cost_more() -> None:
    pool, start = blobs(), blobs()[:12]
    costs = [cost(pool, k_means(pool, start, iterations)) for iterations in (0, 1, 2, 5, 40)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.7 * costs[0]


def test_spherical_centres_have_unit_length_and_are_mean_directions() -> None:
    pool = F.normalize(blobs(spread=0.2), dim=1)
    centres = k_means(pool, afk_mc2(pool, 12, chain=50, seed=0), iterations=100, unit=True)
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(12))
    nearest = (pool @ centres.T).argmax(1)
    means = torch.stack([pool[nearest == code].mean(0) for code in range(12)])
    torch.testing.assert_close(centres, F.normalize(means, dim=1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("iterations", [0, 1, 3, 30])
@pytest.mark.parametrize("codes", [20, 200, 1130])
def test_no_centre_is_left_without_a_vector(codes: int, iterations: int, unit: bool) -> None:
    pool = F.normalize(blobs(), dim=1) if unit else blobs()
    start = pool[:1] + torch.arange(codes)[:, None] * 1e-4  # all but a few are in nobody's reach
    centres = k_means(pool, F.normalize(start, dim=1) if unit else start, iterations, unit)
    nearest = torch.cdist(pool.double(), centres.double()).argmin(1)
    assert len(nearest.unique()) == codes


def test_vectors_that_repeat_can_still_fill_every_cluster() -> None:
    pool = torch.tensor([[0.0, 0]] * 50 + [[1.0, 0]] * 30 + [[5.0, 5]] * 2 + [[5.0, 6]])
    centres = k_means(pool, torch.zeros(4, 2), iterations=10)
    assert sorted(centres.tolist()) == [[0, 0], [1, 0], [5, 5], [5, 6]]


def test_gumbel_quantisers_are_refused(images: Images) -> None:
    model = build(dataclasses.replace(NEAREST, quantizer="gumbel"))
    for call in (
        lambda: feature_pool(model, images, 5, seed=0),
        lambda: refit_codebook(model, torch.randn(50, 6), 5, seed=0),
        lambda: with_codebook(model, torch.randn(5, 6)),
    ):
        with pytest.raises(UsageError, match=r"Gumbel quantiser picks codes by logits .* nearest and cosine"):
            call()


def test_pixels_have_no_codebook(images: Images) -> None:
    with pytest.raises(UsageError, match="pixels as tokens have no codebook"):
        feature_pool(PixelCodes(PixelCodesConfig()), images, 5, seed=0)


def test_what_does_not_fit_is_named(images: Images) -> None:
    model, pool = build(EDGE), torch.randn(50, 8, generator=seeded())
    broken = pool.clone()
    broken[3, 2] = float("nan")
    for call, message in (
        (lambda: feature_pool(model, images, 0, seed=0), "a pool of 0 features of 30 images"),
        (lambda: feature_pool(model, images[:0], 5, seed=0), "a pool of 5 features of 0 images"),
        (
            lambda: refit_codebook(model, pool[:, :7], 5, seed=0),
            r"a pool is float \[P, 8\] for these codes; got \[50, 7",
        ),
        (lambda: refit_codebook(model, broken, 5, seed=0), "not every feature of the pool is a finite number"),
        (lambda: refit_codebook(model, pool, 51, seed=0), "51 seeds of 50 vectors"),
        (lambda: refit_codebook(model, pool, 0, seed=0), "0 seeds of 50 vectors"),
        (
            lambda: refit_codebook(model, pool[:5].repeat(9, 1), 6, seed=0),
            "5 different vectors is too small for 6 codes",
        ),
        (lambda: with_codebook(model, pool[:, :7]), r"codes are float \[K, 8\] here; got \[50, 7\]"),
        (lambda: afk_mc2(pool, 2, chain=0, seed=0), "chains of 0"),
    ):
        with pytest.raises(UsageError, match=message):
            call()


def test_vectors_that_rounding_cannot_tell_apart_are_refused() -> None:
    pool = torch.tensor([[1e8, 0.0], [1e8, 1e-3], [1e8, 2e-3], [-1e8, 0.0]])
    with pytest.raises(UsageError, match="differ by less than rounding"):
        k_means(pool, pool[:1].expand(4, -1), iterations=3)
