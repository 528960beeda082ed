"""A bundle before it is written: every component traced, packed, quantised and measured by the runtime."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import onnx
from torch import Tensor, nn

from smalti.backend import OnnxSession, default_threads
from smalti.bundle import Bundle
from smalti.errors import ParityError
from smalti.golden import missed
from smalti.manifest import PRIORS, Component, FileRecord, Manifest, Measure, Precision, Role, Variant
from smalti_export import golden
from smalti_export.figures import Figures, make_figures
from smalti_export.graphs import GraphSpec, graph_specs, trace
from smalti_export.pair import Pair, released
from smalti_export.parity import TOLERANCES
from smalti_export.quantize import last_layers, quantize, too_large
from smalti_export.ranges import Feed
from smalti_export.weights import externalise, name_by_content, pack, round_to_fp16
from smalti_export.wrappers import wrap
from smalti_train.data import ImageSet
from smalti_train.released import TRANSPOSED

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
"""All that a component is written in, unless fewer are wanted."""
QUANTIZED: tuple[Role, ...] = ("denoiser", "predictor", "decoder")
"""Components with an int8 variant. An encoder's int8 tokens differ from the model's in a third of all places."""
KEPT = (0, 1, 2)
"""Last layers that an int8 variant keeps in fp32: the fewest with which it is within tolerance."""


@dataclass
class Draft:
    """The files and records of a bundle before it is written."""

    files: dict[str, bytes] = field(default_factory=dict)
    components: dict[Role, Component] = field(default_factory=dict)
    weights: list[FileRecord] = field(default_factory=list)
    measures: list[Measure] = field(default_factory=list)
    golden: FileRecord | None = None
    failures: list[str] = field(default_factory=list)
    """Variants that were left out, and why."""


@dataclass(frozen=True)
class Part:
    """A component on its way into the draft."""

    role: Role
    spec: GraphSpec
    graphs: dict[Precision, onnx.ModelProto]
    """The fp32 graph and, where wanted, the fp16 one, both over the weights beside them."""
    whole: onnx.ModelProto
    """The fp32 graph with its weights inside."""
    weight_file: tuple[str, bytes]


def make_draft(
    pair: Pair,
    images: ImageSet,
    record: Manifest,
    say: Callable[[str], None],
    precisions: Collection[Precision] = PRECISIONS,
) -> Draft:
    """Make every component in these precisions, and measure each against the torch model on unseen ``images``.

    ``record`` is what the manifest says before there are components; by it samples are drawn where runs are compared.

    Variants out of tolerance are left out and named in the draft; raises ParityError when an fp32 graph is, UsageError
    for images too few to measure on or sampling defaults that the family does not allow.
    """
    prior = copy.deepcopy(pair.prior)
    round_to_fp16(prior)
    figures = make_figures(pair, images, record)
    draft, kept = Draft(), dict[str, Tensor]()
    models: dict[Role, nn.Module] = {}
    features = 1
    if record.latent.pixels is None:
        codec, kept = released(pair.autoencoder)
        round_to_fp16(codec)
        models["encoder"] = models["decoder"] = codec
        features = pair.features
    if pair.preview is not None:
        models["preview"] = copy.deepcopy(pair.preview)
        round_to_fp16(models["preview"])
    specs = graph_specs(pair.autoencoder.config.factor, pair.prior_run.model, features)
    models[PRIORS[pair.family]] = prior
    for role, model in models.items():
        say(f"{role}: tracing")
        own = {name: value for name, value in kept.items() if name.startswith(role)}
        part = _traced(role, model, specs[role], own, "fp16" in precisions)
        _add(draft, record, part, [one for one in _possible(role) if one in precisions], figures, say)
    content = golden.golden_file(figures, record)
    draft.files[golden.FILE], draft.golden = content, _record(golden.FILE, content)
    return draft


def _possible(role: Role) -> tuple[Precision, ...]:
    return PRECISIONS if role in QUANTIZED else ("fp32", "fp16")


def _traced(role: Role, model: nn.Module, spec: GraphSpec, kept: dict[str, Tensor], halves: bool) -> Part:
    """Trace the fp32 graph, and the fp16 one for ``halves``, over one file, in which a codec's ``kept`` stand too."""
    traced: dict[Precision, onnx.ModelProto] = {}
    traced["fp32"] = full = trace(role, wrap(role, model), spec)  # pyright: ignore[reportArgumentType] - one of ours
    if halves:
        half = copy.deepcopy(model).half()
        traced["fp16"] = trace(role, wrap(role, half), spec)  # pyright: ignore[reportArgumentType]
    tensors = dict(model.state_dict())
    names = {precision: name_by_content(graph, tensors) for precision, graph in traced.items()}
    used = {name for found in names.values() for name in found.values()}
    if role in PRIORS.values():  # of a prior all is stored, what its graphs have worked out ahead as well
        shown = {name.removesuffix(TRANSPOSED) for name in used}
        kept = {name: value.half() for name, value in tensors.items() if name not in shown}
    content, places = pack(tensors, used, kept)
    file = f"{role}.safetensors"
    graphs: dict[Precision, onnx.ModelProto] = {
        precision: externalise(graph, names[precision], file, places) for precision, graph in traced.items()
    }
    return Part(role, spec, graphs, full, (file, content))


