from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from smalti.families.autoregressive.sampler import run
from smalti_train.models.autoregressive_transformer import (
    AutoregressiveTransformer,
    AutoregressiveTransformerConfig,
    Net2NetTransformer,
    Net2NetTransformerConfig,
)
from smalti_train.runs.torch_sampling import next_logits

CODES, MASK = 2, 2
TWIN = AutoregressiveTransformerConfig(codes=CODES, grid=(2, 2), classes=2, width=8, layers=2, heads=2)
TAMING = Net2NetTransformerConfig(vocabulary=CODES, positions=6, grid=(2, 2), width=8, layers=2, heads=2)
STATES = np.array(list(itertools.product(range(CODES), repeat=4)))

Prior = AutoregressiveTransformer | Net2NetTransformer


@pytest.fixture(params=["twin", "taming"])
def prior(request: pytest.FixtureRequest) -> Prior:
    model = AutoregressiveTransformer(TWIN) if request.param == "twin" else Net2NetTransformer(TAMING)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.6)
        model.head.weight *= 0.3  # so that no grid is too rare to be counted
    return model


def draw(prior: Prior, count: int, label: int = 1, start: np.ndarray | None = None) -> np.ndarray:
    labels = np.full(count, label, np.int32)
    start = np.full((count, 4), MASK, np.int32) if start is None else start
    *_, tokens = run(next_logits(prior), start, mask=MASK, seeds=range(count), labels=labels, width=2)
    return tokens


@torch.no_grad()
def enumerated(prior: Prior, label: int) -> np.ndarray:
    """Chance of every grid, from one reading of each: float64 [16]."""
    grids = torch.from_numpy(STATES)
    logits = prior(grids[:, :-1], torch.full((16,), label))
    chances = torch.log_softmax(logits.double(), -1).gather(2, grids[..., None]).sum((1, 2)).exp()
    assert chances.sum().item() == pytest.approx(1)
    return chances.numpy()


def chi_square(counts: np.ndarray, chances: np.ndarray) -> float:
    expected = chances * counts.sum()
    assert expected.min() >= 10
    return float(np.square((counts - expected) / np.sqrt(expected)).sum())


def test_samples_follow_the_joint_distribution_of_the_model(prior: Prior) -> None:
    counts = np.bincount(draw(prior, 20_000) @ [8, 4, 2, 1], minlength=16)
    assert chi_square(counts, enumerated(prior, 1)) < 44.3  # p = 1e-4 at 15 degrees of freedom
    assert chi_square(counts, enumerated(prior, 0)) > 55


def test_what_is_kept_from_call_to_call_changes_no_token(prior: Prior) -> None:
    generator = np.random.default_rng(2)
    start = np.where(generator.random((200, 4)) < 0.4, generator.integers(0, CODES, (200, 4)), MASK).astype(np.int32)
    labels = np.arange(200, dtype=np.int32) % 2

    @torch.no_grad()
    def afresh(tokens: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return prior.eval()(torch.from_numpy(tokens).long(), torch.from_numpy(labels).long())[:, -1].numpy()

    options = {"mask": MASK, "seeds": range(200), "labels": labels, "width": 2}
    *_, kept = run(next_logits(prior), start, **options)
    *_, again = run(afresh, start, **options)
    assert np.array_equal(kept, again)


def test_each_call_reads_what_is_new(prior: Prior) -> None:
    lengths: list[int] = []
    prior.blocks[0].register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[1]))
    predictor = next_logits(prior)
    tokens, labels = np.array([[0, 1, 1]], np.int32), np.zeros(1, np.int32)
    for n in (0, 2, 3):
        predictor(tokens[:, :n], labels)
    assert lengths == [1, 2, 1]


@pytest.mark.parametrize("changed", ["token", "label", "nothing, but fewer"])
def test_a_call_that_does_not_continue_the_one_before_starts_anew(prior: Prior, changed: str) -> None:
    tokens, labels = np.array([[0, 1, 1]], np.int32), np.zeros(1, np.int32)
    predictor = next_logits(prior)
    for n in range(3):
        predictor(tokens[:, :n], labels)
    if changed == "token":
        tokens = np.array([[0, 0, 1]], np.int32)
    elif changed == "label":
        labels = np.ones(1, np.int32)
    else:
        tokens = tokens[:, :1]
    np.testing.assert_allclose(predictor(tokens, labels), next_logits(prior)(tokens, labels), atol=1e-6)


def test_asking_twice_gives_the_same_answer(prior: Prior) -> None:
    predictor = next_logits(prior)
    tokens, labels = np.array([[0, 1]], np.int32), np.zeros(1, np.int32)
    first, second = predictor(tokens, labels), predictor(tokens, labels)
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_taming_may_be_conditioned_on_several_tokens() -> None:
    model = Net2NetTransformer(TAMING)
    labels = np.array([[0, 1, 1], [1, 0, 0]], np.int32)
    start = np.full((2, 4), MASK, np.int32)
    *_, tokens = run(next_logits(model), start, mask=MASK, seeds=[3, 4], labels=labels, width=2)
    assert tokens.max() < CODES


def test_a_call_after_one_that_failed_starts_anew(prior: Prior) -> None:
    predictor = next_logits(prior)
    tokens, labels = np.array([[0, 1, 1]], np.int32), np.zeros(1, np.int32)
    predictor(tokens[:, :1], labels)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    hook = prior.blocks[1].register_forward_pre_hook(stop)  # when the first layer has kept the new token already
    with pytest.raises(KeyboardInterrupt):
        predictor(tokens[:, :2], labels)
    hook.remove()
    np.testing.assert_allclose(predictor(tokens[:, :2], labels), next_logits(prior)(tokens[:, :2], labels), atol=1e-6)
