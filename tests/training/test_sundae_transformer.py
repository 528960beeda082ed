from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smalti.errors import UsageError
from smalti_train.models.sundae_attention import Attention, Layers, place_features, rotary_angles, rotate, turn_of
from smalti_train.models.sundae_resampling import patches
from smalti_train.models.sundae_transformer import Hourglass, SundaeTransformer, SundaeTransformerConfig

FIXTURES = Path(__file__).parent / "fixtures"
CONFIG = SundaeTransformerConfig(
    codes=11, grid=(4, 8), classes=3, width=16, heads=2, head_dim=8, depth=(1, (1, 2, 1), 1)
)
LENGTH = 32


def scattered(config: SundaeTransformerConfig = CONFIG, **changes: Any) -> SundaeTransformer:
    """A prior in eval mode whose weights are far from their start, so that whatever can matter does."""
    torch.manual_seed(0)
    model = SundaeTransformer(dataclasses.replace(config, **changes))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def prior() -> SundaeTransformer:
    return scattered()


def grids(count: int = 3, length: int = LENGTH) -> Tensor:
    return torch.randint(CONFIG.codes, (count, length), generator=torch.Generator().manual_seed(count))


def lengths_seen(prior: SundaeTransformer, tokens: Tensor, **options: Any) -> list[int]:
    """Tokens that each stack of layers works on, in order; those of resampling left out."""
    found: list[int] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: found.append(output.shape[1]))
        for name, module in prior.named_modules()
        if isinstance(module, Layers) and "resampling" not in name
    ]
    prior(tokens, **options)
    for hook in hooks:
        hook.remove()
    return found


def test_the_angles_are_the_published_ones() -> None:
    wanted = torch.from_numpy(np.load(FIXTURES / "sundae_hourglass_small.npz")["rotary_freqs_8x8"])
    found = rotary_angles((8, 8), 64, highest=16.0).repeat_interleave(2, dim=1).reshape(8, 8, 64)
    assert (found - wanted).abs().max() < 1e-6


def test_a_turned_pair_is_the_product_of_complex_numbers() -> None:
    angles = rotary_angles((3, 4), 8)
    x = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))
    pairs = x.reshape(2, 12, 4, 2).numpy() @ np.array([1, 1j]) * np.exp(1j * angles.numpy())
    expected = np.stack((pairs.real, pairs.imag), axis=-1).reshape(2, 12, 8)
    np.testing.assert_allclose(rotate(x, turn_of(angles)).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("axes", "grid"), [("2d", (4, 4)), ("2d", (2, 9)), ("1d", (4, 4))])
def test_what_two_tokens_see_of_each_other_depends_on_how_far_apart_they_are(axes: Any, grid: tuple[int, int]) -> None:
    q, k = torch.randn(2, 12, generator=torch.Generator().manual_seed(1))
    turn = turn_of(rotary_angles(grid, 12, axes))
    scores = rotate(q.expand(math.prod(grid), 12), turn) @ rotate(k.expand(math.prod(grid), 12), turn).T
    places = list(np.ndindex(*grid)) if axes == "2d" else [(place,) for place in range(math.prod(grid))]
    found: dict[tuple[int, ...], list[float]] = {}
    for i, here in enumerate(places):
        for j, there in enumerate(places):
            found.setdefault(tuple(np.subtract(there, here).tolist()), []).append(scores[i, j].item())
    assert len(found) == math.prod(2 * side - 1 for side in (grid if axes == "2d" else (len(places),)))
    assert max(max(values) - min(values) for values in found.values()) < 1e-4
    means = sorted(values[0] for values in found.values())
    assert max(means) - min(means) > 0.5


def test_a_larger_grid_begins_with_the_angles_of_a_smaller_one() -> None:
    small, large = (rotary_angles(grid, 8).reshape(*grid, 4) for grid in ((2, 3), (5, 7)))
    assert torch.equal(large[:2, :3], small)
    published = rotary_angles((5, 7), 8, highest=16.0).reshape(5, 7, 4)
    torch.testing.assert_close(published[0, 0], -published[4, 6])  # from -1 to 1 whatever the grid


