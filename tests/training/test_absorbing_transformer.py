from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from smalti.errors import UsageError
from smalti.families.canvas import canvas_denoiser
from smalti_train.importers.priors import import_unleashing_absorbing
from smalti_train.models.absorbing_transformer import AbsorbingTransformer, AbsorbingTransformerConfig
from smalti_train.runs.torch_sampling import torch_denoiser

FIXTURES = Path(__file__).parent / "fixtures"
CONFIG = AbsorbingTransformerConfig(codes=5, grid=(3, 4), classes=2, width=16, layers=2, heads=2)
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def prior() -> AbsorbingTransformer:
    torch.manual_seed(0)
    model = AbsorbingTransformer(CONFIG).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return dict(np.load(FIXTURES / "ut_absorbing_small.npz"))


@pytest.fixture(scope="module")
def published() -> AbsorbingTransformer:
    """The published code's small model, with its weights."""
    state = torch.load(FIXTURES / "ut_absorbing_small.th", weights_only=True)
    return import_unleashing_absorbing(state, {"heads": 4})


def grids(seed: int = 0, count: int = 3) -> torch.Tensor:
    return torch.randint(CONFIG.codes + 1, (count, 12), generator=torch.Generator().manual_seed(seed))


def test_logits_are_those_of_the_published_code(published: AbsorbingTransformer, arrays: dict[str, np.ndarray]) -> None:
    found = published.logits(torch.from_numpy(arrays["x_t"]), t=torch.from_numpy(arrays["t"]))
    assert np.abs(found.numpy() - arrays["logits"]).max() <= TOLERANCE


@pytest.mark.parametrize("batch", [1, 4])
def test_mixtures_of_windows_are_those_of_the_published_code(
    published: AbsorbingTransformer, arrays: dict[str, np.ndarray], batch: int
) -> None:
    canvas = arrays["big_x"]
    height, width = canvas.shape[1:]
    denoise = canvas_denoiser(torch_denoiser(published), (height, width), (8, 8), batch=batch, edges=True)
    rows = np.arange(height * width, dtype=np.int32)[None]
    log_mixture = denoise(canvas.reshape(1, -1).astype(np.int32), np.zeros(1, np.int32), rows)
    shape = (1, height, width, -1)
    assert np.abs(np.exp(log_mixture).reshape(shape) - arrays["big_probs"]).max() <= TOLERANCE
    cool = torch.softmax(torch.from_numpy(log_mixture) / 0.8, dim=-1).numpy()
    assert np.abs(cool.reshape(shape) - arrays["big_probs_temp08"]).max() <= TOLERANCE


@torch.no_grad()
def test_rows_ask_for_parts_of_the_full_answer_in_any_order(prior: AbsorbingTransformer) -> None:
    tokens, labels = grids(), torch.tensor([0, 1, 2])
    full = prior(tokens, labels)
    assert full.shape == (3, 12, CONFIG.codes)
    rows = torch.tensor([[5, 0, 11, 5], [1, 2, 3, 4], [10, 9, 9, 0]])
    expected = torch.stack([full[sample, rows[sample]] for sample in range(3)])
    torch.testing.assert_close(prior(tokens, labels, rows), expected)


@torch.no_grad()
@pytest.mark.parametrize(("changed", "watched"), [(11, 0), (0, 11), (5, 6)])
def test_every_position_sees_every_other(prior: AbsorbingTransformer, changed: int, watched: int) -> None:
    tokens = torch.full((1, 12), CONFIG.mask)
    other = tokens.clone()
    other[0, changed] = 4
    assert (prior(tokens)[0, watched] - prior(other)[0, watched]).abs().max() > 1e-3


@torch.no_grad()
def test_labels_change_the_logits_and_the_last_stands_for_none(prior: AbsorbingTransformer) -> None:
    tokens = grids(1, 1).expand(3, -1)
    logits = prior(tokens, torch.arange(3))
    assert torch.pdist(logits.flatten(1)).min() > 0.1
    torch.testing.assert_close(prior(tokens[:1]), logits[2:])


def test_time_is_not_read(prior: AbsorbingTransformer) -> None:
    tokens = grids(2)
    assert torch.equal(prior.logits(tokens, t=torch.tensor([1, 5, 9])), prior.logits(tokens))


def test_a_model_without_classes_has_no_table_of_labels_and_reads_none() -> None:
    model = AbsorbingTransformer(AbsorbingTransformerConfig(codes=5, grid=(3, 4), width=16, layers=1, heads=2)).eval()
    assert not [name for name in model.state_dict() if "label" in name]
    tokens = grids()
    assert torch.equal(model.logits(tokens, torch.zeros(3, dtype=torch.int64)), model.logits(tokens))
    with pytest.raises(UsageError, match="this prior knows none"):
        model.logits(tokens, torch.tensor([0, 1, 0]))


def test_logits_carry_no_gradients_and_training_does(prior: AbsorbingTransformer) -> None:
    assert not prior.logits(grids()).requires_grad
    model = AbsorbingTransformer(CONFIG)
    model(grids(), torch.tensor([0, 1, 2])).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("tokens", "labels", "message"),
    [
        (torch.full((1, 12), 6), None, "tokens must be 0 .. 5; got 6 .. 6"),
        (torch.full((1, 12), -1), None, "tokens must be 0 .. 5; got -1"),
        (torch.zeros(1, 13, dtype=torch.int64), None, "n at most 12"),
        (torch.zeros(1, 12), None, "tokens must be integers"),
        (torch.zeros(12, dtype=torch.int64), None, "tokens must be integers"),
        (torch.zeros(2, 12, dtype=torch.int64), torch.tensor([0, 3]), "0 .. 2, the last for no label"),
        (torch.zeros(2, 12, dtype=torch.int64), torch.tensor([0]), r"labels must be integers \[2\]"),
    ],
)
def test_what_is_out_of_range_is_named(
    prior: AbsorbingTransformer, tokens: torch.Tensor, labels: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        prior.logits(tokens, labels)


def test_heads_divide_the_width() -> None:
    with pytest.raises(UsageError, match="heads 3: it must divide the width, 16"):
        AbsorbingTransformer(AbsorbingTransformerConfig(width=16, heads=3))
