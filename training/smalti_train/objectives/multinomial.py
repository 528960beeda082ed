"""Multinomial diffusion over the codes of a grid: noise, posteriors and the bound of VQ-DDM.

Equations are those of Hu et al. 2022, section 3.1; the method is that of Hoogeboom et al. 2021. A token of z_t is the
clean one with a chance that falls with t, otherwise a uniformly random one of the K codes (eq. 16, 17). Times are
t = 0 .. T - 1, T = ``schedule.steps``: z_0 has the least noise, z_{T-1} the most, and time -1 (``CLEAN``) is the clean
grid x0. The paper counts from 1 instead: its z_0 is the clean grid. Distributions are log-probabilities, float
[B, L, K] (float32 or float64; the tables are float64), one time per sample.

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
from smalti_train.data.tensors import from_numpy
from smalti_train.objectives.absorbing import stratified_times
from smalti_train.objectives.time_sampling import ImportanceTimes

LOG_ZERO = math.log(1e-30)
"""Stands for log 0: finite, so that differences are finite too; the published value."""


@dataclass(frozen=True)
class NoiseSchedule:
    """Noise at every time: natural logarithms, float64 [T] on the CPU, under their published names.

    alpha is the chance that a step keeps a token; cumprod_alpha (the paper's alpha with a bar) is the chance that all
    steps from x0 on keep it. A token that is not kept is drawn anew from all codes, which may give the same one.
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
    """The cosine schedule (eq. 19) with ``steps`` steps, as printed or as released; see ``cosine_alphas``."""
    return schedule_of(from_numpy(cosine_alphas(steps, kind)))


def _log_rest(log_chance: Tensor) -> Tensor:
    """log(1 - chance) from log(chance) (both float64), at least log(1e-40), as published."""
    return torch.log(-torch.expm1(log_chance)).clamp(min=math.log(1e-40))


def log_one_hot(tokens: Tensor, codes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Log-probabilities (``dtype`` [B, L, K]) of being ``tokens`` (int64 [B, L]) for certain; LOG_ZERO elsewhere."""
    certain = torch.full((*tokens.shape, codes), LOG_ZERO, dtype=dtype, device=tokens.device)
    return certain.scatter_(-1, tokens[..., None], 0.0)


def noised(log_z: Tensor, before: Tensor, after: Tensor, schedule: NoiseSchedule) -> Tensor:
    """q(z_after | z_before), with z_before given by ``log_z``: each code has the chance kept * z + (1 - kept) / K.

    Eq. 16 over any stride; times int64 [B], CLEAN <= before <= after < T. The kernel is symmetric: where ``log_z``
    gives z_after, this is the likelihood of z_before.
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
    """q(z_before | z_t, x0), normalised: theta of eq. 20 and 21, over any stride.

    ``log_z`` gives z_t at ``t`` int64 [B] in 0 .. T - 1; ``before`` int64 [B], CLEAN <= before < t, is t - 1 by
    default. theta = q(z_t | z_before) * q(z_before | x0); the second factor is x0 itself where ``before`` is CLEAN.
    """
    before = t - 1 if before is None else before
    theta = noised(log_z, before, t, schedule) + q_pred(log_x0, before, schedule)
    return theta - theta.logsumexp(-1, keepdim=True)


def p_pred(logits: Tensor, tokens: Tensor, t: Tensor, schedule: NoiseSchedule, before: Tensor | None = None) -> Tensor:
    """p(z_before | z_t), normalised, from a network's ``logits`` (float [B, L, K]) of x0_hat (eq. 22).

    ``tokens`` int64 [B, L] are z_t; times as for :func:`q_posterior`. The network computes x0_hat, as its outputs alone
    or by eq. 23's sum.

    The likelihood of z_t is a separate factor, so the best x0_hat of a position uses only the *other* positions. The
    step to CLEAN therefore uses the posterior too, as in the released code. The paper's p(z_0 | z_1) = x0_hat (eq. 22,
    first line) would ignore the position's own token.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_z = log_one_hot(tokens, logits.shape[-1], logits.dtype)
    return q_posterior(logits.log_softmax(-1), log_z, t, schedule, before)


def diffuse(tokens: Tensor, t: Tensor, schedule: NoiseSchedule, codes: int, generator: torch.Generator) -> Tensor:
    """Draw z_t (int64 [B, L]) from q(z_t | x0) (eq. 17) for clean ``tokens`` int64 [B, L], ``t`` int64 [B].

    ``generator`` is on the CPU, so that noise does not depend on the device.
    """
    kept = schedule.log_cumprod_alpha[t.cpu()].exp()[:, None]
    keep = torch.rand(tokens.shape, generator=generator, dtype=torch.float64) < kept
    others = torch.randint(codes, tokens.shape, generator=generator)
    return torch.where(keep.to(tokens.device), tokens, others.to(tokens.device))


def step_loss(logits: Tensor, tokens: Tensor, noisy: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The bound's term for ``t`` (float [B], nats per token); all T terms and :func:`prior_kl` add up to it (eq. 7).

    For t >= 1 it is the divergence of p(z_{t-1} | z_t) from the true posterior (eq. 24), for t = 0 the negative
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
    """KL(q(z_{T-1} | x0) || uniform) in nats per token: the bound's last term (eq. 7), equal for all tokens."""
    log_x0 = log_one_hot(torch.zeros(1, 1, dtype=torch.int64), codes, torch.float64)
    last = q_pred(log_x0, torch.tensor([schedule.steps - 1]), schedule)
    return max(0.0, float((last.exp() * (last + math.log(codes))).sum()))


@torch.no_grad()
def vlb(
    denoise: Callable[[Tensor, Tensor], Tensor], tokens: Tensor, schedule: NoiseSchedule, codes: int, seed: int = 0
) -> Tensor:
    """Bound on the negative log-likelihood of each sample (float [B], nats per token): eq. 7 over every t.

    ``denoise`` maps noisy tokens int64 [B, L] and times int64 [B] to logits float [B, L, K] of x0_hat and is called T
    times; ``tokens`` int64 [B, L]. ``seed`` decides the noise; nothing else is random.
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
    """Times t (int64 [count] in 0 .. T - 1) of a training step, and the weights of their losses (float32 [count]).

    One time from each of ``count`` equal strata; or, given a ``history`` of T times, by importance: q(t) in proportion
    to the root of the mean squared loss (appendix). A history counts times from 1: update it with ``t + 1``. Either
    way, T times the mean of weight * loss, plus :func:`prior_kl`, is an unbiased estimate of the bound.

    The released code gives t = 0, whose loss is a likelihood, the chance of t = 1 when it draws by importance. Here its
    own losses decide: also unbiased, with less variance.
    """
    if history is None:
        return stratified_times(count, steps, generator) - 1, torch.ones(count)
    times, weights = history.draw(count, generator)
    return times - 1, weights
