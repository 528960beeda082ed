"""Importer for files with an autoencoder and its prior: taming's Net2NetTransformer (Esser et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from smalti.errors import UsageError
from smalti_train.importers.autoencoders import FIRST_STAGE, import_taming
from smalti_train.importers.fitting import checked_config
from smalti_train.importers.priors import import_net2net_transformer
from smalti_train.importers.reading import some, split_off
from smalti_train.models.vqgan import VQGAN

PRIOR = "transformer."
CONDITION = "cond_stage_model."
"""Prefix of the network that turns conditions into tokens. Classes and positions need none; others are unsupported."""
AUTOENCODER_KEYS = ("resolution", "attn_resolutions")
PRIOR_KEYS = ("heads", "grid")


class ImportedModels(nn.Module):
    """An autoencoder and the prior over its tokens."""

    def __init__(self, autoencoder: VQGAN, prior: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        """Images to tokens and back."""
        self.prior = prior
        """Tokens to logits."""


def import_taming_net2net(state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> ImportedModels:
    """Import taming's transformer with its autoencoder, with either quantiser.

    ``config`` may hold ``heads``, ``grid``, ``resolution`` and ``attn_resolutions``. Raises UsageError for what does
    not fit.
    """
    known = checked_config(config, (*PRIOR_KEYS, *AUTOENCODER_KEYS))
    for prefix, part in ((FIRST_STAGE, "autoencoder"), (PRIOR, "prior")):
        if not any(name.startswith(prefix) for name in state):
            raise UsageError(f"has nothing below {prefix}, where taming's files of both models have the {part}")
    if foreign := [name for name in state if not name.startswith((FIRST_STAGE, PRIOR, CONDITION))]:
        raise UsageError(
            f"read as taming-net2net, it has the unknown {some(foreign)}; its models stand below {FIRST_STAGE} and "
            f"{PRIOR}"
        )
    about_images = {key: known[key] for key in AUTOENCODER_KEYS if key in known}
    autoencoder = import_taming(split_off(state, FIRST_STAGE), about_images)
    about_tokens = {key: known[key] for key in PRIOR_KEYS if key in known}
    if "resolution" in known and "grid" not in known:
        about_tokens["grid"] = autoencoder.config.grid
    return ImportedModels(autoencoder, import_net2net_transformer(split_off(state, PRIOR), about_tokens))
