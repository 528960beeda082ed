"""The model under evaluation, behind one interface: a bundle in the runtime, or a run's torch models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import smalti
from smalti.errors import UsageError
from smalti.families.absorbing.sampler import Denoiser
from smalti.families.base import COMMON_OPTIONS, Settings
from smalti.families.registry import OWN_OPTIONS
from smalti.families.settings import Options, chosen_options, resolve
from smalti_train.data import ImageSet, open_dataset
from smalti_train.data.config import open_split
from smalti_train.data.pixels import to_images, to_pixels
from smalti_train.data.tensors import from_numpy
from smalti_train.evaluation.likelihood import diffusion_bits, exact_bits, nll_bits
from smalti_train.objectives.absorbing import autoregressive_loss, bits_per_dim
from smalti_train.runs.config import PriorRun
from smalti_train.runs.config_files import read_run
from smalti_train.runs.loading import (
    AbsorbingPrior,
    Autoencoder,
    AutoregressivePrior,
    MultinomialPrior,
    SundaePrior,
    load_autoencoder,
    load_prior,
)
from smalti_train.runs.torch_sampling import TorchPrior, described, draw_tokens, torch_denoiser, torch_denoisers

Int32 = NDArray[np.int32]
Pixels = NDArray[np.uint8]
BATCH = 16
SETTINGS = tuple(name for name in (*COMMON_OPTIONS, *OWN_OPTIONS) if name not in ("resolution", "size", "stride"))
"""Options of a draw that an evaluation may choose: samples have the size of the images."""


@dataclass(frozen=True)
class Subject:
    """A model under evaluation. Pixels are uint8 [N, H, W, 3], tokens int32 [N, h, w]."""

    name: str
    kind: str
    """``bundle``, ``prior run`` or ``autoencoder run``."""
    settings: dict[str, Any]
    """Settings of sampling; empty if nothing is drawn."""
    size: int
    """Pixels per side."""
    codes: int
    classes: tuple[str, ...]
    encode: Callable[[Pixels], Int32]
    decode: Callable[[Int32], Pixels]
    draw: Callable[[Sequence[int], Sequence[str | None]], Int32] | None = None
    """Draws tokens, one grid for each seed and label."""
    bits: Callable[[Int32, Int32], float] | None = None
    """Negative log-likelihood of grids int32 [N, L] under label indices int32 [N], in bits per token.

    Exact for autoregressive priors, otherwise a bound; None for priors without a bound (SUNDAE).
    """


def open_subject(source: str, *, precision: str = "auto", **options: Any) -> Subject:
    """Open a run's folder, or else a bundle by path or name.

    ``options`` set how samples are drawn, by the names in ``SETTINGS``, with the meanings of
    :class:`smalti.families.settings.Options`. Options left out or None are the bundle's defaults; for a run, 16 even
    steps in random order at temperature 1 (falling to 0.7 in a SUNDAE run).

    Raises UsageError for an option that does not exist or does not suit the prior.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if foreign := sorted(given.keys() - set(SETTINGS)):
        raise UsageError(f"{foreign[0]}: no such option; samples are drawn with {', '.join(SETTINGS)}")
    if not (Path(source) / "config.json").exists():
        return _bundle(source, given, precision)
    if precision != "auto":
        raise UsageError(f"precision {precision!r}: only a bundle comes in several; leave it out for a run")
    config = read_run(Path(source) / "config.json")
    if isinstance(config, PriorRun):
        return _prior_run(Path(source), given)
    return _autoencoder_run(Path(source))


