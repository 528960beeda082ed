from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from smalti.errors import UsageError
from smalti_train.importers.priors import import_unleashing_absorbing
from smalti_train.models.autoregressive_transformer import AutoregressiveTransformer, AutoregressiveTransformerConfig
from smalti_train.models.hourglass_prior import HourglassPrior
from smalti_train.objectives.absorbing import (
    absorb,
    absorb_exactly,
    absorbing_loss,
    autoregressive_loss,
    bits_per_dim,
    elbo,
    masked_rows,
    stratified_times,
)
from smalti_train.objectives.prior_batches import evaluate
from smalti_train.presets.catalogue import PRIORS
from smalti_train.runs.config import LoopConfig, Objective
from smalti_train.runs.folder import RunFolder
from smalti_train.trainers.loop import start

FIXTURES = Path(__file__).parent / "fixtures"
MASK = 7


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chi_square(counts: np.ndarray) -> float:
    expected = counts.sum() / len(counts)
    return float(np.square(counts - expected).sum() / expected)


def test_times_fall_one_into_each_stratum() -> None:
    generator, count, steps = seeded(), 8, 8000
    for _ in range(50):
        times = stratified_times(count, steps, generator)
        assert sorted(((times - 1) * count // steps).tolist()) == list(range(count))


@pytest.mark.parametrize("count", [1, 3, 12, 32])
def test_times_are_uniform_wherever_a_sample_stands_in_its_batch(count: int) -> None:
    generator, steps = seeded(1), 12
    drawn = torch.stack([stratified_times(count, steps, generator) for _ in range(6000)])
    assert drawn.min() == 1
    assert drawn.max() == steps
    for column in (0, count - 1):
        counts = np.bincount(drawn[:, column].numpy(), minlength=steps + 1)[1:]
        assert chi_square(counts) < 31.3  # the 0.1 % point of 11 degrees of freedom


@pytest.mark.parametrize("time", [1, 5, 12, 16])
def test_a_share_of_t_over_t_max_is_masked(time: int) -> None:
    tokens = torch.randint(MASK, (20000, 16), generator=seeded())
    noisy = absorb(tokens, torch.full((20000,), time), 16, MASK, seeded(1), at_least=0)
    masked = noisy == MASK
    assert torch.equal(noisy[~masked], tokens[~masked])
    deviation = math.sqrt(time / 16 * (1 - time / 16) / tokens.numel())
    assert masked.float().mean().item() == pytest.approx(time / 16, abs=max(4 * deviation, 1e-9))
    if time < 16:  # positions are masked on their own
        pairs = (masked[:, 0] & masked[:, 9]).float().mean().item()
        assert pairs == pytest.approx((time / 16) ** 2, abs=0.015)


def test_training_never_meets_a_sample_without_a_mask() -> None:
    tokens = torch.zeros(5000, 16, dtype=torch.int64)
    times = torch.ones(5000, dtype=torch.int64)
    unforced = (absorb(tokens, times, 16, MASK, seeded(), at_least=0) == MASK).sum(1)
    forced = (absorb(tokens, times, 16, MASK, seeded()) == MASK).sum(1)
    assert unforced.min() == 0
    assert torch.equal(forced, unforced.clamp(min=1))


@pytest.mark.parametrize("time", [1, 2, 5, 9, 10])
def test_exact_masking_hides_a_rounded_share_at_least_one(time: int) -> None:
    tokens = torch.randint(MASK, (4000, 6), generator=seeded())
    noisy = absorb_exactly(tokens, torch.full((4000,), time), 10, MASK, seeded(1))
    masked = noisy == MASK
    expected = max(1, round(time / 10 * 6))
    assert (masked.sum(1) == expected).all()
    assert torch.equal(noisy[~masked], tokens[~masked])
    assert expected == 6 or chi_square(masked.sum(0).numpy()) < 25.7  # p = 1e-4 at 5 degrees of freedom, and more even


def test_exact_masking_takes_a_time_per_sample() -> None:
    masked = absorb_exactly(torch.zeros(3, 8, dtype=torch.int64), torch.tensor([1, 50, 100]), 100, MASK, seeded())
    assert (masked == MASK).sum(1).tolist() == [1, 4, 8]


def numpy_loss(
    logits: np.ndarray, tokens: np.ndarray, masked: np.ndarray, times: np.ndarray, steps: int, kind: str
) -> list[float]:
    """The same three losses written out term by term."""
    found: list[float] = []
    for sample in range(len(tokens)):
        t, length = int(times[sample]), tokens.shape[1]
        surprise = []
        for position in range(length):
            if masked[sample, position]:
                row = logits[sample, position].astype(np.float64)
                surprise.append(math.log(np.exp(row).sum()) - row[tokens[sample, position]])
        if kind == "mlm":
            found.append(sum(surprise) / len(surprise))
        elif kind == "elbo":  # T times eq. 6's term for t, per token
            found.append(steps * (1 / t) * sum(surprise) / length)
        else:  # eq. 7
            found.append((1 - (t - 1) / steps) * sum(surprise) / length)
    return found


@pytest.mark.parametrize("kind", ["reweighted", "elbo", "mlm"])
def test_weights_are_those_of_the_paper(kind: Objective) -> None:
    logits = torch.randn(9, 6, 5, generator=seeded())
    tokens = torch.randint(5, (9, 6), generator=seeded(1))
    times = torch.tensor([1, 2, 3, 4, 5, 6, 1, 6, 3])
    masked = absorb(tokens, times, 6, 5, seeded(2)) == 5
    expected = numpy_loss(logits.numpy(), tokens.numpy(), masked.numpy(), times.numpy(), 6, kind)
    np.testing.assert_allclose(absorbing_loss(logits, tokens, masked, times, 6, kind), expected, rtol=1e-5)


def test_losses_are_those_of_the_published_code() -> None:
    arrays = {name: torch.from_numpy(array) for name, array in np.load(FIXTURES / "ut_absorbing_small.npz").items()}
    tokens, masked, times = arrays["x0"], arrays["mask"], arrays["t"]
    for kind, released, name in (
        ("elbo", False, "loss_elbo"),
        ("elbo", False, "vb_loss"),
        ("mlm", False, "loss_mlm"),
        ("reweighted", True, "loss_reweighted_elbo"),
    ):
        loss = absorbing_loss(arrays["logits"], tokens, masked, times, 64, kind, released).mean().item()
        bits = loss if kind == "mlm" else loss / math.log(2)
        assert bits == pytest.approx(arrays[name].item(), abs=1e-4), name


def test_the_full_bound_is_that_of_the_published_code() -> None:
    arrays = np.load(FIXTURES / "ut_absorbing_small.npz")
    state = torch.load(FIXTURES / "ut_absorbing_small.th", weights_only=True)
    model = import_unleashing_absorbing(state, {"heads": 4})
    bound = elbo(model.logits, torch.from_numpy(arrays["x0"]), 64, 64, seed=7)
    np.testing.assert_allclose(bound.numpy() * 64, arrays["elbo_seed7"], atol=1e-3)  # nats of 64 tokens
    assert bits_per_dim(bound) == pytest.approx(arrays["elbo_seed7"].mean() / 64 / math.log(2), abs=1e-4)


def test_a_sample_without_a_mask_has_no_loss() -> None:
    logits, tokens = torch.randn(1, 4, 5, generator=seeded()), torch.zeros(1, 4, dtype=torch.int64)
    for kind in ("reweighted", "elbo", "mlm"):
        loss = absorbing_loss(logits, tokens, torch.zeros(1, 4, dtype=torch.bool), torch.tensor([1]), 4, kind)
        assert loss.item() == 0


def test_the_released_weight_leaves_the_last_time_out() -> None:
    logits, tokens = torch.randn(4, 6, 5, generator=seeded()), torch.zeros(4, 6, dtype=torch.int64)
    masked, times = torch.ones(4, 6, dtype=torch.bool), torch.tensor([1, 2, 3, 4])
    plain = absorbing_loss(logits, tokens, masked, times, 4, "reweighted")
    released = absorbing_loss(logits, tokens, masked, times, 4, "reweighted", released=True)
    torch.testing.assert_close(released / plain, torch.tensor([3 / 4, 2 / 3, 1 / 2, 0]))


@torch.no_grad()
def test_the_autoregressive_likelihood_is_exact() -> None:
    config = AutoregressiveTransformerConfig(codes=3, grid=(2, 2), width=8, layers=1, heads=2)
    model = AutoregressiveTransformer(config).eval()
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=seeded(len(parameter))))
    grids = torch.tensor(list(itertools.product(range(3), repeat=4)))
    nats = autoregressive_loss(model(grids[:, :-1]), grids).double() * 4
    assert nats.min() > 0
    assert torch.exp(-nats).sum().item() == pytest.approx(1, abs=1e-5)  # chances of all grids
    assert bits_per_dim(autoregressive_loss(torch.zeros(2, 4, 8), grids[:2])) == pytest.approx(3)


