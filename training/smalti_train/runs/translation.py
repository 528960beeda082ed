"""Starting a prior over an autoencoder's tokens from a prior over another one's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import smalti
from smalti.errors import UsageError
from smalti_train.data.config import open_split
from smalti_train.data.pixels import to_images
from smalti_train.data.tensors import from_numpy
from smalti_train.models.vocabulary import common_patches, translated
from smalti_train.runs.bundle_weights import initial_weights
from smalti_train.runs.config import PriorRun
from smalti_train.runs.config_files import read_run
from smalti_train.runs.loading import load_autoencoder
from smalti_train.runs.token_cache import find_autoencoder

PICTURES = 2048
"""Training pictures that both autoencoders encode, to count which codes fall on the same patches."""
BATCH = 32

Encode = Callable[[NDArray[np.uint8]], NDArray[np.integer[Any]]]
"""From pixels uint8 [N, H, W, 3] to tokens [N, h, w]."""


def initial_prior(source: str | Path, config: PriorRun, autoencoder: Path | None) -> dict[str, Tensor]:
    """Weights for a new prior of ``config`` from the run or bundle ``source``.

    Where that one's prior has another number of codes, its weights are carried over to the codes of the run
    ``autoencoder``; see ``smalti_train.models.vocabulary``. Raises UsageError where the priors differ in more than
    their codes, and where the autoencoders' grids differ.
    """
    if (Path(source) / "config.json").exists():
        codes = read_run(Path(source) / "config.json").model.codes
    else:
        codes = smalti.open_bundle(source).manifest.latent.codes
    if codes == config.model.codes or autoencoder is None:
        return initial_weights(source, config)
    state = initial_weights(source, dataclasses.replace(config, model=dataclasses.replace(config.model, codes=codes)))
    pixels = open_split(config.data, "train").images[:PICTURES]
    old, new = (_all(encode, pixels) for encode in (_encoder_of_prior(source), _encoder(autoencoder)))
    if old.shape != new.shape:
        raise UsageError(
            f"the tokens of {source} lie on {old.shape[1]}x{old.shape[2]}, those of {autoencoder} on "
            f"{new.shape[1]}x{new.shape[2]}: weights are carried over between equal grids alone; leave --init out"
        )
    return translated(state, common_patches(old, new, codes, config.model.codes), type(config.model))


def _encoder_of_prior(source: str | Path) -> Encode:
    if (Path(source) / "config.json").exists():
        return _encoder(Path(source))
    generator = smalti.load(source, provider="cpu", precision="fp32")
    return lambda pixels: generator.encode(list(pixels))


def _encoder(run: Path) -> Encode:
    """The encoder of an autoencoder's run, or of the copy in a prior's run."""
    copied = (run / "autoencoder").exists()
    codec, _ = find_autoencoder(run, None) if copied else load_autoencoder(run)
    return lambda pixels: codec.encode(to_images(pixels, torch.device("cpu"), codec.config.value_range)).numpy()


@torch.no_grad()
def _all(encode: Encode, pixels: NDArray[np.uint8]) -> Tensor:
    parts = [encode(pixels[first : first + BATCH]).astype(np.int64) for first in range(0, len(pixels), BATCH)]
    return from_numpy(np.concatenate(parts))