@torch.no_grad()
@pytest.mark.parametrize("first_head_only", [True, False])
@pytest.mark.parametrize("context", [False, True])
def test_attention_is_what_it_is_by_hand(first_head_only: bool, context: bool) -> None:
    torch.manual_seed(0)
    heads, dim, grid = 2, 4, (1, 3)
    layer = Attention(5, heads, dim, first_head_only).double()
    x, seen = torch.randn(1, 3, 5).double(), torch.randn(1, 2, 5).double()
    angles = rotary_angles(grid, dim).double()
    found = layer(x, None if context else turn_of(angles), seen if context else None)[0]

    def turned(vector: np.ndarray, place: int, head: int) -> np.ndarray:
        if context or (first_head_only and head):
            return vector
        pairs = vector.reshape(-1, 2) @ np.array([1, 1j]) * np.exp(1j * angles[place].numpy())
        return np.stack((pairs.real, pairs.imag), axis=1).reshape(-1)

    weights = {name: value.numpy() for name, value in layer.state_dict().items()}
    queries = x[0].numpy() @ weights["to_q.weight"].T
    pairs = (seen if context else x)[0].numpy() @ weights["to_kv.weight"].T
    keys, values = pairs[:, : heads * dim], pairs[:, heads * dim :]
    for place in range(3):
        mixed = np.zeros(heads * dim)
        for head in range(heads):
            own = slice(head * dim, (head + 1) * dim)
            q = turned(queries[place, own], place, head)
            scores = np.array([q @ turned(key[own], other, head) for other, key in enumerate(keys)]) / np.sqrt(dim)
            shares = np.exp(scores - scores.max())
            mixed[own] = shares / shares.sum() @ values[:, own]
        expected = mixed @ weights["to_out.weight"].T + weights["to_out.bias"]
        np.testing.assert_allclose(found[place].numpy(), expected, atol=1e-6)


@torch.no_grad()
def test_rows_ask_for_parts_of_the_full_answer_in_any_order(prior: SundaeTransformer) -> None:
    tokens, labels = grids(), torch.tensor([0, 2, 3])
    full = prior(tokens, labels)
    assert full.shape == (3, LENGTH, CONFIG.codes)
    rows = torch.tensor([[5, 0, 31, 5], [1, 2, 3, 4], [22, 9, 9, 0]])
    expected = torch.stack([full[sample, rows[sample]] for sample in range(3)])
    torch.testing.assert_close(prior(tokens, labels, rows), expected)
    torch.testing.assert_close(prior(tokens.int(), labels.int(), rows[:, :1]), expected[:, :1])


@torch.no_grad()
def test_nested_hourglasses_work_on_ever_fewer_tokens(prior: SundaeTransformer) -> None:
    assert lengths_seen(prior, grids()) == [32, 8, 2, 8, 32]
    assert lengths_seen(scattered(depth=(1, 1, 1), shorten=(1, 4)), grids()) == [32, 8, 32]


@torch.no_grad()
@pytest.mark.parametrize("grid", [(4, 4), (8, 4), (4, 16), (12, 8)])
def test_it_answers_for_other_rectangles_than_its_own(grid: tuple[int, int], prior: SundaeTransformer) -> None:
    tokens = grids(2, math.prod(grid))
    logits = prior(tokens, grid=grid)
    assert logits.shape == (2, math.prod(grid), CONFIG.codes)
    if grid != (8, 4):
        with pytest.raises(UsageError, match=r"tokens are not those of a grid of 4x8: give their grid"):
            prior(tokens)
    else:  # as many tokens, but laid out otherwise
        assert (logits - prior(tokens)).abs().max() > 0.1