def every_mask(length: int) -> Tensor:
    return torch.tensor(list(itertools.product([False, True], repeat=length)))


def expected_bound(joint: np.ndarray, steps: int) -> float:
    """The elbo in nats per grid of the exact model of ``joint`` ([K] * L), over all grids, masks and times."""
    codes, length = joint.shape[0], joint.ndim
    grids = torch.tensor(list(itertools.product(range(codes), repeat=length)))
    masks = every_mask(length)
    logits = torch.zeros(len(masks), len(grids), length, codes)
    for (m, mask), (g, grid) in itertools.product(enumerate(masks), enumerate(grids)):
        seen = tuple(slice(None) if hidden else int(token) for hidden, token in zip(mask, grid))
        conditional = joint[seen]  # over the masked positions, in order
        for axis, position in enumerate(np.flatnonzero(mask)):
            others = tuple(other for other in range(conditional.ndim) if other != axis)
            marginal = conditional.sum(others) / conditional.sum()
            logits[m, g, position] = torch.from_numpy(np.log(marginal))
    total = 0.0
    count, hidden = len(masks) * len(grids), masks.sum(1)
    flat = (logits.reshape(count, length, codes), grids.repeat(len(masks), 1), masks.repeat_interleave(len(grids), 0))
    grid_weights = torch.from_numpy(joint.reshape(-1)).repeat(len(masks))
    for time in range(1, steps + 1):
        mask_weights = (time / steps) ** hidden * (1 - time / steps) ** (length - hidden)
        losses = absorbing_loss(*flat, torch.full((count,), time), steps, "elbo").double()
        total += float((losses * grid_weights * mask_weights.repeat_interleave(len(grids))).sum()) / steps
    return total * length


