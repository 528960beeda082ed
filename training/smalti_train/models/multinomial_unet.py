"""The prior of Hu et al. 2022 (VQ-DDM): a U-Net that reads a grid of noisy tokens and predicts the clean ones.

Noise is multinomial: a noisy token is any of the K codes and looks like a clean one, so the network also reads the
time. It predicts the logits of x0_hat at every position (eq. 22, 23). Parameters carry their published names, so a
published checkpoint is this model's state dict behind a prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.bundle.manifest import NoiseKind
from smalti.errors import UsageError
from smalti_train.models.multinomial_unet_blocks import (
    GROUPS,
    ConvBlock,
    Downsample,
    FullAttention,
    LinearAttention,
    ResidualBlock,
    ReZero,
    Skip,
    Upsample,
    time_embedding,
    time_rates,
)

AttentionKind = Literal["linear", "full"]
Parameterisation = Literal["x0", "x0_residual"]
FULL_ATTENTION_SIDES = (4, 16)
"""Full attention needs a grid whose longer side is in this range, in cells: the paper has it at 16, 8 and 4."""


@dataclass(frozen=True)
class MultinomialUNetConfig:
    """Sizes of a U-Net, and its diffusion; defaults are the published ones."""

    codes: int = 1024
    """K: tokens are 0 .. K - 1; there is no mask."""
    grid: tuple[int, int] = (16, 16)
    """Rows and columns of tokens, multiples of 2 for each level but one."""
    classes: int = 0
    """Labels 0 .. classes - 1; label ``classes`` stands for "no label". Published priors know none."""
    width: int = 128
    """Dimensions of a token and of the time, channels before ``multipliers``; a multiple of 8."""
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    """Channels per level in units of ``width``, finest first; each level halves the sides of the one before."""
    blocks: int = 2
    """Residual blocks per level, on the way down and on the way up."""
    attention: AttentionKind = "linear"
    """``linear`` at every level, as released; ``full`` at grids of 16, 8 and 4, as printed (appendix)."""
    steps: int = 4000
    """T: times are 0 (the least noise) .. T - 1."""
    parameterisation: Parameterisation = "x0"
    """``x0``: the network's outputs are the logits (as in the published CelebA-HQ and LSUN models);
    ``x0_residual``: the logit of the token that is seen is raised by 1 (eq. 23)."""
    schedule: NoiseKind = "released"
    """Noise schedule; see ``smalti_train.objectives.multinomial.cosine_schedule``."""

    def __post_init__(self) -> None:
        """Check that the sizes fit each other. Raises UsageError, saying which does not."""
        sizes = (self.codes, self.width, self.blocks, self.steps, *self.multipliers, *self.grid)
        if not self.multipliers or min(sizes) < 1 or self.classes < 0:
            raise UsageError(f"every size of a U-Net is at least 1 (classes: 0), unlike some of {self}")
        if self.width % GROUPS:
            raise UsageError(f"width of a U-Net is a multiple of {GROUPS} (its norms' groups), not {self.width}")
        factor = 2 ** (len(self.multipliers) - 1)
        if self.grid[0] % factor or self.grid[1] % factor:
            raise UsageError(
                f"grid {list(self.grid)}: {len(self.multipliers)} levels need sides that are multiples of {factor}"
            )
        for name, kind in (
            ("attention", AttentionKind),
            ("parameterisation", Parameterisation),
            ("schedule", NoiseKind),
        ):
            if (value := getattr(self, name)) not in get_args(kind):
                raise UsageError(f"{name} {value!r:.80}: allowed are {' and '.join(get_args(kind))}")

    @property
    def mask(self) -> int:
        """Placeholder that samplers use for tokens still to be drawn; the network never reads it."""
        return self.codes

    @property
    def positions(self) -> int:
        """Tokens of a grid."""
        return self.grid[0] * self.grid[1]

    def attends(self, level: int) -> bool:
        """Whether there is attention at a level (0 = finest)."""
        shortest, longest = FULL_ATTENTION_SIDES
        return self.attention == "linear" or shortest <= max(self.grid) // 2**level <= longest


class MultinomialUNet(nn.Module):
    """Noisy tokens (int [B, h*w]), labels (int [B]) and times (int [B]) to logits of the clean tokens' K codes."""

    def __init__(self, config: MultinomialUNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.rates = time_rates(width)
        widths = [width * multiplier for multiplier in config.multipliers]
        last = len(widths) - 1
        self.embedding = nn.Embedding(config.codes, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.Mish(), nn.Linear(4 * width, width))
        # Published checkpoints have no labels; a model without classes has no such table.
        self.label_emb = nn.Embedding(config.classes + 1, width) if config.classes else None
        self.downs = nn.ModuleList(
            self._level(before, channels, level, Downsample(channels) if level < last else nn.Identity())
            for level, (before, channels) in enumerate(zip((width, *widths), widths))
        )
        self.mid_block1 = ResidualBlock(widths[-1], widths[-1], width)
        self.mid_attn = self._attention(widths[-1], last)
        self.mid_block2 = ResidualBlock(widths[-1], widths[-1], width)
        self.ups = nn.ModuleList(
            self._level(2 * widths[level], widths[level - 1], level, Upsample(widths[level - 1]))
            for level in range(last, 0, -1)
        )
        # The way up ends with the finest level's channels.
        self.final_conv = nn.Sequential(ConvBlock(widths[0], width), nn.Conv2d(width, config.codes, 1))

    def _level(self, inputs: int, outputs: int, level: int, resample: nn.Module) -> nn.ModuleList:
        blocks = (
            ResidualBlock(outputs if i else inputs, outputs, self.config.width) for i in range(self.config.blocks)
        )
        return nn.ModuleList([*blocks, self._attention(outputs, level), resample])

    def _attention(self, channels: int, level: int) -> nn.Module:
        if not self.config.attends(level):
            return nn.Identity()
        kind = LinearAttention if self.config.attention == "linear" else FullAttention
        return Skip(ReZero(kind(channels)))

    def forward(self, tokens: Tensor, labels: Tensor | None, times: Tensor, rows: Tensor | None = None) -> Tensor:
        """Logits of the codes of x0_hat at every position, or only at ``rows``.

        ``tokens`` int [B, h*w] in 0 .. K - 1; ``labels`` int [B] in 0 .. classes (classes, or None: no label; ignored
        without classes); ``times`` int [B] in 0 .. T - 1; ``rows`` int [B, R], raster positions. Returns float
        [B, h*w or R, K].
        """
        time = self.mlp(time_embedding(times, self.config.steps, self.rates).to(self.embedding.weight.dtype))
        if self.label_emb is not None:
            if labels is None:
                labels = torch.full((len(tokens),), self.config.classes, device=tokens.device)
            time = time + self.label_emb(labels)
        x = self.embedding(tokens).transpose(1, 2).unflatten(2, self.config.grid)
        passed: list[Tensor] = []
        for level in self.downs:
            *blocks, attention, resample = _members(level)
            x = _through(blocks, attention, x, time)
            passed.append(x)
            x = resample(x)
        x = self.mid_block2(self.mid_attn(self.mid_block1(x, time)), time)
        for level in self.ups:
            *blocks, attention, resample = _members(level)
            x = resample(_through(blocks, attention, torch.cat((x, passed.pop()), dim=1), time))
        return self._output(x, tokens, rows)

    def _output(self, x: Tensor, tokens: Tensor, rows: Tensor | None) -> Tensor:
        """Logits (float [B, h*w or R, K]) from the last level's output (float [B, C, h, w])."""
        block, head = self.final_conv
        assert isinstance(head, nn.Conv2d)
        x = block(x).flatten(2)
        if rows is not None:
            tokens = torch.gather(tokens, 1, rows)
            x = torch.gather(x, 2, rows[:, None].expand(-1, x.shape[1], -1))
        logits = head(x[..., None])[..., 0].transpose(1, 2)
        if self.config.parameterisation == "x0_residual":
            logits = logits + F.one_hot(tokens.long(), self.config.codes).to(logits.dtype)
        return logits

    @torch.no_grad()
    def logits(self, tokens: Tensor, labels: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        """Logits (float32 [B, h*w, K]) of the clean tokens, with checks, without gradients.

        All imported priors have this method. ``tokens`` int [B, h*w] in 0 .. K - 1, ``labels`` int [B] in 0 .. classes,
        ``t`` int [B] in 0 .. T - 1. Raises UsageError for values out of range, and where ``t`` is missing.
        """
        config = self.config
        if t is None:
            raise UsageError(
                f"this prior cannot tell noise from tokens by itself: give the time t, integers [{len(tokens)}] in "
                f"0 .. {config.steps - 1}, one for each grid (0: the least noise)"
            )
        if tokens.ndim != 2 or tokens.is_floating_point() or tokens.shape[1] != config.positions:
            raise UsageError(
                f"tokens must be integers [B, {config.positions}]; got {tokens.dtype} {list(tokens.shape)}"
            )
        _check_range("tokens", tokens, config.codes - 1, "the codes of this prior")
        for name, values, most, what in (
            ("t", t, config.steps - 1, "the times of this prior"),
            ("labels", labels, config.classes, "the last for no label" if config.classes else "this prior knows none"),
        ):
            if values is None:
                continue
            if values.shape != tokens.shape[:1] or values.is_floating_point():
                raise UsageError(
                    f"{name} must be integers [{len(tokens)}], one for each grid; got {values.dtype} "
                    f"{list(values.shape)}"
                )
            _check_range(name, values, most, what)
        return self(tokens.long(), labels, t).float()


def _members(level: nn.Module) -> Sequence[nn.Module]:
    assert isinstance(level, nn.ModuleList)
    return list(level)


def _through(blocks: Sequence[nn.Module], attention: nn.Module, x: Tensor, time: Tensor) -> Tensor:
    for block in blocks:
        x = block(x, time)
    return attention(x)


def _check_range(name: str, values: Tensor, most: int, what: str) -> None:
    if values.numel() and not 0 <= int(values.min()) <= int(values.max()) <= most:
        raise UsageError(f"{name} must be 0 .. {most} ({what}); got {int(values.min())} .. {int(values.max())}")
