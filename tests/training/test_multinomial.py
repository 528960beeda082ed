from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.multinomial_chain import CODES, SHORT, bayes, certain, product, strides, transitions
from helpers.statistics import chi_square_z
from smalti.errors import UsageError
from smalti_train.models.multinomial_unet import MultinomialUNet, MultinomialUNetConfig
from smalti_train.objectives.multinomial import (
    CLEAN,
    cosine_schedule,
    diffuse,
    log_one_hot,
    noised,
    p_pred,
    prior_kl,
    q_posterior,
    q_pred,
    q_step,
    schedule_of,
    step_loss,
)

FIXTURES = Path(__file__).parent / "fixtures"
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def arrays() -> dict[str, Tensor]:
    """Of the published code; distributions as [B, L, K], grids as [B, L]."""
    found = {name: torch.from_numpy(array) for name, array in np.load(FIXTURES / "vqddm_small.npz").items()}
    for name in ("unet_logits_x0", "q_pred", "q_posterior", "p_pred"):
        found[name] = found[name].flatten(2).transpose(1, 2)
    return found | {name: found[name].flatten(1) for name in ("x0", "x_t")}


@pytest.fixture(scope="module")
def published() -> MultinomialUNet:
    state = torch.load(FIXTURES / "vqddm_small.ckpt", weights_only=True)["state_dict"]
    model = MultinomialUNet(MultinomialUNetConfig(codes=32, width=8))
    model.load_state_dict({name[4:]: value for name, value in state.items() if name.startswith("_nn.")})
    return model.eval()


