"""The published VQGANs: taming's (Esser et al. 2021) and unleashing's (Bond-Taylor et al. 2021).

One configurable model covers both. Unleashing has as many residual blocks per level in the decoder as in the encoder
(taming has one more), no 1x1 convolutions around the quantiser, no activation before the last convolution of either
network, and images in [0, 1] rather than [-1, 1]. Norms and attention span the image, so a canvas decodes only as a
whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.errors import UsageError
from smalti_train.models.quantizer import Quantized
from smalti_train.models.quantizer_gumbel import GumbelQuantized, GumbelQuantizer
from smalti_train.models.quantizer_nearest import NearestQuantizer
from smalti_train.models.vqgan_blocks import GROUPS, Downsample, Level, Middle, Upsample, group_norm


@dataclass(frozen=True)
class VQGANConfig:
    """Sizes of a VQGAN; the defaults are unleashing's."""

    codes: int = 1024
    """K, entries of the codebook."""
    code_dim: int = 256
    """D, dimensions of a code."""
    channels: int = 128
    """Channels at full resolution, before ``multipliers``; a multiple of 32."""
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    """Channels per level in units of ``channels``, finest first; each level halves the resolution of the one before."""
    encoder_blocks: int = 2
    """Residual blocks per level of the encoder."""
    decoder_blocks: int = 2
    """Residual blocks per level of the decoder."""
    attention_levels: tuple[int, ...] = (4,)
    """Levels (0 = finest) whose residual blocks are followed by attention; see :func:`attention_levels`."""
    size: tuple[int, int] = (256, 256)
    """Height and width in pixels of the images it is made for; any multiple of ``factor`` works."""
    quantizer: Literal["nearest", "gumbel"] = "nearest"
    z_channels: int | None = None
    """Channels of the networks at the tokens, with 1x1 convolutions to and from codes; None: no such convolutions."""
    last_activation: bool = False
    """Whether a swish stands before the last convolution of encoder and decoder."""
    value_range: tuple[float, float] = (0.0, 1.0)
    """Black and white of its images."""
    probabilistic: bool = False
    """Whether the decoder has a head for the deviation of every pixel (``objectives.vqgan_likelihood``)."""

    def __post_init__(self) -> None:
        """Check that the sizes fit each other. Raises UsageError, saying which does not."""
        sizes = (self.codes, self.code_dim, self.encoder_blocks, self.decoder_blocks, *self.multipliers, *self.size)
        if not self.multipliers or min(sizes) < 1 or (self.z_channels is not None and self.z_channels < 1):
            raise UsageError(f"every size of a VQGAN is at least 1, unlike some of {self}")
        if self.channels < 1 or self.channels % GROUPS:
            raise UsageError(f"channels of a VQGAN are a multiple of {GROUPS} (its norms' groups), not {self.channels}")
        if not set(self.attention_levels) <= set(range(len(self.multipliers))):
            raise UsageError(
                f"attention_levels {self.attention_levels} are not all in 0 .. {len(self.multipliers) - 1}"
            )
        if self.size[0] % self.factor or self.size[1] % self.factor:
            raise UsageError(f"size {self.size} is not a multiple of the {self.factor} pixels that a token stands for")
        if self.value_range[0] >= self.value_range[1]:
            raise UsageError(f"value_range {self.value_range} does not go from black to white")

    @property
    def factor(self) -> int:
        """Pixels per token along each axis (the f of "f=16")."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens per image, h and w."""
        return self.size[0] // self.factor, self.size[1] // self.factor


UNLEASHING_256 = VQGANConfig(probabilistic=True)
"""Unleashing's, for every data set."""
TAMING_F16 = VQGANConfig(decoder_blocks=3, z_channels=256, last_activation=True, value_range=(-1.0, 1.0))
"""Taming's ImageNet f=16 with 1024 codes; 16384 is the other published codebook."""
TAMING_GUMBEL_F8 = VQGANConfig(
    codes=8192,
    multipliers=(1, 1, 2, 4),
    decoder_blocks=3,
    attention_levels=(3,),
    quantizer="gumbel",
    z_channels=256,
    last_activation=True,
    value_range=(-1.0, 1.0),
)
"""Taming's OpenImages f=8 with a Gumbel quantiser, attention at 32x32."""


