"""From a prior's run to a bundle: trace, pack, quantise, measure, and only then write."""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from smalti import manifest
from smalti.backend import OnnxSession, default_threads
from smalti.bundle import MANIFEST, Bundle
from smalti.errors import OutputError, ParityError, UsageError
from smalti.manifest import Component, FileRecord, Manifest, Measure, Precision, Role, SamplerDefaults, Variant
from smalti_export.graphs import GraphSpec, graph_specs, trace, wrap
from smalti_export.parity import (
    TOLERANCES,
    Drawing,
    Reference,
    compare_decoders,
    compare_denoisers,
    compare_encoders,
    missed,
    torch_run,
)
from smalti_export.quantize import Feed, masked_feeds, quantize
from smalti_export.weights import externalise, name_by_content, pack, round_to_fp16
from smalti_train.config import AutoencoderRun, PriorRun
from smalti_train.data import ImageSet
from smalti_train.loop import open_split
from smalti_train.models.edge_autoencoder import EdgeAutoencoder
from smalti_train.models.hourglass_prior import HourglassPrior
from smalti_train.released import folded
from smalti_train.tokens import load_autoencoder
from smalti_train.train_prior import load_prior

QUANTIZED: tuple[Role, ...] = ("denoiser", "decoder")
"""Components with an int8 variant. An encoder's int8 tokens differ from the model's in a third of all places."""

CALIBRATION_BATCH = 16
CALIBRATION_BATCHES = 16
"""Batches of unseen images: scales come from the first half, figures from the second (some 16,000 draws at 16x16)."""


@dataclass(frozen=True)
class Pair:
    """A trained autoencoder and the prior over its tokens."""

    autoencoder: EdgeAutoencoder
    autoencoder_run: AutoencoderRun
    prior: HourglassPrior
    prior_run: PriorRun
    steps: tuple[int, int]
    """Training steps of the two."""


@dataclass
class Draft:
    """The files and records of a bundle before it is written."""

    files: dict[str, bytes]
    components: dict[Role, Component]
    weights: list[FileRecord]
    measures: list[Measure]
    failures: list[str]


def load_pair(run: Path, decoder_from: Path | None = None) -> Pair:
    """Load a prior's run and its own copy of the autoencoder, or one whose decoder alone was trained further.

    Raises UsageError when one is missing, or when ``decoder_from`` makes other tokens than the prior has learnt.
    """
    prior, prior_run = load_prior(run)
    autoencoder, autoencoder_run = load_autoencoder(run / "autoencoder")
    if decoder_from is not None:
        other, autoencoder_run = load_autoencoder(decoder_from)
        for part in ("encoder", "quantizer"):
            ours, theirs = (getattr(model, part).state_dict() for model in (autoencoder, other))
            if ours.keys() != theirs.keys() or not all(torch.equal(ours[key], theirs[key]) for key in ours):
                raise UsageError(
                    f"{decoder_from} has another {part} than the prior of {run} was trained with, so its tokens mean "
                    "something else. Train the decoder alone: smalti train autoencoder --decoder-only --init "
                    f"{run / 'autoencoder'}"
                )
        autoencoder = other
    steps = (autoencoder_run.loop.steps, _newest_step(run))
    return Pair(autoencoder, autoencoder_run, prior, prior_run, steps)


def _newest_step(run: Path) -> int:
    return int(sorted(run.glob("checkpoint-*"))[-1].name.removeprefix("checkpoint-"))


