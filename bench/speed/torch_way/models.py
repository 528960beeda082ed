"""Plain torch models with a bundle's own weights, in the precisions that people use."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from smalti.bundle.reader import Bundle
from smalti.errors import UsageError
from smalti_export.graphs.graph_modules import to_uint8
from smalti_train.models.edge_autoencoder import EdgeAutoencoder
from smalti_train.models.meta_init import unfilled
from smalti_train.models.size_heads import SizedAutoencoder
from smalti_train.presets.catalogue import AUTOENCODERS, HEADS, PRIORS
from smalti_train.runs.bundle_weights import folded, initial_heads, initial_weights
from smalti_train.runs.loading import Autoencoder, Prior, build_autoencoder, build_prior

MODES = ("fp32", "bf16", "compiled", "compiled bf16")
"""Ways to run torch: eager in fp32, under bf16 autocast, and both with the prior through ``torch.compile``."""


@dataclass(frozen=True)
class Models:
    """A prior and its autoencoder in fp32 and eval mode."""

    prior: Prior
    codec: Autoencoder | SizedAutoencoder

    @property
    def codes(self) -> int:
        """K; token K is the mask where there is one."""
        return self.prior.config.codes

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens. Raises UsageError when the prior does not know."""
        if self.prior.config.grid is None:
            raise UsageError("this prior does not say how many rows and columns of tokens an image has")
        return self.prior.config.grid


@dataclass(frozen=True)
class TorchWay:
    """The two networks as a sampler asks them, in one mode."""

    name: str
    ask: Callable[..., Tensor]
    """Tokens int64 [N, L] (and times int64 [N] of a multinomial prior) to logits [N, L, K] of every position."""
    decode: Callable[[Tensor], Tensor]
    """Tokens int64 [N, h, w] to pixels uint8 [N, H, W, 3]."""
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Goes around a whole draw. Under one autocast, weights are cast once for a draw, and not at every call."""


def bundle_models(bundle: Bundle, preset: str | None = None) -> Models:
    """Load a bundle's weights into the torch models of ``preset``, by default the one that the bundle names.

    Batch norms stay folded into their convolutions, as the bundle stores them: that is the faster torch.

    Raises UsageError when the preset is unknown or has other sizes.
    """
    name = str(bundle.manifest.provenance.training.get("preset", "")) if preset is None else preset
    sized = len(bundle.manifest.all_resolutions) > 1
    codecs = HEADS if sized else AUTOENCODERS
    if name not in PRIORS or name not in codecs:
        known = ", ".join(sorted(PRIORS.keys() & codecs.keys()))
        raise UsageError(f"preset {name!r}: say with --preset which one the bundle was trained by; known are {known}")
    with unfilled():
        prior = build_prior(PRIORS[name].model)
    prior.load_state_dict(initial_weights(bundle.path, PRIORS[name]), assign=True)
    if sized:
        codec: Any = SizedAutoencoder(HEADS[name].model)  # its enlargement is computed when it is built
        codec.load_state_dict(initial_heads(bundle.path, HEADS[name]))
    else:
        codec = build_autoencoder(AUTOENCODERS[name].model)
        codec.load_state_dict(initial_weights(bundle.path, AUTOENCODERS[name]))
    if isinstance(codec, EdgeAutoencoder | SizedAutoencoder):
        codec, _ = folded(codec)
    return Models(prior.eval(), codec.eval())  # with gradients on: autocast keeps casts of such weights only


def torch_way(models: Models, mode: str, say: Callable[[str], None] = print) -> TorchWay | None:
    """Return the models in one of :data:`MODES`; None, said with a line, where torch cannot compile here.

    Compiling happens now, for one grid at a time. Raises UsageError for an unknown mode.
    """
    if mode not in MODES:
        raise UsageError(f"torch mode {mode!r}: allowed are {', '.join(MODES)}")
    forward: Callable[..., Tensor] = models.prior
    if mode.startswith("compiled"):
        forward = torch.compile(models.prior.forward)

    @torch.inference_mode()
    def ask(tokens: Tensor, *times: Tensor) -> Tensor:
        return forward(tokens, None, *times)

    @torch.inference_mode()
    def decode(tokens: Tensor) -> Tensor:
        return to_uint8(models.codec.decode(tokens), models.codec.config.value_range).contiguous()

    way = TorchWay(f"torch {mode}", ask, decode, _bf16 if mode.endswith("bf16") else nullcontext)
    if mode.startswith("compiled"):
        try:
            with way.context():
                ask(torch.zeros(1, models.grid[0] * models.grid[1], dtype=torch.int64), *_times(models.prior))
        except RuntimeError as error:  # the base of all that torch raises when there is no working C++ compiler
            say(f"torch {mode} is left out: torch.compile does not work here ({str(error).splitlines()[0]})")
            return None
    return way


def _bf16() -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16)


def _times(prior: nn.Module) -> tuple[Tensor, ...]:
    """A time, for priors that are told it."""
    return (torch.zeros(1, dtype=torch.int64),) if hasattr(prior.config, "steps") else ()
