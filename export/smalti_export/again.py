"""Export a bundle again from its own weights, after the code of graphs, scales or certificates has changed.

Weights of a bundle are whole: rounded as its graphs read them, with what training needs beside them. So a bundle whose
runs are gone can be made anew, and its weights stay what they were.
"""

from __future__ import annotations

import dataclasses
from typing import cast

from safetensors.torch import load
from torch import Tensor

from smalti.bundle.manifest import Role
from smalti.bundle.reader import Bundle
from smalti.errors import UsageError
from smalti_export.embedding import Embedding
from smalti_export.source import Pair
from smalti_train.models.edge_autoencoder import EdgeAutoencoder
from smalti_train.models.preview_decoder import PreviewDecoder
from smalti_train.models.size_heads import SizedAutoencoder
from smalti_train.presets.catalogue import AUTOENCODERS, HEADS, PRIORS
from smalti_train.runs.bundle_weights import EMBEDDING, initial_heads, initial_weights
from smalti_train.runs.config import AutoencoderRun
from smalti_train.runs.loading import build_autoencoder, build_prior
from smalti_train.trainers.preview import preview_run


def pair_of(bundle: Bundle) -> Pair:
    """Load the models of a bundle that was trained by a preset of smalti, from the weights that it holds.

    Raises UsageError for a bundle that no preset of an edge autoencoder made, or whose weights fit its preset no more.
    """
    made = bundle.manifest.provenance.training
    preset, place = str(made.get("preset")), str(bundle.path)
    run = AUTOENCODERS.get(preset)
    if preset not in PRIORS or not isinstance(run, AutoencoderRun):
        raise UsageError(
            f"{place} was made by {preset!r}, which is no preset of an autoencoder and a prior trained here; export it "
            "from its run"
        )
    run = dataclasses.replace(run, loop=dataclasses.replace(run.loop, batch=int(made["autoencoder_batch"])))
    prior_run = dataclasses.replace(
        PRIORS[preset], loop=dataclasses.replace(PRIORS[preset].loop, batch=int(made["prior_batch"]))
    )
    prior = build_prior(prior_run.model)
    prior.load_state_dict(initial_weights(place, prior_run))
    heads: SizedAutoencoder | None = None
    if len(bundle.manifest.all_resolutions) > 1:
        config = HEADS[preset]
        heads = SizedAutoencoder(config.model)
        heads.load_state_dict(initial_heads(place, config))
        autoencoder = heads.eval().autoencoder
        run = dataclasses.replace(run, model=config.model.autoencoder)
    else:
        autoencoder = cast(EdgeAutoencoder, build_autoencoder(run.model))
        autoencoder.load_state_dict(initial_weights(place, run))
    return Pair(
        autoencoder=autoencoder.eval(),
        autoencoder_run=run,
        prior=prior.eval(),
        prior_run=prior_run,
        steps=(int(made["autoencoder_steps"]), int(made["prior_steps"])),
        heads=heads,
        embedding=_embedding(bundle),
        preview=_preview(bundle, autoencoder.eval(), run),
        preview_steps=int(made.get("preview_steps", 0)),
        codebook=autoencoder.quantizer.codebook.detach().clone(),
    )


def _embedding(bundle: Bundle) -> Embedding | None:
    stored = _tensors(bundle, "encoder")
    names = [f"{EMBEDDING}{part}" for part in ("centre", "projection")]
    if not all(name in stored for name in names):
        return None
    return Embedding(*(stored[name].float() for name in names))


def _preview(bundle: Bundle, autoencoder: EdgeAutoencoder, run: AutoencoderRun) -> PreviewDecoder | None:
    if "preview" not in bundle.manifest.components:
        return None
    model, stored = PreviewDecoder(preview_run(autoencoder, run).model), _tensors(bundle, "preview")
    state = {name: stored[name].float() for name in model.state_dict() if name in stored}
    if any(name not in state or state[name].shape != value.shape for name, value in model.state_dict().items()):
        raise UsageError(f"{bundle.path}: its preview decoder is none of preset {run.preset}; export it from its run")
    model.load_state_dict(state)
    return model.eval()


def _tensors(bundle: Bundle, role: Role) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in bundle.variant(role, "fp32").weights:
        found |= load(bundle.read(file))
    return found
