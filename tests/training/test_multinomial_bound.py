from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.multinomial_chain import CODES, SHORT, bayes, product, transitions
from helpers.statistics import chi_square_z
from smalti_train.objectives.multinomial import (
    diffuse,
    draw_times,
    log_one_hot,
    p_pred,
    prior_kl,
    q_pred,
    step_loss,
    vlb,
)
from smalti_train.objectives.time_sampling import ImportanceTimes

LENGTH = 2
GRIDS = torch.tensor(list(itertools.product(range(CODES), repeat=LENGTH)))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def table(seed: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A network of random logits for every grid and time, float64."""
    logits = 2 * torch.randn(SHORT.steps, len(GRIDS), LENGTH, CODES, generator=seeded(seed), dtype=torch.float64)
    return lambda tokens, t: logits[t, tokens @ torch.tensor([CODES, 1])]


def exact_bound(denoise: Callable[[Tensor, Tensor], Tensor]) -> np.ndarray:
    """The bound (float64 [grids], nats per grid) with its expectations summed out."""
    found = np.full(len(GRIDS), prior_kl(SHORT, CODES) * LENGTH)
    clean, noisy = GRIDS.repeat_interleave(len(GRIDS), 0), GRIDS.repeat(len(GRIDS), 1)
    for time in range(SHORT.steps):
        t = torch.full((len(clean),), time)
        losses = step_loss(denoise(noisy, t), clean, noisy, t, SHORT) * LENGTH
        chances = q_pred(log_one_hot(clean, CODES, torch.float64), t, SHORT)
        chances = chances.gather(2, noisy[..., None])[..., 0].sum(1).exp()
        found += (losses * chances).reshape(len(GRIDS), -1).sum(1).numpy()
    return found


def exact_likelihood(denoise: Callable[[Tensor, Tensor], Tensor]) -> np.ndarray:
    """Negative log-likelihood (float64 [grids], nats per grid) by all chains from uniform noise."""
    state = np.full(len(GRIDS), 1 / len(GRIDS))
    for time in reversed(range(SHORT.steps)):
        t = torch.full((len(GRIDS),), time)
        chances = p_pred(denoise(GRIDS, t), GRIDS, t, SHORT)  # [from, L, K]
        to = chances.exp()[:, torch.arange(LENGTH), GRIDS].prod(2).numpy()  # [from, to]
        np.testing.assert_allclose(to.sum(1), 1, atol=1e-12)
        state = state @ to
    return -np.log(state)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_bound_lies_above_the_likelihood(seed: int) -> None:
    gap = exact_bound(table(seed)) - exact_likelihood(table(seed))
    assert (gap > 0).all()
    assert gap.max() > 0.01


def test_the_bound_of_an_exact_network_is_the_likelihood_but_for_the_start() -> None:
    """Independent tokens: x0_hat is their distribution. Only uniform noise at the start is not quite the truth."""
    data = np.array([[0.6, 0.3, 0.1], [0.2, 0.1, 0.7]])
    logits = torch.from_numpy(np.log(data))
    bound = exact_bound(lambda tokens, t: logits.expand(len(tokens), -1, -1))
    weights = np.array([data[0, a] * data[1, b] for a, b in GRIDS.tolist()])
    entropy = -(weights * np.log(weights)).sum()
    start = -LENGTH * math.log(1 / CODES) - sum(
        -(last * np.log(last)).sum() for last in data @ product(transitions())
    )  # KL(q(z_{T-1}) || uniform)
    assert (weights * bound).sum() - entropy == pytest.approx(start, abs=1e-10)


def test_vlb_estimates_the_bound() -> None:
    denoise, repeats = table(3), 4000
    tokens = GRIDS[4:6].repeat(repeats, 1)
    found = vlb(denoise, tokens, SHORT, CODES, seed=1).reshape(repeats, 2).double().numpy() * LENGTH
    errors = found.std(0) / math.sqrt(repeats)
    assert (np.abs(found.mean(0) - exact_bound(denoise)[4:6]) < 4 * errors).all()
    assert errors.max() < 0.05
    assert torch.equal(vlb(denoise, GRIDS, SHORT, CODES, seed=2), vlb(denoise, GRIDS, SHORT, CODES, seed=2))


def test_the_last_step_is_a_likelihood_and_the_others_divergences() -> None:
    logits = torch.randn(1, LENGTH, CODES, generator=seeded(), dtype=torch.float64).expand(2, -1, -1)
    clean, noisy, t = torch.tensor([[0, 2]] * 2), torch.tensor([[1, 2]] * 2), torch.tensor([0, 3])
    guess = p_pred(logits, noisy, t, SHORT)
    loss = step_loss(logits, clean, noisy, t, SHORT)
    assert loss[0].item() == pytest.approx(-(guess[0, 0, 0] + guess[0, 1, 2]).item() / 2)
    truth = torch.from_numpy(bayes(2, 3)[[0, 2], [1, 2]])
    assert loss[1].item() == pytest.approx((truth * (truth.log() - guess[1])).sum().item() / 2)


def test_prior_kl_is_the_closed_form() -> None:
    last = product(transitions())[0]
    assert prior_kl(SHORT, CODES) == pytest.approx((last * np.log(last * CODES)).sum(), rel=1e-9)


def test_importance_sampled_times_estimate_the_same_bound() -> None:
    steps, losses = 5, torch.tensor([9.0, 0.1, 0.5, 3.0, 1.0])
    history = ImportanceTimes(steps)
    assert draw_times(8, steps, seeded(), history)[1].tolist() == [1] * 8  # too little is known: uniform
    for _ in range(11):
        history.update(torch.arange(steps) + 1, losses)
    t, weights = draw_times(20_000, steps, seeded(1), history)
    assert (t.min().item(), t.max().item(), t.dtype) == (0, steps - 1, torch.int64)
    chances = (losses / losses.sum()).double().numpy()
    assert chi_square_z(np.bincount(t.numpy(), minlength=steps), chances / chances.sum()) < 3.7
    assert (weights * losses[t]).mean().item() == pytest.approx(losses.mean().item(), rel=1e-3)
    uniform, ones = draw_times(steps, steps, seeded())
    assert sorted(uniform.tolist()) == list(range(steps))
    assert ones.tolist() == [1] * steps


def test_training_finds_the_data() -> None:
    """Logits for every time and noisy token, free to learn: x0_hat becomes the data's distribution."""
    data = torch.tensor([0.6, 0.3, 0.1])
    logits = torch.zeros(SHORT.steps, CODES, CODES, requires_grad=True)
    optimizer, generator = torch.optim.Adam([logits], lr=0.08), seeded()
    for _ in range(250):
        tokens = torch.multinomial(data, 256, replacement=True, generator=generator)[:, None]
        t, weights = draw_times(256, SHORT.steps, generator)
        noisy = diffuse(tokens, t, SHORT, CODES, generator)
        loss = (weights * step_loss(logits[t[:, None], noisy], tokens, noisy, t, SHORT)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    learned = logits.detach().softmax(-1)
    assert (learned[1:4] - data).abs().max() < 0.12  # t = 0 and 4 say little about what the data are
