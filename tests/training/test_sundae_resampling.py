from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti_train.models.sundae_resampling import Downsample, Upsample, patches, unpatched

SIDES = st.integers(1, 3)


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES)
def test_patches_are_those_of_the_grid_and_come_apart_again(rows: int, columns: int, down: int, right: int) -> None:
    grid, shorten = (rows * down, columns * right), (down, right)
    x = torch.arange(grid[0] * grid[1] * 2).reshape(1, -1, 2)
    found = patches(x, grid, shorten)
    assert found.shape == (1, rows * columns, down * right, 2)
    for place in range(rows * columns):
        top, left = place // columns * down, place % columns * right
        inside = x.reshape(*grid, 2)[top : top + down, left : left + right]
        assert torch.equal(found[0, place], inside.reshape(-1, 2))
    assert torch.equal(unpatched(found, grid, shorten), x)


def test_raster_patches_are_consecutive_tokens() -> None:
    assert patches(torch.arange(16).reshape(1, 16, 1), (2, 8), (1, 4))[0, :, :, 0].tolist() == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
        [12, 13, 14, 15],
    ]


def test_naive_resampling_takes_means_and_copies() -> None:
    down, up = Downsample(3, (2, 2), naive=True), Upsample(3, (2, 2), naive=True)
    assert not list(down.parameters()) + list(up.parameters())
    x = torch.randn(2, 24, 3)
    short = down(x, (4, 6))
    torch.testing.assert_close(short[:, 0], x[:, [0, 1, 6, 7]].mean(1))
    long = up(short, (4, 6))
    assert torch.equal(long[:, [0, 1, 6, 7]], short[:, :1].expand(-1, 4, -1))


@torch.no_grad()
@pytest.mark.parametrize("shorten", [(2, 2), (1, 4)])
def test_linear_resampling_is_one_linear_map_of_every_patch(shorten: tuple[int, int]) -> None:
    torch.manual_seed(0)
    down, up = Downsample(3, shorten, naive=False), Upsample(3, shorten, naive=False)
    assert down.proj is not None
    assert up.proj is not None
    x = torch.randn(2, 32, 3)
    short = down(x, (4, 8))
    for patch in (0, 5):
        own = patches(x, (4, 8), shorten)[:, patch]  # [B, 4, 3]
        # As published: the four values of the first dimension, then those of the second, and so on.
        flat = torch.stack([own[:, token, channel] for channel in range(3) for token in range(4)], dim=1)
        torch.testing.assert_close(short[:, patch], down.proj(flat))
    long = patches(up(short, (4, 8)), (4, 8), shorten)
    for token in range(4):
        torch.testing.assert_close(long[:, :, token], up.proj(short)[..., token::4])
