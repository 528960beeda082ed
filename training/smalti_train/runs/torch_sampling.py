"""Samples of torch priors, drawn by the runtime's own samplers; priors as the callables that those ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from smalti.bundle.manifest import SCHEMA_VERSION, Latent, Manifest, Provenance, SamplerDefaults
from smalti.errors import UsageError
from smalti.families.absorbing.sampler import Denoiser, Logits
from smalti.families.autoregressive.past import reading_once
from smalti.families.autoregressive.sampler import NextLogits
from smalti.families.base import Prior as FamilyPrior
from smalti.families.multinomial.sampler import AtTime
from smalti.families.registry import family_of
from smalti.families.settings import Options, resolve
from smalti_train.data.tensors import from_numpy
from smalti_train.models.autoregressive_transformer import Past
from smalti_train.runs.config import PriorConfig, family_name, noise_of
from smalti_train.runs.loading import AbsorbingPrior, AutoregressivePrior, MultinomialPrior, Prior, SundaePrior

SHEET_STEPS = 16
"""Steps of sample sheets, and of runs for which nobody chose."""
Int32 = NDArray[np.int32]


def torch_denoiser(model: AbsorbingPrior | SundaePrior, accelerator: Accelerator | None = None) -> Denoiser:
    """Let samplers ask a torch model, in eval mode.

    It computes in the accelerator's precision, or else in fp32.
    """
    model.eval()
    device = next(model.parameters()).device

    @torch.no_grad()
    def denoiser(tokens: Int32, labels: Int32, rows: Int32) -> NDArray[np.float32]:
        inputs = (from_numpy(part.astype(np.int64)).to(device) for part in (tokens, labels, rows))
        with accelerator.autocast() if accelerator else nullcontext():
            return model(*inputs).float().cpu().numpy()

    return denoiser


def torch_denoisers(model: MultinomialPrior, accelerator: Accelerator | None = None) -> AtTime:
    """Let the multinomial sampler ask a torch model, in eval mode, in the accelerator's precision or fp32."""
    model.eval()
    device = next(model.parameters()).device

    def at(time: int) -> Denoiser:
        @torch.no_grad()
        def denoiser(tokens: Int32, labels: Int32, rows: Int32) -> NDArray[np.float32]:
            inputs = (from_numpy(part.astype(np.int64)).to(device) for part in (tokens, labels, rows))
            grids, under, which = inputs
            with accelerator.autocast() if accelerator else nullcontext():
                return model(grids, under, torch.full_like(under, time), which).float().cpu().numpy()

        return denoiser

    return at


def next_logits(model: AutoregressivePrior, accelerator: Accelerator | None = None) -> NextLogits:
    """Let the autoregressive sampler ask a torch model, in eval mode, in the accelerator's precision or fp32.

    Keys and values of the tokens before are kept from call to call, as in
    :func:`smalti.families.autoregressive.past.reading_once`, so that a call costs one position and not all. The
    sampler's labels (int32 [N], or [N, C]) are the twin's labels and taming's conditioning.
    """
    model.eval()
    device = next(model.parameters()).device

    @torch.no_grad()
    def read(tokens: Int32, labels: Int32, past: Past | None) -> tuple[NDArray[np.float32], Past]:
        kept = Past() if past is None else past
        new, context = (from_numpy(part.astype(np.int64)).to(device) for part in (tokens, labels))
        with accelerator.autocast() if accelerator else nullcontext():
            logits = model(new, context, kept)[:, -1]
        return logits.float().cpu().numpy(), kept

    return reading_once(read)


class TorchPrior:
    """A torch prior as families ask it: see :class:`smalti.families.base.Prior`.

    It computes in eval mode, in the accelerator's precision or else in fp32.
    """

    def __init__(self, model: Prior, accelerator: Accelerator | None = None) -> None:
        self.model, self.accelerator = model, accelerator
        self._at: Callable[[int | None], Denoiser] | None = None
        if isinstance(model, MultinomialPrior):
            timed = torch_denoisers(model, accelerator)
            self._at = lambda time: timed(_told(time))
        elif not isinstance(model, AutoregressivePrior):
            denoiser = torch_denoiser(model, accelerator)
            self._at = lambda time: denoiser

    def logits(self, tokens: Int32, labels: Int32, rows: Int32, *, time: int | None = None) -> Logits:
        """Logits [N, R, K] at raster positions ``rows`` int32 [N, R]; UsageError for a prior of another kind."""
        if self._at is None:
            raise UsageError("this prior predicts one token after the other: use next_logits")
        return self._at(time)(tokens, labels, rows)

    def next_logits(self) -> NextLogits:
        """Return a new reader of tokens; UsageError for a prior that predicts many tokens at once."""
        if not isinstance(self.model, AutoregressivePrior):
            raise UsageError("this prior predicts many tokens at once: use logits")
        return next_logits(self.model, self.accelerator)


def _told(time: int | None) -> int:
    if time is None:
        raise UsageError("this prior takes noise away, and must be told the time")
    return time


def described(name: str, config: PriorConfig, factor: int, classes: Sequence[str]) -> Manifest:
    """Return what a bundle of a prior would say of itself, as far as it decides how samples are drawn.

    ``factor`` is the pixels per token along each axis. Without a choice there are 16 even steps in random order at
    temperature 1 (which falls to 0.7 in a SUNDAE run). Raises UsageError for a prior that does not know its grid.
    """
    if config.grid is None:
        raise UsageError(
            f"the prior of {name} does not say how many rows and columns of tokens an image has: import it again with "
            '"grid": [rows, columns] in its configuration'
        )
    noise = noise_of(config)
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=name,
        family=family_name(config),
        licence="",
        data_licences=(),
        provenance=Provenance(data=""),
        latent=Latent(grid=config.grid, codes=config.codes, factor=factor, halo=None),
        classes=tuple(classes),
        sampler=SamplerDefaults(steps=SHEET_STEPS if noise is None else min(SHEET_STEPS, noise.steps), temperature=1.0),
        components={},
        weights=(),
        certificate=(),
        noise=noise,
    )


def draw_tokens(
    prior: FamilyPrior, manifest: Manifest, seeds: Sequence[int], labels: Sequence[str | None], **options: Any
) -> Int32:
    """Draw tokens (int32 [N, h, w]) of a prior as its family does; see :func:`described` for a manifest.

    ``options`` are those of :class:`smalti.families.settings.Options`. Raises UsageError for an option that there is
    not, or that belongs to another family.
    """
    asked = cast(Options, {**options, "seeds": seeds, "label": labels})
    settings = resolve(manifest, None, 0, asked, draw_labels=False)
    start = np.full((len(seeds), *manifest.latent.grid), manifest.latent.codes, np.int32)
    tokens = start
    for tokens in family_of(manifest).lay_out(start, settings, manifest).draw(prior):  # noqa: B007 - the last counts
        pass
    return tokens