def attention_levels(resolution: int, levels: int, resolutions: tuple[int, ...]) -> tuple[int, ...]:
    """Levels at which images of ``resolution`` pixels have one of the sides ``resolutions``.

    Published configurations name the sides. Raises UsageError for a side that no level has.
    """
    sides = [resolution // 2**level for level in range(levels)]
    if absent := [side for side in resolutions if side not in sides]:
        raise UsageError(f"no level has the side {absent[0]}: images of {resolution} pixels pass {sides}")
    return tuple(level for level, side in enumerate(sides) if side in resolutions)


class Encoder(nn.Module):
    """Images float [B, 3, H, W] to features [B, outputs, H/f, W/f]."""

    def __init__(self, config: VQGANConfig, outputs: int) -> None:
        super().__init__()
        self.last_activation = config.last_activation
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        self.down = nn.ModuleList()
        for index, (before, width) in enumerate(zip((config.channels, *widths), widths)):
            level = Level(before, width, config.encoder_blocks, index in config.attention_levels)
            level.downsample = Downsample(width) if index < len(widths) - 1 else None
            self.down.append(level)
        self.mid = Middle(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], outputs, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Encode."""
        x = self.conv_in(images)
        for level in self.down:
            x = level(x)
        x = self.norm_out(self.mid(x))
        return self.conv_out(F.silu(x) if self.last_activation else x)


class Decoder(nn.Module):
    """Features float [B, inputs, h, w] to images [B, 3, h*f, w*f]."""

    def __init__(self, config: VQGANConfig, inputs: int) -> None:
        super().__init__()
        self.last_activation = config.last_activation
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        self.conv_in = nn.Conv2d(inputs, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        levels: list[Level] = []
        for index, width in enumerate(widths):
            before = widths[min(index + 1, len(widths) - 1)]
            level = Level(before, width, config.decoder_blocks, index in config.attention_levels)
            level.upsample = Upsample(width) if index else None
            levels.append(level)
        self.up = nn.ModuleList(levels)  # finest first, as published; used from the last to the first
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)
        self.logsigma: nn.Sequential | None = None
        if config.probabilistic:
            head = nn.Conv2d(widths[0], widths[0], 3, padding=1), nn.ReLU(), nn.Conv2d(widths[0], 3, 1)
            self.logsigma = nn.Sequential(*head)

    def body(self, z: Tensor) -> Tensor:
        """Input of the last convolution, float [B, channels, h*f, w*f]."""
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        x = self.norm_out(x)
        return F.silu(x) if self.last_activation else x

    def forward(self, z: Tensor) -> Tensor:
        """Decode."""
        return self.conv_out(self.body(z))


class VQGAN(nn.Module):
    """Images float [B, 3, H, W] in ``config.value_range`` to tokens [B, H/f, W/f] and back."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config = config
        inner = config.code_dim if config.z_channels is None else config.z_channels
        self.encoder = Encoder(config, inner)
        self.decoder = Decoder(config, inner)
        if config.quantizer == "gumbel":
            self.quantize = GumbelQuantizer(config.codes, config.code_dim, config.code_dim)
        else:
            self.quantize = NearestQuantizer(config.codes, config.code_dim)
        self.quant_conv = self.post_quant_conv = None
        if config.z_channels is not None:
            self.quant_conv = nn.Conv2d(inner, config.code_dim, 1)
            self.post_quant_conv = nn.Conv2d(config.code_dim, inner, 1)

    @property
    def last_layer(self) -> Tensor:
        """The weight at which the adaptive lambda compares gradients (G_L of Bond-Taylor et al. 2021, eq. 9c)."""
        return self.decoder.conv_out.weight

    def features(self, images: Tensor) -> Tensor:
        """Features to quantise (float [B, D, H/f, W/f]) of ``images`` (float [B, 3, H, W], multiples of the factor)."""
        height, width = images.shape[2:]
        if height % self.config.factor or width % self.config.factor:
            raise UsageError(
                f"images of {height}x{width} pixels are no multiple of {self.config.factor}: crop or pad them"
            )
        z = self.encoder(images)
        return z if self.quant_conv is None else self.quant_conv(z)

    def inner(self, z_q: Tensor) -> Tensor:
        """The decoder's input from codes ``z_q`` (float [B, D, h, w])."""
        return z_q if self.post_quant_conv is None else self.post_quant_conv(z_q)

    def freeze_tokens(self) -> None:
        """Keep the weights of encoder and codebook from learning, so that tokens keep their meaning."""
        for frozen in (self.encoder, self.quant_conv, self.quantize):
            if frozen is not None:
                frozen.requires_grad_(False)

    def encode(self, images: Tensor) -> Tensor:
        """Tokens (int64 [B, H/f, W/f]) of ``images`` (float [B, 3, H, W] in the value range); never drawn at random."""
        return self.quantize.nearest(self.features(images))

    def decode(self, ids: Tensor) -> Tensor:
        """Images (float [B, 3, h*f, w*f], meant for the value range but not clipped) of tokens (int [B, h, w])."""
        return self.decoder(self.inner(self.quantize.lookup(ids)))

    def forward(
        self,
        images: Tensor,
        temperature: float = 1.0,
        hard: bool = False,
        generator: torch.Generator | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> tuple[Tensor, Tensor, Quantized | GumbelQuantized]:
        """Reconstructions, the features (float [B, D, h, w]) and their quantisation.

        ``temperature``, ``hard``, ``generator`` and ``part`` are for the Gumbel quantiser; the nearest one ignores
        them.
        """
        features = self.features(images)
        if isinstance(self.quantize, GumbelQuantizer):
            quantized = self.quantize(features, temperature, hard, generator, part)
        else:
            quantized = self.quantize(features)
        return self.decoder(self.inner(quantized.z_q)), features, quantized

    def probabilistic(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log deviation of every pixel (two float [B, 3, h*f, w*f]) given tokens (int [B, h, w]).

        Gradients reach only the head of the deviation, as published. Raises UsageError where there is no such head.
        """
        if self.decoder.logsigma is None:
            raise UsageError("this VQGAN has no probabilistic head: set probabilistic in its configuration")
        with torch.no_grad():
            body = self.decoder.body(self.inner(self.quantize.lookup(ids)))
            mean = self.decoder.conv_out(body)
        return mean, self.decoder.logsigma(body)
