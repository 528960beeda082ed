"""Samplers as one writes them from the papers: every position through the head, softmax, multinomial, scatter.

They are what smalti is compared with, and deliberately plain. Each takes ``ask`` (tokens int64 [N, L] to logits
[N, L, K]) and returns tokens int64 [N, L].
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from smalti.drawing.result import Timings
from smalti_train.objectives.multinomial import NoiseSchedule, p_pred
from torch_way.models import TorchWay

Ask = Callable[..., Tensor]


class Plan(Protocol):
    """A whole draw."""

    def __call__(self, ask: Ask, generator: torch.Generator) -> Tensor:
        """Draw tokens int64 [N, L]."""
        ...


def drawn(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Draw a token (int64 [N, L]) at every position from logits [N, L, K] of any float type."""
    chances = torch.softmax(logits.float() / temperature, dim=-1)
    return torch.multinomial(chances.flatten(0, 1), 1, generator=generator).view(logits.shape[:2])


@torch.inference_mode()
def absorbing(
    ask: Ask, generator: torch.Generator, *, count: int, length: int, codes: int, steps: int, temperature: float
) -> Tensor:
    """Unmask each masked position with probability 1/t at step t = ``steps`` .. 1 (Bond-Taylor et al. 2021).

    ``count`` grids of ``length`` tokens; token ``codes`` is the mask. All of a grid is asked at every step.
    """
    tokens = torch.full((count, length), codes)
    for t in range(steps, 0, -1):
        chosen = (torch.rand(tokens.shape, generator=generator) < 1 / t) & (tokens == codes)
        tokens = torch.where(chosen, drawn(ask(tokens), temperature, generator), tokens)
    return tokens


@torch.inference_mode()
def one_by_one(
    ask: Ask, generator: torch.Generator, *, count: int, length: int, codes: int, temperature: float
) -> Tensor:
    """Unmask one position per step, in an order that is random for each grid: ``length`` steps."""
    tokens = torch.full((count, length), codes)
    order = torch.rand(tokens.shape, generator=generator).argsort(dim=1)
    for place in order.T[..., None]:
        found = drawn(ask(tokens), temperature, generator)
        tokens.scatter_(1, place, found.gather(1, place))
    return tokens


@torch.inference_mode()
def sundae(
    ask: Ask,
    generator: torch.Generator,
    *,
    count: int,
    length: int,
    codes: int,
    steps: int,
    temperature: float,
    proportion: float = 0.5,
) -> Tensor:
    """Redraw each position with probability ``proportion`` at every step, from noise (McKinney and Willcocks 2022)."""
    tokens = torch.randint(codes, (count, length), generator=generator)
    for _ in range(steps):
        chosen = torch.rand(tokens.shape, generator=generator) < proportion
        tokens = torch.where(chosen, drawn(ask(tokens), temperature, generator), tokens)
    return tokens


@torch.inference_mode()
def multinomial(
    ask: Ask, generator: torch.Generator, *, count: int, length: int, codes: int, steps: int, schedule: NoiseSchedule
) -> Tensor:
    """Take ``steps`` of a schedule's T steps, evenly, each by its posterior (Hu et al. 2022, eq. 20 to 22)."""
    tokens = torch.randint(codes, (count, length), generator=generator)
    stops = torch.linspace(schedule.steps - 1, -1, steps + 1).round().long().tolist()
    for start, end in pairwise(stops):
        t, before = torch.full((count,), start), torch.full((count,), end)
        found = p_pred(ask(tokens, t).float(), tokens, t, schedule, before)
        tokens = drawn(found, 1.0, generator)
    return tokens


def picture(way: TorchWay, plan: Plan, grid: tuple[int, int], seed: int) -> tuple[Tensor, list[Image.Image], Timings]:
    """Draw and decode as smalti does, and time the same stages; return tokens int64 [N, h, w] and pictures.

    As in smalti, the draw is all of the loop that is not network, and host is what is neither of these nor decoder.
    """
    started, timings = time.perf_counter(), Timings()
    generator = torch.Generator().manual_seed(seed)
    drawing = time.perf_counter()
    with way.context():
        tokens = plan(timings.timed(way.ask), generator).view(-1, *grid)
        decoding = time.perf_counter()
        timings.draw = decoding - drawing - timings.network
        pixels = way.decode(tokens).numpy()
        timings.decoder = time.perf_counter() - decoding
    images = [Image.fromarray(one) for one in pixels]
    timings.host = time.perf_counter() - started - timings.total
    return tokens, images, timings


def absorbing_plan(steps: int | None, *, count: int, length: int, codes: int, temperature: float) -> Plan:
    """Lay out an absorbing draw of so many steps; None: one position per step."""
    if steps is None:
        return partial(one_by_one, count=count, length=length, codes=codes, temperature=temperature)
    return partial(absorbing, count=count, length=length, codes=codes, steps=steps, temperature=temperature)
