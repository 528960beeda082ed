from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from smalti_train.models.hourglass_prior import Block, HourglassPrior, HourglassPriorConfig, merge, split

CONFIG = HourglassPriorConfig(
    codes=11, grid=(4, 6), classes=3, width=16, inner_width=32, layers_in=1, layers_inner=2, layers_out=1, head_dim=8
)


@pytest.fixture(scope="module")
def prior() -> HourglassPrior:
    """A prior in eval mode whose weights are far from their start, so that whatever can matter does."""
    torch.manual_seed(0)
    model = HourglassPrior(CONFIG)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.25)
    return model.eval()


def grids(count: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(CONFIG.codes + 1, (count, 24), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_rows_ask_for_parts_of_the_full_answer_in_any_order(prior: HourglassPrior) -> None:
    tokens, labels = grids(), torch.tensor([0, 2, 3])
    full = prior(tokens, labels)
    assert full.shape == (3, 24, CONFIG.codes)
    rows = torch.tensor([[5, 0, 23, 5], [1, 2, 3, 4], [22, 9, 9, 0]])
    expected = torch.stack([full[sample, rows[sample]] for sample in range(3)])
    torch.testing.assert_close(prior(tokens, labels, rows), expected)
    torch.testing.assert_close(prior(tokens, labels, rows[:, :1]), expected[:, :1])


def test_merging_groups_patches_of_two_by_two() -> None:
    positions = torch.arange(24).reshape(1, 24, 1)  # of 4 rows and 6 columns
    merged = merge(positions, (4, 6))
    assert merged.shape == (1, 6, 4)
    expected = [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11], [12, 13, 18, 19], [14, 15, 20, 21], [16, 17, 22, 23]]
    assert merged[0].tolist() == expected


@pytest.mark.parametrize("grid", [(2, 2), (4, 6), (6, 4), (8, 2)])
def test_splitting_undoes_merging(grid: tuple[int, int]) -> None:
    x = torch.randn(2, grid[0] * grid[1], 5)
    assert torch.equal(split(merge(x, grid), grid), x)


def test_inner_layers_see_a_quarter_of_the_tokens(prior: HourglassPrior) -> None:
    lengths: list[int] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[1]))
        for module in prior.modules()
        if isinstance(module, Block)
    ]
    prior(grids())
    for hook in hooks:
        hook.remove()
    assert lengths == [24, 6, 6, 24]


@torch.no_grad()
def test_the_label_changes_the_logits(prior: HourglassPrior) -> None:
    tokens = grids(1).expand(4, -1)
    logits = prior(tokens, torch.arange(4))
    for one in range(4):
        for other in range(one):
            assert (logits[one] - logits[other]).abs().max() > 0.1


@torch.no_grad()
def test_no_label_is_the_label_after_the_last(prior: HourglassPrior) -> None:
    tokens = grids()
    assert torch.equal(prior(tokens), prior(tokens, torch.full((3,), CONFIG.classes)))


@torch.no_grad()
@pytest.mark.parametrize(("changed", "watched"), [(23, 0), (0, 23), (7, 16)])
def test_every_position_sees_every_other(prior: HourglassPrior, changed: int, watched: int) -> None:
    tokens = torch.full((1, 24), CONFIG.mask)
    other = tokens.clone()
    other[0, changed] = 4
    assert (prior(tokens)[0, watched] - prior(other)[0, watched]).abs().max() > 1e-3


@torch.no_grad()
def test_positions_are_told_apart(prior: HourglassPrior) -> None:
    logits = prior(torch.full((1, 24), CONFIG.mask))[0]
    assert torch.pdist(logits).min() > 1e-2


@torch.no_grad()
def test_a_sample_does_not_see_its_batch(prior: HourglassPrior) -> None:
    tokens = grids(5)
    torch.testing.assert_close(prior(tokens)[2:3], prior(tokens[2:3]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "sizes",
    [{"grid": (3, 4)}, {"grid": (4, 5)}, {"width": 12}, {"inner_width": 20}],
    ids=["odd rows", "odd columns", "width", "inner width"],
)
def test_sizes_that_do_not_divide_are_refused(sizes: dict[str, object]) -> None:
    fields = {"codes": 4, "grid": (4, 4), "width": 16, "inner_width": 16, "head_dim": 8, **sizes}
    with pytest.raises(ValueError, match="even, and widths multiples of head_dim"):
        HourglassPrior(HourglassPriorConfig(**fields))
