"""Bundles of published recipes at full size with random weights, for timing alone, and torch models of the same.

Graphs are made by the export's own steps, but there is no certificate: smalti refuses to open such a folder by its
path, and only :func:`read` opens it. ``bench/speed/published.py`` certifies the same recipes.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import torch
from published import even_out, move, spread_out
from safetensors.torch import load_file, save_file
from torch import nn

from smalti.bundle import manifest_file
from smalti.bundle.manifest import (
    Component,
    FileRecord,
    Manifest,
    Precision,
    Role,
    SamplerDefaults,
    Variant,
    own_resolution,
)
from smalti.bundle.reader import MANIFEST
from smalti_export.builder import _traced as traced  # what make_draft does before it measures
from smalti_export.graphs.graph_modules import Traceable
from smalti_export.graphs.trace import graph_specs
from smalti_export.graphs.weights import round_to_fp16
from smalti_export.parity.denoisers import denoiser_feeds
from smalti_export.precision.activation_ranges import Feed
from smalti_export.precision.attempts import Part, attempts
from smalti_train.models.meta_init import unfilled
from smalti_train.presets.catalogue import AUTOENCODERS, PRIORS
from smalti_train.runs.loading import build_autoencoder, build_prior
from smalti_train.runs.torch_sampling import described
from torch_way.models import Models

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
FEEDS = 2
"""Batches, of one grid each, that calibrate int8: random weights give no values worth more."""
CALIBRATED = 16
"""Tokens per side of the canvases that calibrate a decoder."""


def build(recipe: str, work: Path, say: Callable[[str], None] = print) -> Path:
    """Make a recipe's folder in ``work`` unless it is there; return it. It holds graphs, manifest and torch weights."""
    folder = work / recipe
    if (folder / MANIFEST).exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    run = PRIORS[recipe]
    codec, prior = build_autoencoder(AUTOENCODERS[recipe].model).eval(), build_prior(run.model).eval()
    for model in (codec, prior):
        move(model)
    even_out(codec)
    spread_out(prior, run)
    classes = tuple(map(str, range(run.model.classes)))
    record = described(recipe, run.model, codec.config.factor, classes)
    steps = run.model.steps if record.noise else 50
    defaults = SamplerDefaults(steps=steps, temperature=1.0, final_temperature=1.0, min_steps=0)
    record = msgspec.structs.replace(record, sampler=defaults, resolutions=(own_resolution(record.latent),))
    parts: list[Part] = []
    for name, role, model in (("codec", "decoder", codec), ("prior", "denoiser", prior)):
        round_to_fp16(model)
        state = {key: value.contiguous() for key, value in model.state_dict().items()}
        save_file(state, folder / f"{name}.pt.safetensors")  # fp32, so that torch maps it and needs no second copy
        parts += _parts(role, model, record, recipe, say)
    feeds = {"decoder": decoder_feeds(record), "denoiser": prior_feeds(record)}
    components: dict[Role, Component] = {}
    weights: list[FileRecord] = []
    for part in parts:
        weights.append(_written(folder, *part.weight_file))
        variants: list[Variant] = []
        for precision in PRECISIONS:
            proto = next(attempts(part, precision, feeds[part.role], say))
            graph = _written(folder, f"{part.role}.{precision}.onnx", proto.SerializeToString(deterministic=True))
            opset = next(item.version for item in proto.opset_import if item.domain in ("", "ai.onnx"))
            reads = () if precision == "int8" else (part.weight_file[0],)
            variants.append(Variant(precision=precision, graph=graph, weights=reads, opset=opset))
        components[part.role] = Component(inputs=part.spec.inputs, outputs=part.spec.outputs, variants=tuple(variants))
    record = msgspec.structs.replace(record, components=components, weights=tuple(weights))
    (folder / MANIFEST).write_bytes(manifest_file.encode(record))  # last: with it the folder is whole
    return folder


def _parts(role: Role, model: Traceable, record: Manifest, recipe: str, say: Callable[[str], None]) -> list[Part]:
    spec = graph_specs(record.latent.factor, PRIORS[recipe].model)[role]
    return traced(model, {role: (1, spec)}, {}, PRECISIONS, say)


def prior_feeds(record: Manifest) -> list[Feed]:
    """Random grids as in sampling, one to a batch."""
    latent, generator = record.latent, np.random.default_rng(0)
    grids = generator.integers(latent.codes, size=(2 * FEEDS, latent.grid[0] * latent.grid[1]))
    labels, none = np.zeros(len(grids), np.int32), len(record.classes)
    masks = record.family == "absorbing"
    return denoiser_feeds(grids, labels, latent.codes, none, FEEDS, 1, masks=masks, noise=record.noise)


def decoder_feeds(record: Manifest) -> list[Feed]:
    """Random tokens on small canvases: scales need no more, and a decoder's memory grows with its canvas."""
    generator, sides = np.random.default_rng(0), (min(side, CALIBRATED) for side in record.latent.grid)
    shape = (1, *sides)
    return [{"tokens": generator.integers(record.latent.codes, size=shape).astype(np.int32)} for _ in range(FEEDS)]


def _written(folder: Path, file: str, content: bytes) -> FileRecord:
    (folder / file).write_bytes(content)
    return FileRecord(file=file, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))


def torch_models(folder: Path, *, prior: bool = True) -> Models:
    """The torch models, fp32, of a folder that :func:`build` made; without ``prior`` that one stays empty."""
    recipe = folder.name
    with unfilled():
        models = build_prior(PRIORS[recipe].model), build_autoencoder(AUTOENCODERS[recipe].model)
    for name, model in zip(("prior", "codec"), models):
        if prior or name == "codec":
            _filled(model, folder / f"{name}.pt.safetensors")
    return Models(*models)


def _filled(model: nn.Module, file: Path) -> None:
    model.load_state_dict(load_file(file), assign=True)
    model.eval()