def distance(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_schedule_is_the_published_one(arrays: dict[str, Tensor]) -> None:
    schedule = cosine_schedule(4000, "released")
    for name in ("log_alpha", "log_cumprod_alpha", "log_1_min_cumprod_alpha"):
        assert distance(getattr(schedule, name)[arrays["t_sub"]], arrays[name].double()) <= 1e-6, name
    buffers = torch.load(FIXTURES / "vqddm_small.ckpt", weights_only=True)["state_dict"]
    for name in ("log_alpha", "log_1_min_alpha", "log_cumprod_alpha", "log_1_min_cumprod_alpha"):
        assert distance(getattr(schedule, name), buffers[f"_denoising.{name}"].double()) <= 1e-6, name


def test_distributions_are_those_of_the_published_code(arrays: dict[str, Tensor], published: MultinomialUNet) -> None:
    schedule, t = cosine_schedule(4000, "released"), arrays["t"]
    log_x0, log_z = log_one_hot(arrays["x0"], 32), log_one_hot(arrays["x_t"], 32)
    assert distance(q_pred(log_x0, t, schedule), arrays["q_pred"]) <= TOLERANCE
    assert distance(q_posterior(log_x0, log_z, t, schedule), arrays["q_posterior"]) <= TOLERANCE
    logits = published.logits(arrays["x_t"], t=t)
    assert distance(p_pred(logits, arrays["x_t"], t, schedule), arrays["p_pred"]) <= TOLERANCE


def test_losses_are_those_of_the_published_code(arrays: dict[str, Tensor], published: MultinomialUNet) -> None:
    schedule, t = cosine_schedule(4000, "released"), arrays["t"]
    loss = step_loss(published.logits(arrays["x_t"], t=t), arrays["x0"], arrays["x_t"], t, schedule)
    assert distance(loss, arrays["Lt"] / 256) <= TOLERANCE / 256 * 10  # theirs is a float32 sum of 256 tokens
    assert abs(prior_kl(schedule, 32) * 256 - arrays["kl_prior"].mean().item()) <= TOLERANCE


@pytest.mark.parametrize(("kind", "half"), [("printed", 0.4938), ("released", 0.7027)])
def test_the_cosine_schedule_is_eq_19_or_its_root(kind: str, half: float) -> None:
    schedule = cosine_schedule(4000, kind)  # pyright: ignore[reportArgumentType]
    kept = schedule.log_cumprod_alpha.exp().numpy()
    assert kept[1999] == pytest.approx(half, abs=1e-4)
    assert (np.diff(kept) < 0).all()
    shape = (
        np.cos((np.arange(1, 4001) / 4000 + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    )
    eq_19 = shape if kind == "printed" else np.sqrt(shape)
    np.testing.assert_allclose(kept[:3990], eq_19[:3990], rtol=1e-9)  # after that alphas are clipped
    assert float(schedule.log_alpha.exp().min()) == pytest.approx(0.001 if kind == "printed" else 0.001**0.5)
    np.testing.assert_allclose(schedule.log_1_min_cumprod_alpha.exp().numpy(), 1 - kept, atol=1e-12)
    np.testing.assert_allclose(schedule.log_1_min_alpha.exp(), 1 - schedule.log_alpha.exp(), atol=1e-12)


def test_steps_are_eq_16_and_their_products_eq_17_and_18() -> None:
    matrices = transitions()
    for t in range(SHORT.steps):
        times = torch.full((CODES,), t)
        found = q_step(certain([0, 1, 2]), times, SHORT).exp()[:, 0]
        np.testing.assert_allclose(found, matrices[t], atol=1e-14)
        found = q_pred(certain([0, 1, 2]), times, SHORT).exp()[:, 0]
        np.testing.assert_allclose(found, product(matrices[: t + 1]), atol=1e-14)
    clean = q_pred(certain([0, 1, 2]), torch.full((CODES,), CLEAN), SHORT).exp()[:, 0]
    np.testing.assert_allclose(clean, np.eye(CODES), atol=1e-14)


def test_strides_are_products_of_steps() -> None:
    matrices = transitions()
    for before, t in strides():
        found = noised(certain([0, 1, 2]), torch.full((CODES,), before), torch.full((CODES,), t), SHORT)
        np.testing.assert_allclose(found.exp()[:, 0], product(matrices[before + 1 : t + 1]), atol=1e-14)


@pytest.mark.parametrize(("before", "t"), strides())
def test_posteriors_are_bayes_rule_at_every_stride(before: int, t: int) -> None:
    pairs = list(itertools.product(range(CODES), repeat=2))
    clean, noisy = (certain(list(tokens)) for tokens in zip(*pairs))
    times = torch.full((len(pairs),), t)
    found = q_posterior(clean, noisy, times, SHORT, torch.full_like(times, before))
    np.testing.assert_allclose(found.exp().reshape(CODES, CODES, CODES), bayes(before, t), atol=1e-14)
    if before == t - 1:
        assert torch.equal(q_posterior(clean, noisy, times, SHORT), found)


def test_every_sample_has_its_own_time_and_stride() -> None:
    t, before = torch.tensor([4, 2, 0]), torch.tensor([1, CLEAN, CLEAN])
    whole = q_posterior(certain([0, 1, 2]), certain([1, 1, 0]), t, SHORT, before)
    for i in range(3):
        part = slice(i, i + 1)
        alone = q_posterior(certain([0, 1, 2])[part], certain([1, 1, 0])[part], t[part], SHORT, before[part])
        assert torch.equal(whole[part], alone)


@pytest.mark.parametrize(
    "times",
    [(4, 3, 2, 1, 0, CLEAN), (4, 2, 0, CLEAN), (4, 1, CLEAN), (4, CLEAN)],
    ids=lambda times: f"{len(times) - 1} calls",
)
def test_the_chain_of_an_exact_network_ends_in_the_data(times: tuple[int, ...]) -> None:
    """With the best x0_hat, which for a lone token is the data's distribution whatever z_t is, at every stride."""
    data = np.array([0.6, 0.3, 0.1])
    state = data @ product(transitions())
    logits = torch.from_numpy(np.log(data)).expand(CODES, 1, -1)
    for t, before in itertools.pairwise(times):
        at, to = torch.full((CODES,), t), torch.full((CODES,), before)
        state = state @ p_pred(logits, torch.arange(CODES)[:, None], at, SHORT, to).exp()[:, 0].numpy()
        np.testing.assert_allclose(state, data @ product(transitions()[: before + 1]), atol=1e-14)
    np.testing.assert_allclose(state, data, atol=1e-14)


@pytest.mark.parametrize("times", [(4, 3, 2, 1, 0, CLEAN), (4, 1, CLEAN)], ids=lambda times: f"{len(times) - 1} calls")
def test_the_chain_of_true_posteriors_ends_in_the_data(times: tuple[int, ...]) -> None:
    """x0 drawn from its true posterior given z_t, then z_before given both."""
    data = np.array([0.6, 0.3, 0.1])
    state = data @ product(transitions())
    for t, before in itertools.pairwise(times):
        joint = data[:, None] * product(transitions()[: t + 1])  # [x0, z_t]
        given = joint / joint.sum(0)
        clean, noisy = (certain(list(tokens)) for tokens in zip(*itertools.product(range(CODES), repeat=2)))
        at, to = torch.full((len(clean),), t), torch.full((len(clean),), before)
        posterior = q_posterior(clean, noisy, at, SHORT, to).exp().reshape(CODES, CODES, CODES).numpy()
        state = state @ np.einsum("xz,xzb->zb", given, posterior)
    np.testing.assert_allclose(state, data, atol=1e-14)


def test_eq_23_is_the_same_step_from_logits_with_one_more_for_the_seen_token() -> None:
    outputs, tokens = torch.randn(4, 2, CODES, generator=seeded(), dtype=torch.float64), torch.tensor([[0, 1]] * 4)
    t = torch.tensor([0, 1, 3, 4])
    found = p_pred(outputs + torch.eye(CODES, dtype=torch.float64)[tokens], tokens, t, SHORT).exp().numpy()
    for sample, position in itertools.product(range(4), range(2)):
        weights = np.exp(outputs[sample, position].numpy() + (np.arange(CODES) == position))
        earlier = weights / weights.sum() @ product(transitions()[: int(t[sample])])
        theta = transitions()[int(t[sample])][position] * earlier
        np.testing.assert_allclose(found[sample, position], theta / theta.sum(), atol=1e-14)


@pytest.mark.parametrize("time", range(SHORT.steps))
def test_noise_is_drawn_from_q_pred(time: int) -> None:
    tokens, count = torch.tensor([[0, 2]]), 20_000
    drawn = diffuse(tokens.expand(count, -1), torch.full((count,), time), SHORT, CODES, seeded(time))
    joint = np.outer(*product(transitions()[: time + 1])[[0, 2]]).flatten()
    assert chi_square_z(np.bincount((drawn @ torch.tensor([CODES, 1])).numpy(), minlength=9), joint) < 3.7


chances = st.one_of(st.floats(1e-300, 1), st.floats(0.999999, 1), st.just(1.0), st.floats(1e-12, 1e-6))


@settings(max_examples=60, deadline=None)
@given(
    alphas=st.lists(chances, min_size=1, max_size=6),
    codes=st.integers(2, 40),
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([0.1, 3.0, 300.0]),
)
def test_probabilities_sum_to_one_at_every_extreme(alphas: list[float], codes: int, seed: int, scale: float) -> None:
    schedule = schedule_of(torch.tensor(alphas, dtype=torch.float64))
    generator = seeded(seed)
    t = torch.arange(len(alphas))
    clean, noisy = (torch.randint(codes, (len(t), 3), generator=generator) for _ in range(2))
    logits = (torch.randn(len(t), 3, codes, generator=generator) * scale).requires_grad_()
    before = torch.randint(2**31, (len(t),), generator=generator) % (t + 1) - 1
    found = (
        q_step(log_one_hot(clean, codes), t, schedule),
        q_pred(log_one_hot(clean, codes), t, schedule),
        q_posterior(log_one_hot(clean, codes), log_one_hot(noisy, codes), t, schedule),
        q_posterior(log_one_hot(clean, codes), log_one_hot(noisy, codes), t, schedule, before),
        p_pred(logits, noisy, t, schedule),
        p_pred(logits, noisy, t, schedule, before),
        p_pred(logits.half(), noisy, t, schedule),
    )
    for log_chances in found:
        assert log_chances.dtype == torch.float32
        assert log_chances.isfinite().all()
        torch.testing.assert_close(log_chances.exp().sum(-1), torch.ones(len(t), 3), atol=2e-5, rtol=0)
    loss = step_loss(logits, clean, diffuse(clean, t, schedule, codes, generator), t, schedule)
    assert loss.isfinite().all()
    assert loss.min() > -1e-4
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["released", "printed"])
def test_first_and_last_times_of_the_full_schedule_are_safe(kind: str) -> None:
    schedule = cosine_schedule(4000, kind)  # pyright: ignore[reportArgumentType]
    t = torch.tensor([0, 1, 3998, 3999])
    tokens = torch.randint(1024, (4, 16), generator=seeded())
    noisy = diffuse(tokens, t, schedule, 1024, seeded(1))
    assert (noisy == tokens).float().mean(1)[[0, 3]].tolist() == pytest.approx([1, 0], abs=0.2)
    loss = step_loss(torch.randn(4, 16, 1024, generator=seeded(2)), tokens, noisy, t, schedule)
    assert loss.isfinite().all()
    assert loss.min() > -1e-6


@pytest.mark.parametrize("alphas", [[0.5, 0.0], [0.5, 1.1], [-0.1], [float("nan")], [], [[0.5]]])
def test_chances_that_are_none_are_refused(alphas: list[float]) -> None:
    with pytest.raises(UsageError, match="alpha must be chances"):
        schedule_of(torch.tensor(alphas))


def test_a_schedule_has_steps() -> None:
    with pytest.raises(UsageError, match="steps 0: at least 1"):
        cosine_schedule(0, "printed")
