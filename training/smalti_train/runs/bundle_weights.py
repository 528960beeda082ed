"""Weights in the form that bundles hold: batch norms folded into convolutions, fp16, torch's names.

A bundle's ``*.safetensors`` hold a model's tensors under their names here; linear weights are transposed (``name^T``),
as graphs use them. They also hold the norms from before the folding (four numbers per channel) and the smoothing's
ranges, so that training can start from a bundle as well as from a run.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from smalti.bundle.manifest import PRIOR_ROLES, Role
from smalti.bundle.reader import Bundle, open_bundle
from smalti.errors import UsageError
from smalti_train.models.edge_autoencoder import EdgeAutoencoder
from smalti_train.models.growth import fits, grown, sizes_of
from smalti_train.models.meta_init import unfilled
from smalti_train.models.size_heads import SizedAutoencoder
from smalti_train.models.smoothing import EdgeAwareSmoothing
from smalti_train.runs.config import AutoencoderRun, CodecRun, HeadsRun, PriorRun
from smalti_train.runs.config_files import differences
from smalti_train.runs.loading import build_autoencoder, build_prior, load_autoencoder, load_heads, load_prior

CODEC = "autoencoder."
"""Where an autoencoder with heads has the autoencoder itself."""
HEADS, EMBEDDING = "heads.", "embedding."
"""Where a bundle's weights of the heads, and of the encoder's embedding, are."""
Folded = TypeVar("Folded", EdgeAutoencoder, SizedAutoencoder)
TRANSPOSED = "^T"
"""Suffix of the name of a tensor that is stored transposed."""


def folded(model: Folded) -> tuple[Folded, dict[str, Tensor]]:
    """Copy of an autoencoder with batch norms folded away and codes of unit length, and the tensors that this loses.

    These are the norms' tensors by their names in :func:`released_names`, and the smoothing's, of which a graph holds
    only the squares.
    """
    model = copy.deepcopy(model).eval()
    modules = cast("list[tuple[str, nn.Module]]", [*model.named_modules()])
    norms = {
        f"{name}.{key}": value.clone()
        for name, module in modules
        if isinstance(module, nn.BatchNorm2d)
        for key, value in module.state_dict().items()
        if key != "num_batches_tracked"
    }
    hidden = norms | {
        f"{name}.sharpness": module.sharpness.detach().clone()
        for name, module in modules
        if isinstance(module, EdgeAwareSmoothing)
    }
    for module in list(model.modules()):
        match list(module.children()):
            case [nn.Conv2d() as conv, nn.BatchNorm2d() as norm] if isinstance(module, nn.Sequential):
                module[0], module[1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
            case _:
                pass
    codebook = (model.autoencoder if isinstance(model, SizedAutoencoder) else model).quantizer.codebook
    with torch.no_grad():
        codebook.copy_(F.normalize(codebook, dim=1))
    return model, {name.removeprefix(CODEC): value for name, value in hidden.items()}


def released_names(model: nn.Module) -> dict[str, Tensor]:
    """Tensors of a model by their names in bundles: those of an autoencoder under heads are named as without heads."""
    return {name.removeprefix(CODEC): value for name, value in model.state_dict().items()}


def unfolded(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo :func:`folded`: turn a bundle's tensors into an autoencoder's state dict in fp32."""
    state = {name: value.float() for name, value in tensors.items()}
    eps = nn.BatchNorm2d(1).eps
    for name in [name for name in state if name.endswith(".running_var")]:
        norm = name.removesuffix(".running_var")
        conv = f"{norm.rsplit('.', 1)[0]}.0"
        scale = state[f"{norm}.weight"] / torch.sqrt(state[name] + eps)
        usable = scale.abs() > 1e-6  # a channel scaled to zero has lost its weights; it stays at zero
        state[f"{conv}.weight"] *= torch.where(usable, 1 / scale, 0)[:, None, None, None]
        del state[f"{conv}.bias"]  # the norm's bias - mean * scale
        state[f"{norm}.num_batches_tracked"] = torch.tensor(0)
    return state


def initial_weights(source: str | Path, config: CodecRun | PriorRun) -> dict[str, Tensor]:
    """Weights to start a new run of ``config`` from: another run's newest checkpoint, or a bundle's.

    An edge autoencoder may have fewer residual blocks or codes than ``config`` (``smalti_train.models.growth``).
    Raises UsageError for weights of another kind or size than ``config`` asks for, saying what differs.
    """
    folder = Path(source)
    if (folder / "config.json").exists():
        model, other = load_prior(folder) if isinstance(config, PriorRun) else load_autoencoder(folder)
        if (
            isinstance(model, EdgeAutoencoder)
            and isinstance(config, AutoencoderRun)
            and fits(model.config, config.model)
        ):
            return grown(model, config.model)
        if changed := differences(other.model, config.model, "model."):
            raise UsageError(f"the weights of {source} do not fit this preset ({'; '.join(changed)})")
        return model.state_dict()
    bundle = open_bundle(source)
    if isinstance(config, PriorRun):
        tensors = _stored(bundle, PRIOR_ROLES[bundle.manifest.family])
        state = {name: value.float() for name, value in tensors.items()}
        with unfilled():
            _check_shapes(state, build_prior(config.model), source)
        return state
    tensors = _stored(bundle, "encoder", "decoder")
    if isinstance(config, AutoencoderRun):
        state = unfolded({name: value for name, value in tensors.items() if not name.startswith((HEADS, EMBEDDING))})
        sizes = sizes_of(state)
        if sizes != dataclasses.replace(config.model, smoothing=sizes.smoothing) and fits(sizes, config.model):
            smaller = EdgeAutoencoder(sizes)
            smaller.load_state_dict(state)
            return grown(smaller, config.model)
    else:
        state = {name: value.float() for name, value in tensors.items()}
    with unfilled():
        _check_shapes(state, build_autoencoder(config.model), source)
    return state


def initial_heads(source: str | Path, config: HeadsRun) -> dict[str, Tensor]:
    """Weights of an autoencoder with heads to start a new run from: another run's newest checkpoint, or a bundle's.

    Raises UsageError for weights of another kind or size than ``config`` asks for, saying what differs.
    """
    if (Path(source) / "config.json").exists():
        model, other = load_heads(Path(source))
        if changed := differences(other.model, config.model, "model."):
            raise UsageError(f"the weights of {source} do not fit these heads ({'; '.join(changed)})")
        return model.state_dict()
    tensors = _stored(open_bundle(source), "encoder", "decoder")
    state = unfolded({name: value for name, value in tensors.items() if not name.startswith(EMBEDDING)})
    state = {name if name.startswith(HEADS) else CODEC + name: value for name, value in state.items()}
    with unfilled():
        _check_shapes(state, SizedAutoencoder(config.model), source)
    return state


def _stored(bundle: Bundle, *roles: Role) -> dict[str, Tensor]:
    """A bundle's tensors of components, as they are stored. Decoders of more sizes are read with the first."""
    stored: dict[str, Tensor] = {}
    for role in roles:
        for file in bundle.variant(role, "fp32").weights:
            stored |= load(bundle.read(file))
    return {
        name.removesuffix(TRANSPOSED): value.T.contiguous() if name.endswith(TRANSPOSED) else value
        for name, value in stored.items()
    }


def _check_shapes(state: dict[str, Tensor], model: nn.Module, source: str | Path) -> None:
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        examples = "; ".join(
            f"{name}: {found.get(name, 'absent')}, not {expected.get(name, 'there')}" for name in wrong[:3]
        )
        raise UsageError(f"the weights of {source} do not fit this preset: {len(wrong)} tensors differ ({examples})")
