"""Published checkpoints as our own models: ``import_checkpoint(path, source, config)``.

A source is a published system and a part of it. Sizes are read off the weights; ``config`` gives what weights do not
show. Nothing in a file is executed, and errors name whatever does not fit.
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
    """The importer of a published system, and the names by which its files are recognised."""

    module: str
    function: str
    """The importer's function; it takes the named tensors of a file and the user's config."""
    holds: str
    """The imported model in words, for messages."""
    telling: tuple[str, ...]
    """Parts of tensor names; a file of this source has all of them."""

    def load(self) -> Importer:
        """Import the importer's module and return its function."""
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
"""All sources by the name that a user gives; files with two models come before those with one."""


def import_checkpoint(path: str | os.PathLike[str], source: str, config: Mapping[str, Any] | None = None) -> nn.Module:
    """Import a published model from its file: in eval mode, frozen, fp32, on the CPU.

    Autoencoders have ``encode(images) -> int64 ids [B, h, w]`` and ``decode(ids) -> images`` in the value range of
    their source. Priors have ``logits(tokens [B, L], labels=None, t=None) -> [B, L, V]``. ``taming-net2net`` has an
    ``autoencoder`` and a ``prior``. ``config`` may hold ``heads``, ``grid`` [h, w] in tokens, ``resolution`` in pixels
    and ``attn_resolutions``, if the source uses them. To train further, call ``requires_grad_(True)``.

    Raises UsageError, with the file's name first, for an unknown source or config key, for a file that is missing,
    damaged or holds more than weights, and for tensors that are unknown, missing or of another shape.
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
    """The source that a file belongs to by its tensors' names, or None."""
    return next((name for name in SOURCES if _tells(state, name)), None)


def _tells(state: Mapping[str, Tensor], source: str) -> bool:
    return all(any(part in key for key in state) for part in SOURCES[source].telling)


def _hint(state: Mapping[str, Tensor], source: str, message: str) -> str:
    """A hint for an error message: the source that the file looks like, unless ``message`` names it already."""
    other = None if _tells(state, source) else recognised(state)
    if other is None or other in message:
        return ""
    return f". It looks like {SOURCES[other].holds}: try the source {other}"


__all__ = ["SOURCES", "Source", "import_checkpoint", "recognised"]