def export_bundle(
    run: Path,
    output: Path,
    *,
    name: str | None = None,
    defaults: SamplerDefaults | None = None,
    decoder_from: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Write the bundle of a prior's run to the folder ``output``, and return what missed its tolerance.

    Every variant is run by the runtime and compared with the torch model; one that misses its tolerance is left out and
    named in the returned list (empty when all is well). When an fp32 graph misses, nothing is written: ParityError.
    ``decoder_from`` is the run of an autoencoder whose decoder was trained further (see :func:`load_pair`).
    ``output`` must not exist, unless it is a bundle, which is replaced as a whole. Raises UsageError for a run that
    cannot be exported or an output that is something else, OutputError when writing fails.
    """
    if output.exists() and not (output / MANIFEST).is_file():
        raise UsageError(f"{output} exists and is not a bundle; name a folder that does not exist yet")
    pair = load_pair(run, decoder_from)
    config = pair.prior_run
    defaults = defaults or SamplerDefaults(steps=16, temperature=1.0)
    validation = open_split(config.data, "validation")
    draft = _draft(pair, validation, defaults, say)
    record = Manifest(
        schema_version=manifest.SCHEMA_VERSION,
        name=name or config.preset,
        family="absorbing",
        licence="Apache-2.0",
        data_licences=tuple(
            manifest.LicenceRecord(**{key: getattr(item, key) for key in manifest.LicenceRecord.__struct_fields__})
            for item in validation.licences
        ),
        provenance=_provenance(pair),
        latent=manifest.Latent(
            grid=config.model.grid,
            codes=config.model.codes,
            factor=pair.autoencoder_run.model.factor,
            halo=pair.autoencoder_run.model.halo,
        ),
        classes=validation.label_names if config.model.classes else (),
        sampler=defaults,
        components=draft.components,
        weights=tuple(draft.weights),
        certificate=tuple(draft.measures),
    )
    _write(output, {**draft.files, MANIFEST: manifest.encode(record)})
    return draft.failures


def _draft(pair: Pair, validation: ImageSet, defaults: SamplerDefaults, say: Callable[[str], None]) -> Draft:
    config = pair.prior_run.model
    specs = graph_specs(pair.autoencoder_run.model.factor, config.codes, config.grid[0] * config.grid[1])
    released, norms = folded(pair.autoencoder)
    prior = copy.deepcopy(pair.prior)
    round_to_fp16(released)
    round_to_fp16(prior)
    feeds = _feeds(pair, validation)
    draft = Draft({}, {}, [], [], [])
    models: dict[Role, nn.Module] = {"encoder": released, "decoder": released, "denoiser": prior}
    originals: dict[Role, nn.Module] = {"encoder": folded(pair.autoencoder)[0], "denoiser": pair.prior}
    originals["decoder"] = originals["encoder"]

    drawing = Drawing(
        config.grid,
        config.codes,
        config.classes,
        defaults.steps,
        defaults.temperature,
        defaults.schedule,
        defaults.order,
    )
    references: dict[Role, Reference] = {}

    def measure(role: Role, bundle: Bundle, precision: Precision) -> dict[str, float]:
        session = OnnxSession(bundle, role, precision, default_threads())
        if role not in references:
            run = torch_run(wrap(role, originals[role]))  # pyright: ignore[reportArgumentType]
            # Calibration saw the first half; the figures come from the other.
            unseen = feeds[role][len(feeds[role]) // 2 :]
            references[role] = Reference(run, unseen, drawing if role == "denoiser" else None)

        def variant(inputs: Feed) -> NDArray[Any]:
            return session(inputs)[0]

        if role == "encoder":
            return compare_encoders(references[role], variant)
        if role == "decoder":
            return compare_decoders(references[role], variant)
        return compare_denoisers(references[role], variant)

    for role, model in models.items():
        say(f"{role}: tracing")
        kept = {name: value for name, value in norms.items() if name.startswith(role)}
        graphs, packed, weight_file = _graphs(role, model, specs[role], config.grid, kept)
        if role in QUANTIZED:
            say(f"{role}: calibrating int8")
            graphs["int8"] = quantize(packed, feeds[role][: len(feeds[role]) // 2])
        _add(draft, role, specs[role], graphs, weight_file, measure, say)
    return draft


def _graphs(
    role: Role, model: nn.Module, spec: GraphSpec, grid: tuple[int, int], kept: dict[str, Any]
) -> tuple[dict[Precision, onnx.ModelProto], onnx.ModelProto, tuple[str, bytes]]:
    """Trace the fp32 and the fp16 graph over one file of weights; also gives fp32 with its weights inside."""
    full = trace(role, wrap(role, model), spec, grid)  # pyright: ignore[reportArgumentType]
    half = trace(role, wrap(role, copy.deepcopy(model).half()), spec, grid)  # pyright: ignore[reportArgumentType]
    tensors = dict(model.state_dict())
    names: dict[Precision, dict[str, str]] = {
        "fp32": name_by_content(full, tensors),
        "fp16": name_by_content(half, tensors),
    }
    used = set(names["fp32"].values()) | set(names["fp16"].values())
    content, places = pack(tensors, used, kept)
    file = f"{role}.safetensors"
    graphs: dict[Precision, onnx.ModelProto] = {
        "fp32": externalise(full, names["fp32"], file, places),
        "fp16": externalise(half, names["fp16"], file, places),
    }
    return graphs, full, (file, content)


def _add(
    draft: Draft,
    role: Role,
    spec: GraphSpec,
    graphs: dict[Precision, onnx.ModelProto],
    weight_file: tuple[str, bytes],
    measure: Callable[[Role, Bundle, Precision], dict[str, float]],
    say: Callable[[str], None],
) -> None:
    """Measure each graph of a component through the runtime and add those within tolerance to the draft."""
    file, content = weight_file
    weights = _record(file, content)
    variants: list[Variant] = []
    for precision, proto in graphs.items():
        graph = proto.SerializeToString(deterministic=True)
        graph_file = f"{role}.{precision}.onnx"
        reads = () if precision == "int8" else (file,)
        variant = Variant(precision=precision, graph=_record(graph_file, graph), weights=reads, opset=_opset(proto))
        figures = measure(role, _trial(role, spec, variant, weights, {graph_file: graph, file: content}), precision)
        tolerances = TOLERANCES[role][precision]
        say(f"{role} {precision}: " + ", ".join(f"{key} {value:.5g}" for key, value in figures.items()))
        if wrong := missed(figures, tolerances):
            message = f"{role} {precision}: {'; '.join(wrong)}"
            if precision == "fp32":
                raise ParityError(f"{message}. The graph does not compute what the model does; nothing was written.")
            draft.failures.append(message)
            continue
        draft.files[graph_file] = graph
        variants.append(variant)
        draft.measures.append(
            Measure(component=role, precision=precision, provider="cpu", figures=figures, tolerances=tolerances)
        )
    draft.files[file] = content
    draft.weights.append(weights)
    draft.components[role] = Component(inputs=spec.inputs, outputs=spec.outputs, variants=tuple(variants))


def _trial(role: Role, spec: GraphSpec, variant: Variant, weights: FileRecord, files: dict[str, bytes]) -> Bundle:
    """Give a bundle in memory that holds just one variant, so that it is measured by the code that will run it."""
    component = Component(inputs=spec.inputs, outputs=spec.outputs, variants=(variant,))
    record = Manifest(
        schema_version=manifest.SCHEMA_VERSION,
        name="trial",
        family="absorbing",
        licence="",
        data_licences=(),
        provenance=manifest.Provenance(data=""),
        latent=manifest.Latent(grid=(1, 1), codes=1, factor=1, halo=0),
        classes=(),
        sampler=SamplerDefaults(steps=1, temperature=1.0),
        components={role: component},
        weights=(weights,),
        certificate=(),
    )
    return Bundle(Path("trial"), record, "", dict(files))


def _record(file: str, content: bytes) -> FileRecord:
    return FileRecord(file=file, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))


def _opset(proto: onnx.ModelProto) -> int:
    return next(item.version for item in proto.opset_import if item.domain in ("", "ai.onnx"))


def _feeds(pair: Pair, validation: ImageSet) -> dict[Role, list[Feed]]:
    """Inputs for calibration (first half) and measurement (second half): unseen images and their tokens."""
    config = pair.prior_run.model
    batch = min(CALIBRATION_BATCH, len(validation) // 2)
    if batch == 0:
        raise UsageError(f"export measures on unseen images and needs 2; the validation split has {len(validation)}")
    images = [
        validation.images[i : i + batch] for i in range(0, min(len(validation), CALIBRATION_BATCHES * batch), batch)
    ]
    images = [np.ascontiguousarray(part) for part in images if len(part) == batch]
    encode = torch_run(wrap("encoder", folded(pair.autoencoder)[0]))
    tokens = [encode({"images": part}) for part in images]
    count = len(tokens) * batch
    labels = validation.labels[:count] if config.classes else np.zeros(count, np.int32)
    grids = np.concatenate(tokens).reshape(count, -1)
    return {
        "encoder": [{"images": part} for part in images],
        "decoder": [{"tokens": part} for part in tokens],
        "denoiser": masked_feeds(grids, labels, config.mask, config.classes, len(tokens), batch),
    }


def _provenance(pair: Pair) -> manifest.Provenance:
    data, runs = pair.prior_run.data, (pair.autoencoder_run, pair.prior_run)
    packages = ("smalti", "torch", "onnx", "onnxscript", "onnxruntime")
    return manifest.Provenance(
        data=f"{data.name}, {data.size}x{data.size} pixels, train split, seed {data.seed}",
        training={
            "preset": pair.prior_run.preset,
            "autoencoder_steps": pair.steps[0],
            "autoencoder_batch": runs[0].loop.batch,
            "prior_steps": pair.steps[1],
            "prior_batch": runs[1].loop.batch,
            "prior_objective": pair.prior_run.objective,
        },
        versions={package: metadata.version(package) for package in packages},
    )


def _write(output: Path, files: dict[str, bytes]) -> None:
    """Write a folder whole: beside its place, then renamed into it."""
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    old = output.with_name(f".{output.name}.{os.getpid()}.old")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        for file, content in files.items():
            (partial / file).write_bytes(content)
        if output.exists():
            output.rename(old)
        partial.rename(output)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not output.exists():
            old.rename(output)
        raise OutputError(f"cannot write {output}: {error.strerror or error}") from error
