"""What the tests of importers share: a small VQGAN of taming's dialect, and names for what they pass around."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

from smalti_train.models.vqgan import VQGANConfig

State: TypeAlias = dict[str, Tensor]
Saved: TypeAlias = Callable[..., Path]
"""Writes an object as a checkpoint; gives its path."""

SMALL = VQGANConfig(
    codes=8,
    code_dim=6,
    channels=32,
    multipliers=(1, 2),
    encoder_blocks=1,
    attention_levels=(1,),
    z_channels=5,
    last_activation=True,
    value_range=(-1.0, 1.0),
)
