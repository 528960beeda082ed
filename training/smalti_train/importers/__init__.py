"""Published checkpoints as our own models: ``import_checkpoint(path, source, config)``.

A source is a system and a part of it. Sizes are read off the weights; ``config`` gives what weights cannot tell. Files
are read without running anything in them, and whatever does not fit is named.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from smalti.errors import UsageError
from smalti_train.importers.reading import read_checkpoint

Importer = Callable[[Mapping[str, Tensor], Mapping[str, Any]], nn.Module]


@dataclass(frozen=True)
class Source:
    """Where a published system's importer lives and how its files are told from others."""

    module: str
    function: str
    """Called with the named tensors of a file and the user's config."""
    holds: str
    """What is imported, for people."""
    telling: tuple[str, ...]
    """Parts of names, all of which such a file has."""

    def load(self) -> Importer:
        """Import the importer."""
        return getattr(import_module(f"smalti_train.importers.{self.module}"), self.function)


SOURCES: dict[str, Source] = {
    "taming-net2net": Source(
        "combined",
        "import_taming_net2net",
        "taming's transformer with its VQGAN",
        ("first_stage_model.", "transformer."),
    ),
    "unleashing-vqgan": Source(
        "autoencoders",
        "import_unleashing_vqgan",
        "the VQGAN of Bond-Taylor et al. 2021",
        ("encoder.blocks.", "generator.blocks."),
    ),
    "vqddm": Source(
        "vqddm",
        "import_vqddm",
        "the multinomial diffusion prior of Hu et al. 2022",
        ("mid_attn.fn.g", "final_conv.1.weight"),
    ),
    "unleashing-absorbing": Source(
        "priors",
        "import_unleashing_absorbing",
        "the absorbing diffusion prior of Bond-Taylor et al. 2021",
        ("_denoise_fn.blocks.",),
    ),
    "unleashing-autoregressive": Source(
        "priors",
        "import_unleashing_autoregressive",
        "the autoregressive twin of Bond-Taylor et al. 2021",
        ("net.tok_emb.",),
    ),
    "taming-gumbel": Source(
        "autoencoders", "import_taming_gumbel", "taming's VQGAN, Gumbel quantiser", ("decoder.up.", "quantize.proj.")
    ),
    "taming-vqgan": Source(
        "autoencoders", "import_taming_vqgan", "taming's VQGAN", ("decoder.up.", "quantize.embedding.")
    ),
    "sundae-hourglass": Source(
        "sundae",
        "import_sundae_hourglass",
        "the hourglass transformer of McKinney and Willcocks 2022",
        ("token_emb.", "valley_transformer.", "to_logits."),
    ),
}
"""Everything that can be imported, by the name a user gives; files of two models come before those of one."""


def import_checkpoint(path: str | os.PathLike[str], source: str, config: Mapping[str, Any] | None = None) -> nn.Module:
    """A published model from its file, in eval mode, frozen, fp32, on the CPU.

    Autoencoders have ``encode(images) -> int64 ids [B, h, w]`` and ``decode(ids) -> images`` in the value range of
    their source; priors ``logits(tokens [B, L], labels=None, t=None) -> [B, L, V]``; ``taming-net2net`` an
    ``autoencoder`` and a ``prior``. ``config`` may hold ``heads``, ``grid`` [h, w] in tokens, ``resolution`` in pixels
    and ``attn_resolutions``, as far as the source uses them. To train further, call ``requires_grad_(True)``.

    Raises UsageError, its message beginning with the file's name, for an unknown source or config key, for a file that
    is missing, damaged or holds more than weights, and for keys that are unknown, missing or mis-shaped.
    """
    if source not in SOURCES:
        raise UsageError(f"unknown source {source!r:.80}; there are: {', '.join(SOURCES)}")
    path = Path(path)
    state = read_checkpoint(path)
    try:
        model = SOURCES[source].load()(state, config or {})
    except UsageError as error:
        raise UsageError(f"{path}: {error}{_hint(state, source, str(error))}") from error
    except (RuntimeError, MemoryError, OverflowError) as error:
        raise UsageError(
            f"{path} holds sizes that cannot be built here: {str(error).partition(chr(10))[0]:.200}"
        ) from error
    return model.eval().requires_grad_(False)


def recognised(state: Mapping[str, Tensor]) -> str | None:
    """The source whose telling names a file has, or None."""
    return next((name for name in SOURCES if _tells(state, name)), None)


def _tells(state: Mapping[str, Tensor], source: str) -> bool:
    return all(any(part in key for key in state) for part in SOURCES[source].telling)


def _hint(state: Mapping[str, Tensor], source: str, message: str) -> str:
    """What the file looks like, where it is not what was asked for and the message does not say so already."""
    other = None if _tells(state, source) else recognised(state)
    if other is None or other in message:
        return ""
    return f". It looks like {SOURCES[other].holds}: try the source {other}"


__all__ = ["SOURCES", "Source", "import_checkpoint", "recognised"]
