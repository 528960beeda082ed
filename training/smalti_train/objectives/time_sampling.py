"""Importance sampling of diffusion times from the losses seen so far."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smalti.errors import UsageError

SEEN = 10
"""The history is used once every time has been seen more often than this."""
KEEP = 0.9
"""Share of a time's history that stays when it is seen again."""


class ImportanceTimes(nn.Module):
    """Times t = 1 .. T, drawn in proportion to the root of their mean squared loss.

    As in the released code of Bond-Taylor et al. 2021; such draws give sums over t the least variance (Nichol and
    Dhariwal 2021, section 3.3). Times are uniform until each was seen more than ten times. The state is two buffers,
    saved with a checkpoint under their published names; index 0 is unused. (The released code waits for index 0 to be
    seen too, which never happens, and could draw it.)
    """

    Lt_history: Tensor
    Lt_count: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        if steps < 1:
            raise UsageError(f"steps {steps}: at least 1 is needed")
        self.register_buffer("Lt_history", torch.zeros(steps + 1))
        self.register_buffer("Lt_count", torch.zeros(steps + 1))

    @property
    def ready(self) -> bool:
        """Whether times are drawn by the history and no longer uniformly."""
        return bool((self.Lt_count[1:] > SEEN).all())

    def chances(self) -> Tensor:
        """Chance of each time: float32 [T] on the CPU, for t = 1 .. T."""
        steps = len(self.Lt_history) - 1
        if not self.ready:
            return torch.full((steps,), 1 / steps)
        # Floors as published: every time keeps a chance.
        roots = torch.sqrt(self.Lt_history[1:].float().cpu() + 1e-10) + 1e-4
        return roots / roots.sum()

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw ``count`` times (int64 [count]) and their weights (float32 [count], 1 / (T * chance)).

        The mean of weight * loss is an unbiased estimate of the mean loss at uniform times.
        """
        chances = self.chances()
        drawn = torch.multinomial(chances, count, replacement=True, generator=generator)
        return drawn + 1, 1 / (len(chances) * chances[drawn])

    @torch.no_grad()
    def update(self, times: Tensor, losses: Tensor) -> None:
        """Record the unweighted losses (float [B]) seen at ``times`` (int64 [B] in 1 .. T).

        Every process must record all samples in the same order, so that all draw the same times. Losses that are not
        finite are skipped. Raises UsageError for times outside 1 .. T.
        """
        steps = len(self.Lt_history) - 1
        times, losses = times.to(self.Lt_history.device), losses.detach().float().to(self.Lt_history.device)
        if times.numel() and not 1 <= int(times.min()) <= int(times.max()) <= steps:
            raise UsageError(f"times must be 1 .. {steps}; got {int(times.min())} .. {int(times.max())}")
        for time, loss in zip(times[losses.isfinite()], losses[losses.isfinite()]):
            self.Lt_history[time] = KEEP * self.Lt_history[time] + (1 - KEEP) * loss.square()
            self.Lt_count[time] += 1