def _add(
    draft: Draft,
    record: Manifest,
    part: Part,
    precisions: Sequence[Precision],
    figures: Figures,
    say: Callable[[str], None],
) -> None:
    """Measure each variant of a component through the runtime and add those within tolerance to the draft."""
    role, (file, content) = part.role, part.weight_file
    weights = _record(file, content)
    variants: list[Variant] = []
    for precision in precisions:
        if precision == "int8" and (reason := too_large(part.whole)) is not None:
            draft.failures.append(f"{role} int8: {reason}")
            continue
        wrong: list[str] = []
        for proto in _attempts(part, precision, figures.calibration(role), say):
            graph, graph_file = proto.SerializeToString(deterministic=True), f"{role}.{precision}.onnx"
            reads = () if precision == "int8" else (file,)
            variant = Variant(precision=precision, graph=_record(graph_file, graph), weights=reads, opset=_opset(proto))
            trial = _trial(record, role, part.spec, variant, weights, {graph_file: graph, file: content})
            found = figures.measure(role, OnnxSession(trial, role, precision, default_threads()))
            tolerances = TOLERANCES[role][precision]
            say(f"{role} {precision}: " + ", ".join(f"{key} {value:.5g}" for key, value in found.items()))
            wrong = missed(found, tolerances)
            if not wrong:
                draft.files[graph_file] = graph
                variants.append(variant)
                draft.measures.append(
                    Measure(component=role, precision=precision, provider="cpu", figures=found, tolerances=tolerances)
                )
                break
        if wrong:
            message = f"{role} {precision}: {'; '.join(wrong)}"
            if precision == "fp32":
                raise ParityError(f"{message}. The graph does not compute what the model does; nothing was written.")
            draft.failures.append(message)
    draft.files[file] = content
    draft.weights.append(weights)
    draft.components[role] = Component(inputs=part.spec.inputs, outputs=part.spec.outputs, variants=tuple(variants))


def _attempts(
    part: Part, precision: Precision, feeds: list[Feed], say: Callable[[str], None]
) -> Iterator[onnx.ModelProto]:
    """Graphs to try for a precision, the fastest first."""
    if precision != "int8":
        yield part.graphs[precision]
        return
    for count in KEPT:
        say(f"{part.role}: calibrating int8" + (f", the last {count} layers in fp32" if count else ""))
        yield quantize(part.whole, feeds, last_layers(part.whole, count))


def _trial(
    record: Manifest, role: Role, spec: GraphSpec, variant: Variant, weights: FileRecord, files: dict[str, bytes]
) -> Bundle:
    """Give a bundle in memory that holds just one variant, so that it is measured by the code that will run it."""
    component = Component(inputs=spec.inputs, outputs=spec.outputs, variants=(variant,))
    only = msgspec.structs.replace(record, components={role: component}, weights=(weights,))
    return Bundle(Path("trial"), only, "", dict(files))


def _record(file: str, content: bytes) -> FileRecord:
    return FileRecord(file=file, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))


def _opset(proto: onnx.ModelProto) -> int:
    return next(item.version for item in proto.opset_import if item.domain in ("", "ai.onnx"))
