"""The embedding that is fitted at export: exact averages over cells, and vectors that alterations hardly change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import smalti
from smalti_export.embedding import CELLS, averaged, fitted
from smalti_train.data import open_dataset
from smalti_train.runs.loading import load_autoencoder


@pytest.mark.parametrize("size", [(4, 4), (8, 16), (16, 12)])
def test_cells_that_divide_the_grid_are_averaged_as_by_torch(size: tuple[int, int]) -> None:
    features = torch.randn(3, 5, *size)
    expected = torch.nn.functional.adaptive_avg_pool2d(features, CELLS).flatten(1)
    torch.testing.assert_close(averaged(features), expected)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 2), (9, 30)])
def test_other_cells_take_shares_of_what_lies_across_their_edges(size: tuple[int, int]) -> None:
    features = torch.randn(2, 3, *size)
    fine = features.repeat_interleave(CELLS, 2).repeat_interleave(CELLS, 3)
    expected = torch.nn.functional.adaptive_avg_pool2d(fine, CELLS).flatten(1)
    torch.testing.assert_close(averaged(features), expected)


def test_the_same_pictures_give_the_same_embedding(tiny_runs: tuple[Path, Path], cache_dir: Path) -> None:
    codec, config = load_autoencoder(tiny_runs[0])
    pictures = open_dataset("avatars", size=64, split="validation", count=64).images
    first, second = (fitted(codec, pictures) for _ in range(2))  # type: ignore[arg-type]
    assert torch.equal(first.projection, second.projection)
    vectors = first(torch.randn(4, config.model.channels[-1], 4, 4))  # type: ignore[union-attr]
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
    assert vectors.shape == (4, len(first.projection))


def test_altered_pictures_are_nearest_to_their_originals(tiny_bundle: Path, cache_dir: Path) -> None:
    gen = smalti.load(tiny_bundle)
    pictures = np.asarray(open_dataset("avatars", size=64, split="test", count=64).images)
    originals = gen.embed(pictures)
    half = [Image.fromarray(one).resize((32, 32), Image.Resampling.LANCZOS) for one in pictures]
    double = [Image.fromarray(one).resize((128, 128), Image.Resampling.LANCZOS) for one in pictures]
    crop = [Image.fromarray(one).crop((2, 2, 62, 62)) for one in pictures]
    colours = [np.clip(one * [0.9, 1.0, 1.1] + [10, 0, -10], 0, 255).astype(np.uint8) for one in pictures]
    for name, queries, least in (("half", half, 0.8), ("double", double, 0.95), ("crop", crop, 0.6)):
        nearest = (gen.embed(queries) @ originals.T).argmax(axis=1)
        assert (nearest == np.arange(64)).mean() >= least, name
    assert ((gen.embed(colours) @ originals.T).argmax(axis=1) == np.arange(64)).mean() >= 0.5


def test_one_call_takes_pictures_of_any_sizes(tiny_bundle: Path) -> None:
    gen = smalti.load(tiny_bundle)
    sizes = [(64, 64), (70, 33), (1, 1), (300, 20), (64, 64)]
    images = [Image.effect_noise(size, 50).convert("RGB") for size in sizes]
    together = gen.embed(images)
    assert together.shape[0] == len(sizes)
    for image, row in zip(images, together):
        np.testing.assert_allclose(gen.embed([image])[0], row, atol=1e-5)