@torch.no_grad()
def test_only_with_places_does_a_token_know_where_it_stands() -> None:
    """Rotary positions are relative: among equal tokens, patches cannot be told apart by them."""
    tokens = torch.full((1, LENGTH), 4)
    known, unknown = (scattered(depth=(1, 1, 1), places=places) for places in (True, False))
    assert torch.pdist(known(tokens)[0]).min() > 1e-2
    alike = patches(unknown(tokens), (4, 8), (2, 2))[0]
    assert (alike - alike[:1]).abs().max() < 1e-3
    assert torch.pdist(alike[0]).min() > 1e-2  # within a patch, resampling tells


def test_places_span_the_grid_whatever_its_sides() -> None:
    for grid in ((4, 8), (7, 3), (1, 1)):
        found = place_features(grid).reshape(*grid, 2, 2, -1)
        rows, columns = (np.arange(side) + 0.5 for side in grid)
        np.testing.assert_allclose(found[:, 0, 0, 0, 0], np.sin(np.pi * rows / grid[0]), atol=1e-6)
        np.testing.assert_allclose(found[0, :, 1, 1, 2], np.cos(4 * np.pi * columns / grid[1]), atol=1e-6)
        assert torch.equal(found[0, 0, 0], found[0, -1, 0])
        assert torch.equal(found[0, 0, 1], found[-1, 0, 1])


@pytest.mark.parametrize("grid", [(2, 8), (4, 6), (5, 4), (0, 4)])
def test_grids_that_cannot_be_shortened_are_refused(grid: tuple[int, int], prior: SundaeTransformer) -> None:
    with pytest.raises(UsageError, match="rows must be a multiple of 4 and columns of 4"):
        prior(grids(1, math.prod(grid)), grid=grid)


@torch.no_grad()
def test_without_a_grid_every_square_is_taken() -> None:
    prior = scattered(grid=None)
    assert prior.logits(grids(1, 16)).shape == (1, 16, 11)
    assert prior.logits(grids(1, 64)).shape == (1, 64, 11)
    assert torch.equal(prior(grids(), grid=(4, 8)), scattered()(grids()))
    with pytest.raises(UsageError, match="32 tokens are not those of a grid of 5x5"):
        prior.logits(grids())


@torch.no_grad()
def test_every_variant_computes_something_else() -> None:
    """The same weights, computed with one thing changed at a time."""
    base = scattered(depth=(1, 2, 1))
    tokens = grids()
    expected = base(tokens)
    for changes in ({"rotary": "1d"}, {"published": True}, {"published": True, "published_frequencies": (16.0, 8.0)}):
        other = SundaeTransformer(dataclasses.replace(base.config, **changes)).eval()
        other.load_state_dict(base.state_dict())
        logits = other(tokens)
        assert (logits - expected).abs().max() > 1e-3, changes
        expected = logits


def shortened(prior: SundaeTransformer, tokens: Tensor) -> Tensor:
    """What the layers on the shortened grid get."""
    found: list[Tensor] = []
    hook = prior.transformer.valley_transformer.register_forward_hook(lambda _, inputs, output: found.append(inputs[0]))
    prior(tokens)
    hook.remove()
    return found[0]


@torch.no_grad()
@pytest.mark.parametrize(("published", "other", "patch"), [(True, 2, 1), (False, 8, 0)])
def test_published_weights_group_consecutive_tokens_where_ours_group_patches(
    published: bool, other: int, patch: int
) -> None:
    """Token 2 stands in token 0's row and not in its patch, token 8 below it; ``patch`` is whose mean it enters."""
    prior = scattered(depth=(0, 1, 0), classes=0, resampling="naive", published=published)
    tokens = torch.zeros(1, LENGTH).long()
    difference = shortened(prior, tokens) - shortened(prior, tokens.index_fill(1, torch.tensor(other), 5))
    changed = difference.abs().amax(2)[0] > 1e-6
    assert changed.tolist() == [place in {patch, 0} for place in range(8)]


