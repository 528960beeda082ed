"""A diffusion so short that everything about its chains can be summed: three codes, five uneven steps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from smalti_train.objectives.multinomial import CLEAN, NoiseSchedule, log_one_hot, schedule_of

CODES = 3
SHORT = schedule_of(torch.tensor([0.95, 0.7, 0.9, 0.4, 0.05]))


def transitions(schedule: NoiseSchedule = SHORT, codes: int = CODES) -> list[np.ndarray]:
    """Q_t of eq. 15 for every t, float64 [K, K], rows from and columns to."""
    alphas = schedule.log_alpha.exp().tolist()
    return [alpha * np.eye(codes) + (1 - alpha) / codes for alpha in alphas]


def product(matrices: list[np.ndarray], codes: int = CODES) -> np.ndarray:
    found = np.eye(codes)
    for matrix in matrices:
        found = found @ matrix
    return found


def certain(tokens: list[int], codes: int = CODES) -> Tensor:
    return log_one_hot(torch.tensor(tokens)[:, None], codes, torch.float64)


def strides(steps: int = SHORT.steps) -> list[tuple[int, int]]:
    return [(before, t) for t in range(steps) for before in range(CLEAN, t)]


def bayes(before: int, t: int) -> np.ndarray:
    """q(z_before | z_t, x0) by matrix products and Bayes' rule alone, float64 [x0, z_t, z_before]."""
    matrices = transitions()
    first, second = product(matrices[: before + 1]), product(matrices[before + 1 : t + 1])
    joint = first[:, None, :] * second.T[None]
    return joint / joint.sum(2, keepdims=True)
