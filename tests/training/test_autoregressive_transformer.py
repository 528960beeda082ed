from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from smalti.errors import UsageError
from smalti_train.models.autoregressive_transformer import (
    AutoregressiveTransformer,
    AutoregressiveTransformerConfig,
    Net2NetTransformer,
    Net2NetTransformerConfig,
    Past,
)

TWIN = AutoregressiveTransformerConfig(codes=6, grid=(3, 4), classes=2, width=16, layers=2, heads=2)
TAMING = Net2NetTransformerConfig(vocabulary=6, positions=12, grid=(3, 4), width=16, layers=2, heads=2)


def perturbed(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    model.eval()


@pytest.fixture(scope="module")
def twin() -> AutoregressiveTransformer:
    model = AutoregressiveTransformer(TWIN)
    perturbed(model)
    return model


@pytest.fixture(scope="module")
def taming() -> Net2NetTransformer:
    model = Net2NetTransformer(TAMING)
    perturbed(model)
    return model


def grids(length: int, count: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(6, (count, length), generator=torch.Generator().manual_seed(seed))


def written_out(state: dict[str, Tensor], heads: int, layers: int, embedded: Tensor, unmasked: int = 0) -> np.ndarray:
    """One sample's logits by NumPy, head by head; ``embedded`` float [n, width] holds tokens, not yet places."""
    values = {name: tensor.double().numpy() for name, tensor in state.items()}
    x = embedded.double().numpy() + values["pos_emb"][0, : len(embedded)]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        deviation = np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return (x - x.mean(-1, keepdims=True)) / deviation * values[f"{name}.weight"] + values[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ values[f"{name}.weight"].T + values[f"{name}.bias"]

    for layer in range(layers):
        block = f"blocks.{layer}"
        y = norm(x, f"{block}.ln1")
        q, k, v = (linear(y, f"{block}.attn.{name}") for name in ("query", "key", "value"))
        mixed, size = np.zeros_like(y), y.shape[1] // heads
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            for i in range(len(y)):
                seen = max(i + 1, unmasked if i < unmasked else 0)
                scores = k[:seen, part] @ q[i, part] / math.sqrt(size)
                weights = np.exp(scores - scores.max())
                mixed[i, part] = weights / weights.sum() @ v[:seen, part]
        x = x + linear(mixed, f"{block}.attn.proj")
        y = linear(norm(x, f"{block}.ln2"), f"{block}.mlp.0")
        y = y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
        x = x + linear(y, f"{block}.mlp.2")
    return norm(x, "ln_f") @ values["head.weight"].T


def test_the_twin_is_the_transformer_of_the_paper_behind_a_start_token(twin: AutoregressiveTransformer) -> None:
    tokens, state = grids(7, count=1), twin.state_dict()
    embedded = torch.cat((state["start_tok"][0], state["tok_emb.weight"][tokens[0]])) + state["label_emb.weight"][1]
    expected = written_out(state, 2, 2, embedded)
    found = twin.logits(tokens, torch.tensor([1]))
    assert found.shape == (1, 8, 6)  # n tokens give n + 1 rows
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("unmasked", [0, 1, 3])
def test_tamings_transformer_reads_tokens_as_they_are(unmasked: int) -> None:
    config = Net2NetTransformerConfig(
        vocabulary=6, positions=12, grid=(3, 4), width=16, layers=2, heads=2, unmasked=unmasked
    )
    model = Net2NetTransformer(config)
    perturbed(model)
    tokens, state = grids(7, count=1), model.state_dict()
    expected = written_out(state, 2, 2, state["tok_emb.weight"][tokens[0]], unmasked)
    np.testing.assert_allclose(model.logits(tokens)[0].numpy(), expected, atol=1e-4)


def test_with_labels_row_i_is_about_token_i(taming: Net2NetTransformer) -> None:
    tokens = grids(5)
    for labels in (torch.tensor([4, 0, 2]), grids(3, seed=1)):
        conditioning = labels.reshape(3, -1)
        # The published training step: read all but the last token, drop the rows about the conditioning.
        expected = taming.logits(torch.cat((conditioning, tokens), 1)[:, :-1])[:, conditioning.shape[1] - 1 :]
        found = taming.logits(tokens, labels)
        assert found.shape == (3, 5, 6)
        torch.testing.assert_close(found, expected)


@torch.no_grad()
@pytest.mark.parametrize("changed", [0, 4, 8])
def test_a_token_changes_what_follows_and_nothing_before(twin: AutoregressiveTransformer, changed: int) -> None:
    tokens = grids(9)
    other = tokens.clone()
    other[:, changed] = (other[:, changed] + 1) % 6
    difference = (twin(tokens) - twin(other)).abs().amax(dim=(0, 2))
    assert difference[: changed + 1].max() == 0
    assert difference[changed + 1 :].min() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("steps", [[1] * 11, [4, 1, 6], [0, 11], [11]])
def test_reading_on_gives_what_reading_at_once_gives(twin: AutoregressiveTransformer, steps: list[int]) -> None:
    tokens, labels, past, parts = grids(11), torch.tensor([0, 1, 2]), Past(), []
    for part in tokens.split(steps, dim=1):
        parts.append(twin(part, labels, past))
    torch.testing.assert_close(torch.cat(parts, 1), twin(tokens, labels), atol=1e-5, rtol=1e-4)
    assert past.length == 12


@torch.no_grad()
@pytest.mark.parametrize("unmasked", [0, 3])
def test_taming_reads_on_behind_its_conditioning(unmasked: int) -> None:
    model = Net2NetTransformer(
        Net2NetTransformerConfig(
            vocabulary=6, positions=12, grid=(3, 3), width=16, layers=2, heads=2, unmasked=unmasked
        )
    )
    perturbed(model)
    tokens, conditioning, past = grids(8), grids(3, seed=2), Past()
    parts = [model(part, conditioning, past) for part in tokens.split([0, 1, 5, 2], dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens, conditioning), atol=1e-5, rtol=1e-4)


def test_conditioning_that_sees_itself_comes_in_one_piece() -> None:
    model = Net2NetTransformer(Net2NetTransformerConfig(6, 12, (3, 3), 16, 1, 2, unmasked=3))
    past = Past()
    model(grids(2), past=past)
    with pytest.raises(UsageError, match="the first 3 tokens see each other"):
        model(grids(1), past=past)


def test_what_is_out_of_range_is_named(twin: AutoregressiveTransformer, taming: Net2NetTransformer) -> None:
    with pytest.raises(UsageError, match="n at most 11"):
        twin.logits(grids(12))
    with pytest.raises(UsageError, match=r"tokens must be 0 .. 5; got 6 .. 6"):
        twin.logits(torch.full((1, 2), 6))
    with pytest.raises(UsageError, match="the last for no label"):
        twin.logits(grids(3), torch.tensor([0, 1, 3]))
    with pytest.raises(UsageError, match="n at most 12"):
        taming.logits(grids(13))
    with pytest.raises(UsageError, match="n at most 10"):
        taming.logits(grids(11), grids(3, seed=1))
    with pytest.raises(UsageError, match=r"tokens must be 0 .. 5; got 9 .. 9"):
        taming.logits(grids(3), torch.full((3,), 9))
    with pytest.raises(UsageError, match=r"labels must be integers \[3\] or \[3, C\]; got \[2\]"):
        taming.logits(grids(3), torch.zeros(2, dtype=torch.int64))