@torch.no_grad()
def test_the_label_changes_the_logits_and_no_label_is_the_one_after_the_last(prior: SundaeTransformer) -> None:
    logits = prior(grids(1).expand(4, -1), torch.arange(4))
    assert torch.pdist(logits.flatten(1)).min() > 0.1
    tokens = grids()
    assert torch.equal(prior(tokens), prior(tokens, torch.full((3,), 3)))
    unlabelled = scattered(classes=0)
    assert torch.equal(unlabelled(tokens, torch.arange(3)), unlabelled(tokens))


@torch.no_grad()
@pytest.mark.parametrize(("changed", "watched"), [(31, 0), (0, 31), (9, 22)])
def test_every_position_sees_every_other(prior: SundaeTransformer, changed: int, watched: int) -> None:
    tokens = torch.full((1, LENGTH), 7)
    other = tokens.clone()
    other[0, changed] = 4
    assert (prior(tokens)[0, watched] - prior(other)[0, watched]).abs().max() > 1e-4


@torch.no_grad()
def test_a_sample_does_not_see_its_batch(prior: SundaeTransformer) -> None:
    tokens = grids(5)
    torch.testing.assert_close(prior(tokens)[2:3], prior(tokens[2:3]), atol=1e-4, rtol=1e-4)


def test_every_weight_learns() -> None:
    prior = scattered(places=True)
    prior(grids(), torch.tensor([0, 1, 3])).square().mean().backward()
    norms = {name: float(parameter.grad.norm()) for name, parameter in prior.named_parameters()}
    # One key leaves nothing to choose: where tokens look back at their patch's one, queries have nothing to learn.
    idle = [name for name in norms if "post_valley" in name and ("to_q" in name or "layers.0.0.norm" in name)]
    assert len(idle) == 6
    assert max(norms[name] for name in idle) < 1e-6 < 1e-5 < min(norms[name] for name in norms if name not in idle)


def test_it_starts_near_knowing_nothing() -> None:
    torch.manual_seed(0)
    logits = SundaeTransformer(CONFIG)(grids())
    assert (logits.softmax(-1) - 1 / CONFIG.codes).abs().max() < 0.05


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"codes": 0}, "at least 1"),
        ({"depth": (1, -1, 1)}, "layers at least 0"),
        ({"head_dim": 6}, "head_dim 6: rotary positions need a multiple of 4"),
        ({"shorten": (1, 1)}, "shortens nothing"),
        ({"grid": (4, 6)}, "grid 4x6: this prior shortens grids, so rows must be a multiple of 4"),
        ({"shorten": (1, 2), "grid": (3, 8), "published": True}, "square patches; leave published out"),
        ({"rotary": "1d", "published": True}, "published weights have 2d rotary positions alone"),
        ({"places": True, "published": True}, "places True: published weights"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize(
    ("tokens", "labels", "words"),
    [
        (torch.full((1, LENGTH), 11), None, r"tokens must be 0 \.\. 10; got 11 \.\. 11"),
        (torch.zeros(1, LENGTH), None, r"tokens must be integers \[B, h\*w\]; got torch.float32"),
        (torch.zeros(LENGTH).long(), None, "tokens must be integers"),
        (torch.zeros(1, LENGTH).long(), torch.tensor([4]), r"allowed are 0 \.\. 3, the last for no label"),
        (torch.zeros(1, LENGTH).long(), torch.tensor([0, 1]), r"labels must be integers \[1\]"),
    ],
)
def test_what_cannot_be_read_is_refused(
    tokens: Tensor, labels: Tensor | None, words: str, prior: SundaeTransformer
) -> None:
    with pytest.raises(UsageError, match=words):
        prior.logits(tokens, labels)


def test_only_the_outermost_hourglass_ends_with_a_norm(prior: SundaeTransformer) -> None:
    inner = prior.transformer.valley_transformer
    assert isinstance(inner, Hourglass)
    assert inner.norm_out is None
    assert prior.transformer.norm_out is not None
