"""Which times a training step looks at, drawn by how much they matter."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smalti.errors import UsageError

SEEN = 10
"""Each time must have been seen more often than this before the history is used."""
KEEP = 0.9
"""Share of a time's history that stays when it is seen again."""


class ImportanceTimes(nn.Module):
    """Times t = 1 .. T, drawn in proportion to the root of their mean squared loss (paper 000's code).

    Such a choice gives the estimate of a sum over t the least variance (Nichol and Dhariwal 2021, section 3.3). Until
    every time was seen more than ten times, times are uniform. The state is two buffers, saved with a checkpoint under
    their published names; index 0 belongs to no time. (The released code asks index 0 to have been seen too, which
    never happens, and could otherwise draw it.)
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
        """Whether the history decides, and times are no longer uniform."""
        return bool((self.Lt_count[1:] > SEEN).all())

    def chances(self) -> Tensor:
        """Chance of each time: float32 [T] on the CPU, for t = 1 .. T."""
        steps = len(self.Lt_history) - 1
        if not self.ready:
            return torch.full((steps,), 1 / steps)
        # The floors are the published ones: no time is ever given up.
        roots = torch.sqrt(self.Lt_history[1:].float().cpu() + 1e-10) + 1e-4
        return roots / roots.sum()

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw ``count`` times; returns them (int64 [count]) and their weights (float32 [count], 1 / (T * chance)).

        The mean of weight * loss estimates without bias what the mean of losses at uniform times does.
        """
        chances = self.chances()
        drawn = torch.multinomial(chances, count, replacement=True, generator=generator)
        return drawn + 1, 1 / (len(chances) * chances[drawn])

    @torch.no_grad()
    def update(self, times: Tensor, losses: Tensor) -> None:
        """Take note of the losses (float [B], before they are weighted) seen at ``times`` (int64 [B] in 1 .. T).

        With several processes, give each of them all samples, in one order: then they go on drawing alike. Losses that
        are not finite are passed over. Raises UsageError for times outside 1 .. T.
        """
        steps = len(self.Lt_history) - 1
        times, losses = times.to(self.Lt_history.device), losses.detach().float().to(self.Lt_history.device)
        if times.numel() and not 1 <= int(times.min()) <= int(times.max()) <= steps:
            raise UsageError(f"times must be 1 .. {steps}; got {int(times.min())} .. {int(times.max())}")
        for time, loss in zip(times[losses.isfinite()], losses[losses.isfinite()]):
            self.Lt_history[time] = KEEP * self.Lt_history[time] + (1 - KEEP) * loss.square()
            self.Lt_count[time] += 1
