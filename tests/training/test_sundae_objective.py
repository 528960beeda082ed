from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smalti.errors import UsageError
from smalti_train.importers import import_checkpoint
from smalti_train.models.sundae_transformer import SundaeTransformer
from smalti_train.objectives.absorbing import absorbing_loss, stratified
from smalti_train.objectives.prior_batches import PriorBatch, evaluate, figure, loss_parts, prior_batch
from smalti_train.objectives.sundae import corrupt, drawn, unrolled_losses
from smalti_train.presets.catalogue import PRIORS
from smalti_train.runs.config import LoopConfig, PriorRun
from smalti_train.runs.folder import RunFolder
from smalti_train.runs.loading import build_prior
from smalti_train.trainers.loop import start

FIXTURES = Path(__file__).parent / "fixtures"
TINY = PRIORS["tiny-sundae"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def at_rate(rate: float, count: int, length: int, codes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Grids and what corrupting them at one rate makes of them."""
    generator = seeded(seed)
    tokens = torch.randint(codes, (count, length), generator=generator)
    return tokens, corrupt(tokens, torch.full((count,), rate), codes, generator)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 20), st.integers(2, 9), st.integers(0, 2**31))
def test_nothing_is_corrupted_at_rate_zero_and_codes_stay_codes(count: int, length: int, codes: int, seed: int) -> None:
    tokens, clean = at_rate(0.0, count, length, codes, seed)
    assert torch.equal(clean, tokens)
    for rate in (0.5, 1.0):
        found = at_rate(rate, count, length, codes, seed)[1]
        assert found.dtype == torch.int64
        assert found.shape == tokens.shape
        assert 0 <= int(found.min()) <= int(found.max()) < codes


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
def test_a_share_of_tokens_is_corrupted_by_codes_that_are_all_alike(rate: float) -> None:
    tokens, found = at_rate(rate, 200, 500, 5)
    changed = (found != tokens).float()
    # A random token is the right one by chance.
    assert changed.mean().item() == pytest.approx(rate * (1 - 1 / 5), abs=0.01)
    counts = np.bincount(found[tokens == 2].numpy(), minlength=5) / int((tokens == 2).sum())
    expected = rate / 5 + (1 - rate) * (np.arange(5) == 2)
    np.testing.assert_allclose(counts, expected, atol=0.015)
    if rate == 0.5:  # each token by itself: neighbours and samples say nothing of each other
        assert abs(np.corrcoef(changed[:, :-1].flatten(), changed[:, 1:].flatten())[0, 1]) < 0.02
        assert changed.mean(1).std().item() == pytest.approx(math.sqrt(0.4 * 0.6 / 500), rel=0.2)


def test_every_sample_has_its_own_rate() -> None:
    tokens = torch.zeros(4, 20_000).long()
    found = corrupt(tokens, torch.tensor([0.0, 0.25, 0.75, 1.0]), 100, seeded())
    shares = (found != 0).float().mean(1) / 0.99
    torch.testing.assert_close(shares, torch.tensor([0.0, 0.25, 0.75, 1.0]), atol=0.02, rtol=0)


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([0.3, -1.0, 2.0, -math.inf, 0.0]).expand(1, 40_000, 5)
    found = drawn(logits, torch.rand(1, 40_000, generator=seeded()))
    shares = torch.bincount(found[0], minlength=5) / 40_000
    torch.testing.assert_close(shares, logits[0, 0].softmax(0), atol=0.01, rtol=0)
    assert shares[3] == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(0, 5), st.floats(0, 1, exclude_max=True, width=32), st.integers(0, 2**31))
def test_only_what_has_a_probability_is_drawn(codes: int, only: int, place: float, seed: int) -> None:
    logits = torch.full((1, 1, codes), -math.inf)
    logits[..., only % codes] = torch.randn(1, generator=seeded(seed)).item() * 20
    assert drawn(logits, torch.full((1, 1), place)).item() == only % codes


def test_the_losses_are_the_published_ones() -> None:
    arrays = {
        name: torch.from_numpy(np.array(v)) for name, v in np.load(FIXTURES / "sundae_hourglass_small.npz").items()
    }
    prior = import_checkpoint(FIXTURES / "sundae_hourglass_small.pt", "sundae-hourglass", {"grid": [8, 8]})
    assert isinstance(prior, SundaeTransformer)
    # Numbers in the middle of the shares that the published draw took, so that the same tokens are drawn.
    shares = arrays["logits1"].double().softmax(-1)
    taken = arrays["z1_seed77"][..., None]
    middles = (shares.cumsum(-1) - shares / 2).gather(2, taken)[..., 0].float()
    shown: list[Tensor] = []

    def predict(tokens: Tensor) -> Tensor:
        shown.append(tokens)
        return prior(tokens)

    parts = list(unrolled_losses(predict, arrays["x"], arrays["z0"], middles[:, None]))
    assert torch.equal(shown[0], arrays["z0"])
    assert torch.equal(shown[1], arrays["z1_seed77"])
    assert abs(sum(parts).mean() - arrays["loss_T2"]) < 1e-5
    kept = ~arrays["corrupt_mask"]
    assert torch.equal(arrays["z0"][kept], arrays["x"][kept])


def toy() -> tuple[Callable[[Tensor], Tensor], Tensor, list[Tensor]]:
    """A prior of one table of logits by the token shown; the table; and the logits it gave, in order."""
    table = torch.randn(5, 5, generator=seeded(3)).requires_grad_()
    given: list[Tensor] = []

    def predict(tokens: Tensor) -> Tensor:
        given.append(F.embedding(tokens, table))
        return given[-1]

    return predict, table, given


@pytest.mark.parametrize("unrolls", [1, 2, 3])
def test_the_parts_add_up_to_the_mean_over_unrolls_of_what_was_drawn(unrolls: int) -> None:
    predict, _, given_logits = toy()
    tokens, noisy = at_rate(0.7, 4, 9, 5)
    uniforms = torch.rand(4, unrolls - 1, 9, generator=seeded(1))
    total = sum(unrolled_losses(predict, tokens, noisy, uniforms))
    assert len(given_logits) == unrolls
    shown, expected = noisy, torch.zeros(4)
    for step in range(unrolls):
        logits = predict(shown)
        expected = expected + F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none").mean(1) / unrolls
        if step < unrolls - 1:
            shown = drawn(logits, uniforms[:, step])
            assert not shown.requires_grad
    torch.testing.assert_close(total, expected)


def test_no_gradient_passes_through_what_was_drawn_and_parts_may_go_backward_alone() -> None:
    predict, table, given_logits = toy()
    tokens, noisy = at_rate(0.7, 4, 9, 5)
    uniforms = torch.rand(4, 2, 9, generator=seeded(1))
    (whole,) = torch.autograd.grad(sum(unrolled_losses(predict, tokens, noisy, uniforms)).mean(), table)
    given_logits.clear()
    alone = torch.zeros_like(whole)
    for step, part in enumerate(unrolled_losses(predict, tokens, noisy, uniforms)):
        inputs = [table, *given_logits]
        gradients = torch.autograd.grad(part.mean(), inputs, allow_unused=True)
        assert [gradient is None for gradient in gradients[1:]] == [True] * step + [False]
        alone += gradients[0]
    torch.testing.assert_close(alone, whole)


def batch(count: int) -> tuple[Tensor, Tensor]:
    return torch.randint(64, (count, 16), generator=seeded(5)), torch.arange(count) % 8


def test_a_batch_corrupts_at_all_rates_and_leaves_labels_out() -> None:
    config = dataclasses.replace(TINY, label_dropout=0.25, unrolls=3)
    tokens, labels = batch(4000)
    found = prior_batch(config, tokens, labels, seeded())
    assert torch.equal(found.tokens, tokens)
    assert (found.shown != tokens).float().mean().item() == pytest.approx(63 / 64 / 2, abs=0.01)
    per_sample = (found.shown != tokens).float().mean(1)
    assert per_sample.min() == 0
    assert per_sample.max() == 1
    assert (found.labels == 8).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(found.labels[found.labels < 8], labels[found.labels < 8])
    assert found.uniforms.shape == (4000, 2, 16)
    assert 0 <= found.uniforms.min() < found.uniforms.max() < 1
    again = prior_batch(config, tokens, labels, seeded())
    assert torch.equal(again.shown, found.shown)
    assert torch.equal(again.uniforms, found.uniforms)


def test_halves_of_a_batch_cost_what_the_whole_does() -> None:
    """As two processes see it: what is drawn between unrolls belongs to the sample, not to the process."""
    torch.manual_seed(0)
    model = build_prior(TINY.model).eval()
    whole = prior_batch(TINY, *batch(8), seeded())
    fields = [getattr(whole, field.name) for field in dataclasses.fields(PriorBatch)]
    halves = [PriorBatch(*(value[part] for value in fields)) for part in (slice(4), slice(4, 8))]

    def cost(shown: PriorBatch) -> Tensor:
        with torch.no_grad():
            return torch.stack(list(loss_parts(TINY, model, shown))).sum(0)

    torch.testing.assert_close(cost(whole), torch.cat([cost(half) for half in halves]))
    assert cost(whole).shape == (8,)


def test_the_validation_figure_is_what_it_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_prior(TINY.model)
    tokens = torch.randint(64, (70, 4, 4), generator=seeded(5)).numpy().astype(np.int16)
    labels = np.arange(70, dtype=np.int32) % 8
    accelerator = start(LoopConfig(precision="fp32"), RunFolder(tmp_path))
    assert figure(TINY.model) == "unrolled_bits_per_token"
    assert figure(PRIORS["tiny"].model) == "bits_per_dim"
    first = evaluate(model, tokens, labels, accelerator)
    assert first == evaluate(model, tokens, labels, accelerator)
    assert first == pytest.approx(6, abs=0.05)  # of 64 codes, by a prior that knows nothing yet
    with torch.no_grad():
        model.to_logits.weight.zero_()
    assert evaluate(model, tokens, labels, accelerator) == pytest.approx(6, abs=1e-4)


def test_strata_are_those_of_the_times() -> None:
    found = stratified(8, seeded())
    assert sorted((found * 8).long().tolist()) == list(range(8))
    assert (found >= 0).all()
    assert (found < 1).all()


@pytest.mark.parametrize("objective", ["reweighted", "elbo", "mlm", "autoregressive"])
def test_a_sundae_prior_has_its_own_objective(objective: str) -> None:
    with pytest.raises(
        UsageError, match=rf"'{objective}' is not for a prior of kind 'sundae': allowed is sundae alone"
    ):
        dataclasses.replace(TINY, objective=objective)


@pytest.mark.parametrize(
    ("config", "changes", "words"),
    [
        (PRIORS["tiny"], {"objective": "sundae"}, "not for a prior of kind 'hourglass': allowed are reweighted"),
        (PRIORS["tiny-autoregressive"], {"objective": "sundae"}, "allowed is autoregressive alone"),
        (PRIORS["tiny"], {"unrolls": 3}, "unrolls 3: only objective sundae unrolls; leave --unrolls out"),
        (TINY, {"unrolls": 0}, "unrolls 0: at least 1"),
        (TINY, {"masking": "fixed"}, "leave --masking and --times out"),
        (TINY, {"times": "importance"}, "kind 'sundae' masks nothing"),
    ],
)
def test_what_does_not_go_together_is_refused(config: PriorRun, changes: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        dataclasses.replace(config, **changes)


def test_it_is_no_masked_loss() -> None:
    tokens = torch.zeros(1, 2).long()
    with pytest.raises(UsageError, match="the sundae objective masks nothing"):
        absorbing_loss(torch.zeros(1, 2, 3), tokens, tokens == 0, torch.ones(1), 2, "sundae")
