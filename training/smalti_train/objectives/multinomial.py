"""Multinomial diffusion over the codes of a grid (paper 004 section 3.1; Hoogeboom et al. 2021): what VQ-DDM learns.

A token of z_t is that of the clean grid with a chance that falls with t, and else any of the K codes, all alike (eq.
16, 17). Times are t = 0 .. T - 1, T = ``schedule.steps``: z_0 has the least noise and z_{T-1} the most, and time -1
stands for the clean grid x0 itself, where the paper counts z_1 .. z_T from z_0. Distributions are log-probabilities,
float [B, L, K] (float32 or float64; the tables are float64), one time per sample.

Losses are per sample, in nats per token of the grid, as in ``smalti_train.objectives.absorbing``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from smalti.bundle.manifest import NoiseKind
from smalti.errors import UsageError
from smalti.families.multinomial.sampler import CLEAN, cosine_alphas
from smalti_train.objectives.absorbing import stratified_times
from smalti_train.objectives.time_sampling import ImportanceTimes

LOG_ZERO = math.log(1e-30)
"""What stands for the logarithm of no chance at all: finite, so that differences of it are, and as published."""


@dataclass(frozen=True)
class NoiseSchedule:
    """How much noise there is at every time: natural logarithms, float64 [T] on the CPU, under their published names.

    alpha is the chance that a step keeps a token as it is, and cumprod_alpha (the paper's alpha with a bar) that all
    steps from x0 on do; otherwise it is drawn anew from all codes, which may give the same one.
    """

    log_alpha: Tensor
    log_1_min_alpha: Tensor
    log_cumprod_alpha: Tensor
    log_1_min_cumprod_alpha: Tensor

    @property
    def steps(self) -> int:
        """T."""
        return len(self.log_alpha)

    def log_kept(self, before: Tensor, after: Tensor) -> Tensor:
        """Log chance (float64 [B], CPU) that a token stays as it is from time ``before`` to ``after``.

        Times are int64 [B], CLEAN <= before <= after < T.
        """
        since_clean = torch.cat((torch.zeros(1, dtype=torch.float64), self.log_cumprod_alpha))
        return since_clean[after.cpu() + 1] - since_clean[before.cpu() + 1]


def schedule_of(alpha: Tensor) -> NoiseSchedule:
    """The schedule whose steps keep a token with the chances ``alpha`` (float [T], each over 0 and at most 1).

    Raises UsageError for other chances.
    """
    alpha = alpha.double().cpu()
    if alpha.ndim != 1 or not len(alpha) or not bool(((alpha > 0) & (alpha <= 1)).all()):
        raise UsageError(f"alpha must be chances [T] over 0 and at most 1, one for each step; got {alpha}")
    log_alpha = alpha.log()
    log_cumprod_alpha = log_alpha.cumsum(0)
    return NoiseSchedule(log_alpha, _log_rest(log_alpha), log_cumprod_alpha, _log_rest(log_cumprod_alpha))


def cosine_schedule(steps: int, kind: NoiseKind) -> NoiseSchedule:
    """The cosine schedule of so many steps (eq. 19), printed or released: see ``cosine_alphas``."""
    return schedule_of(torch.from_numpy(cosine_alphas(steps, kind)))


def _log_rest(log_chance: Tensor) -> Tensor:
    """log(1 - chance) of log(chance) (both float64), no lower than log(1e-40), as published."""
    return torch.log(-torch.expm1(log_chance)).clamp(min=math.log(1e-40))


def log_one_hot(tokens: Tensor, codes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Log-probabilities (``dtype`` [B, L, K]) of being ``tokens`` (int64 [B, L]) for certain; LOG_ZERO elsewhere."""
    certain = torch.full((*tokens.shape, codes), LOG_ZERO, dtype=dtype, device=tokens.device)
    return certain.scatter_(-1, tokens[..., None], 0.0)


def noised(log_z: Tensor, before: Tensor, after: Tensor, schedule: NoiseSchedule) -> Tensor:
    """q(z_after | z_before), z_before given by ``log_z``: the chance kept * z + (1 - kept) / K of each code.

    Eq. 16 over any stride; times int64 [B], CLEAN <= before <= after < T. As the kernel is symmetric, this is also the
    likelihood of z_before (up to no factor) where ``log_z`` gives z_after.
    """
    log_kept = schedule.log_kept(before, after)
    kept, rest = (part.to(log_z)[:, None, None] for part in (log_kept, _log_rest(log_kept)))
    return torch.logaddexp(log_z + kept, rest - math.log(log_z.shape[-1]))


def q_step(log_z: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """q(z_t | z_{t-1}) (eq. 16); ``t`` int64 [B] in 0 .. T - 1."""
    return noised(log_z, t - 1, t, schedule)


def q_pred(log_x0: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """q(z_t | x0) (eq. 17); ``t`` int64 [B] in CLEAN .. T - 1."""
    return noised(log_x0, torch.full_like(t, CLEAN), t, schedule)


def q_posterior(
    log_x0: Tensor, log_z: Tensor, t: Tensor, schedule: NoiseSchedule, before: Tensor | None = None
) -> Tensor:
    """q(z_before | z_t, x0), normalised: theta of eq. 20 and 21, its step any stride.

    ``log_z`` gives z_t at ``t`` int64 [B] in 0 .. T - 1; ``before`` int64 [B], CLEAN <= before < t, is t - 1 by
    default. theta = q(z_t | z_before) * q(z_before | x0). With ``before`` CLEAN the second factor is x0 itself.
    """
    before = t - 1 if before is None else before
    theta = noised(log_z, before, t, schedule) + q_pred(log_x0, before, schedule)
    return theta - theta.logsumexp(-1, keepdim=True)


def p_pred(logits: Tensor, tokens: Tensor, t: Tensor, schedule: NoiseSchedule, before: Tensor | None = None) -> Tensor:
    """p(z_before | z_t) of a network that says ``logits`` (float [B, L, K]) of x0_hat (eq. 22), normalised.

    ``tokens`` int64 [B, L] are z_t; times as for :func:`q_posterior`. How x0_hat comes about (the outputs alone, or
    eq. 23's sum) is the network's affair: its logits are these.

    As the likelihood of z_t is a factor of its own, the best x0_hat of a position is what the *other* positions say of
    it, and the step to CLEAN goes by the posterior too, as released; the paper's p(z_0 | z_1) = x0_hat (eq. 22, first
    line) would leave out what the position's own token says.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_z = log_one_hot(tokens, logits.shape[-1], logits.dtype)
    return q_posterior(logits.log_softmax(-1), log_z, t, schedule, before)


def diffuse(tokens: Tensor, t: Tensor, schedule: NoiseSchedule, codes: int, generator: torch.Generator) -> Tensor:
    """Draw z_t (int64 [B, L]) from q(z_t | x0) (eq. 17) for clean ``tokens`` int64 [B, L], ``t`` int64 [B].

    ``generator`` is the CPU's, so that noise does not depend on the device.
    """
    kept = schedule.log_cumprod_alpha[t.cpu()].exp()[:, None]
    keep = torch.rand(tokens.shape, generator=generator, dtype=torch.float64) < kept
    others = torch.randint(codes, tokens.shape, generator=generator)
    return torch.where(keep.to(tokens.device), tokens, others.to(tokens.device))


def step_loss(logits: Tensor, tokens: Tensor, noisy: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The bound's term for ``t`` (float [B], nats per token; T of them and :func:`prior_kl` are the bound, eq. 7).

    For t >= 1 the divergence of p(z_{t-1} | z_t) from the true posterior (eq. 24); for t = 0 the negative
    log-likelihood of the clean tokens. ``logits`` float [B, L, K] of x0_hat; ``tokens`` int64 [B, L], the clean ones;
    ``noisy`` int64 [B, L], z_t; ``t`` int64 [B] in 0 .. T - 1.
    """
    guess = p_pred(logits, noisy, t, schedule)
    codes, dtype = guess.shape[-1], guess.dtype
    truth = q_posterior(log_one_hot(tokens, codes, dtype), log_one_hot(noisy, codes, dtype), t, schedule)
    divergence = (truth.exp() * (truth - guess)).sum(-1)
    surprise = -guess.gather(-1, tokens[..., None])[..., 0]
    return torch.where((t == 0).to(guess.device)[:, None], surprise, divergence).mean(1)


def prior_kl(schedule: NoiseSchedule, codes: int) -> float:
    """KL(q(z_{T-1} | x0) || uniform) in nats per token, the bound's last term (eq. 7): the same for every token."""
    log_x0 = log_one_hot(torch.zeros(1, 1, dtype=torch.int64), codes, torch.float64)
    last = q_pred(log_x0, torch.tensor([schedule.steps - 1]), schedule)
    return max(0.0, float((last.exp() * (last + math.log(codes))).sum()))


@torch.no_grad()
def vlb(
    denoise: Callable[[Tensor, Tensor], Tensor], tokens: Tensor, schedule: NoiseSchedule, codes: int, seed: int = 0
) -> Tensor:
    """Bound on the negative log-likelihood of each sample (float [B], nats per token): eq. 7 over every t.

    ``denoise`` maps noisy tokens int64 [B, L] and times int64 [B] to logits float [B, L, K] of x0_hat and is asked T
    times; ``tokens`` int64 [B, L]. Only the noise is random, and that is decided by ``seed``.
    """
    generator = torch.Generator().manual_seed(seed)
    total = torch.full((len(tokens),), prior_kl(schedule, codes), device=tokens.device)
    for time in reversed(range(schedule.steps)):
        t = torch.full((len(tokens),), time, device=tokens.device)
        noisy = diffuse(tokens, t, schedule, codes, generator)
        total += step_loss(denoise(noisy, t), tokens, noisy, t, schedule)
    return total


def draw_times(
    count: int, steps: int, generator: torch.Generator, history: ImportanceTimes | None = None
) -> tuple[Tensor, Tensor]:
    """Times t (int64 [count] in 0 .. T - 1) of a training step and the weights of their losses (float32 [count]).

    One from each of ``count`` equal strata; or, given a ``history`` of T times, by importance: q(t) in proportion to
    the root of the mean squared loss (appendix). A history counts from 1: tell it of ``t + 1``. T times the mean of
    weight * loss, and :func:`prior_kl`, estimate the bound without bias either way.

    (The released code gives t = 0, whose loss is a likelihood among divergences, the chance of t = 1 once it weighs
    the times. Here its own losses decide, which costs no bias and less variance.)
    """
    if history is None:
        return stratified_times(count, steps, generator) - 1, torch.ones(count)
    times, weights = history.draw(count, generator)
    return times - 1, weights