def _bundle(source: str, options: dict[str, Any], precision: str) -> Subject:
    generator = smalti.load(source, precision=precision)
    manifest = generator.manifest
    rows, _ = manifest.latent.grid

    def draw_tokens(seeds: Sequence[int], labels: Sequence[str | None]) -> Int32:
        *_, last = generator.stream(seeds=seeds, label=labels, **options)
        return last.tokens

    def bits(tokens: Int32, labels: Int32) -> float:
        if manifest.noise is not None:
            return diffusion_bits(at, tokens, labels, manifest.latent.codes, manifest.noise)
        if manifest.family == "autoregressive":
            return exact_bits(generator.next_logits(), tokens, labels)
        return nll_bits(generator.logits, tokens, labels, manifest.latent.codes)

    def at(time: int) -> Denoiser:
        return partial(generator.logits, time=time)

    used = resolve(manifest, 1, 0, Options(**options))
    return Subject(
        name=manifest.name,
        kind="bundle",
        settings={**_shown(used), "precision": dict(generator.report.precision)},
        size=rows * manifest.latent.factor,
        codes=manifest.latent.codes,
        classes=manifest.classes,
        encode=lambda pixels: _batched(generator.encode, pixels),
        decode=lambda tokens: np.stack([np.asarray(image) for image in generator.decode(tokens)]),
        draw=draw_tokens,
        bits=None if manifest.family == "sundae" else bits,
    )


def _shown(settings: Settings) -> dict[str, Any]:
    """The settings that mean something to these samples."""
    values = chosen_options(settings)
    return {name: values[name] for name in SETTINGS if values[name] is not None}


def _autoencoder_run(path: Path) -> Subject:
    model, config = load_autoencoder(path)
    return _with_autoencoder(path.name, "autoencoder run", model, config.data.size, ())


def _with_autoencoder(
    name: str, kind: str, model: Autoencoder, size: int, classes: tuple[str, ...], **rest: Any
) -> Subject:
    value_range = model.config.value_range

    @torch.no_grad()
    def encode(pixels: Pixels) -> Int32:
        return _batched(lambda part: model.encode(to_images(part, value_range=value_range)).int().numpy(), pixels)

    @torch.no_grad()
    def decode(tokens: Int32) -> Pixels:
        return _batched(lambda part: to_pixels(model.decode(from_numpy(part.astype(np.int64))), value_range), tokens)

    rest = {"settings": {}, **rest}
    return Subject(
        name=name, kind=kind, size=size, codes=model.config.codes, classes=classes, encode=encode, decode=decode, **rest
    )


def _prior_run(path: Path, options: dict[str, Any]) -> Subject:
    prior, config = load_prior(path)
    model, _ = load_autoencoder(path / "autoencoder")
    classes: tuple[str, ...] = ()
    if prior.config.classes:
        origin = config.imported
        classes = origin.classes if origin else open_split(config.data, "validation").label_names
    manifest = described(path.name, prior.config, model.config.factor, classes)

    def some(seeds: Sequence[int], labels: Sequence[str | None]) -> Int32:
        return draw_tokens(TorchPrior(prior), manifest, seeds, labels, **options)

    def drawn(seeds: Sequence[int], labels: Sequence[str | None]) -> Int32:
        parts = range(0, len(seeds), BATCH)
        return np.concatenate([some(seeds[i : i + BATCH], labels[i : i + BATCH]) for i in parts])

    @torch.no_grad()
    def bits(tokens: Int32, labels: Int32) -> float:
        if isinstance(prior, AbsorbingPrior):
            return nll_bits(torch_denoiser(prior), tokens, labels, prior.config.codes)
        if isinstance(prior, MultinomialPrior):
            assert manifest.noise is not None
            return diffusion_bits(torch_denoisers(prior), tokens, labels, prior.config.codes, manifest.noise)
        assert isinstance(prior, AutoregressivePrior)
        grids, known = (from_numpy(part.astype(np.int64)) for part in (tokens, labels))
        parts = zip(torch.split(grids, BATCH), torch.split(known, BATCH))
        return bits_per_dim(torch.cat([autoregressive_loss(prior(part[:, :-1], label), part) for part, label in parts]))

    return _with_autoencoder(
        path.name,
        "prior run",
        model,
        config.data.size,
        classes,
        settings=_shown(resolve(manifest, 1, 0, Options(**options), draw_labels=False)),
        draw=drawn,
        bits=None if isinstance(prior, SundaePrior) else bits,
    )


def data_of(name: str, size: int, count: int | None, root: str | None, split: str = "test") -> ImageSet:
    """Open images to evaluate on."""
    return open_dataset(name, size=size, split=split, count=count, root=None if root is None else Path(root))


def _batched(function: Callable[[Any], Any], items: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([np.asarray(function(items[i : i + BATCH])) for i in range(0, len(items), BATCH)])