def entropy(joint: np.ndarray) -> float:
    return float(-(joint * np.log(joint)).sum())


@pytest.mark.parametrize("steps", [1, 4, 9])
def test_the_bound_is_the_likelihood_when_tokens_are_independent(steps: int) -> None:
    first, second, third = np.array([0.7, 0.2, 0.1]), np.array([0.5, 0.25, 0.25]), np.array([0.05, 0.9, 0.05])
    joint = np.einsum("a,b,c->abc", first, second, third)
    assert expected_bound(joint, steps) == pytest.approx(entropy(joint), rel=1e-5)


def test_the_bound_lies_above_the_likelihood_and_meets_it_in_the_limit_of_many_steps() -> None:
    joint = np.random.default_rng(0).dirichlet(np.full(8, 0.3)).reshape(2, 2, 2) + 1e-4
    joint /= joint.sum()
    gaps = [expected_bound(joint, steps) - entropy(joint) for steps in (1, 3, 20, 120)]
    assert gaps[0] > gaps[1] > gaps[2] > gaps[3] > 0
    assert gaps[0] > 0.1
    assert gaps[3] < 0.005


def test_the_evaluation_gives_the_exact_likelihood_of_an_exact_model(tmp_path: Path) -> None:
    config = PRIORS["tiny"]
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, codes=4, grid=(2, 2)))
    model = HourglassPrior(config.model)
    chances = torch.tensor([0.6, 0.25, 0.1, 0.05])
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(chances.log())  # every token is drawn alike, whatever the others are
    tokens = torch.multinomial(chances, 4096 * 4, replacement=True, generator=seeded(5)).reshape(4096, 2, 2)
    accelerator = start(LoopConfig(precision="fp32"), RunFolder(tmp_path / "run"))
    bits = evaluate(model, tokens.numpy().astype(np.int16), np.zeros(4096, np.int32), accelerator, batch=512)
    exact = -chances.log2()[tokens].mean().item()
    assert bits == pytest.approx(exact, rel=0.03)  # three standard errors


def test_bits_per_dim_of_equal_chances() -> None:
    tokens = torch.randint(8, (3, 4), generator=seeded())
    masked = torch.ones(3, 4, dtype=torch.bool)
    losses = absorbing_loss(torch.zeros(3, 4, 8), tokens, masked, torch.full((3,), 4), 4, "elbo")
    assert bits_per_dim(losses) == pytest.approx(3)


@pytest.mark.parametrize("kind", ["reweighted", "elbo", "mlm"])
def test_the_loss_of_some_rows_is_that_of_all_on_average(kind: Objective) -> None:
    generator = seeded(3)
    tokens = torch.randint(MASK, (4, 16), generator=generator)
    logits = torch.randn(4, 16, MASK, generator=generator)
    times = torch.tensor([1, 3, 9, 16])
    masked = absorb_exactly(tokens, times, 16, MASK, generator) == MASK
    whole = absorbing_loss(logits, tokens, masked, times, 16, kind)

    def of_rows() -> Tensor:
        rows = masked_rows(masked, 4, generator)
        assert all(len(set(row.tolist())) == 4 for row in rows)
        assert masked.gather(1, rows).sum(1).tolist() == [1, 3, 4, 4]
        chosen = logits.gather(1, rows[..., None].expand(-1, -1, MASK))
        return absorbing_loss(chosen, tokens, masked, times, 16, kind, rows=rows)

    found = torch.stack([of_rows() for _ in range(4000)])
    torch.testing.assert_close(found[:, :2], whole[:2].expand(4000, 2))  # few masks: all of them, every time
    errors = found.std(0) / math.sqrt(4000)
    assert ((found.mean(0) - whole).abs() <= 4 * errors + 1e-5).all()
    assert found[:, 2:].std(0).min() > 0.01


def test_the_autoregressive_objective_is_no_absorbing_loss() -> None:
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    with pytest.raises(UsageError, match="autoregressive_loss"):
        absorbing_loss(torch.zeros(1, 4, 3), tokens, tokens == 0, torch.ones(1), 4, "autoregressive")
