"""The contents of a bundle before it is written: trace, pack and quantise each component, and measure it."""

from __future__ import annotations

import copy
import gc
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import onnx
from torch import Tensor

from smalti.backends.onnxruntime_cpu import OnnxRuntimeCpu
from smalti.bundle.manifest import (
    PRIOR_ROLES,
    ROUNDED,
    Component,
    FileRecord,
    Manifest,
    Measure,
    Precision,
    Role,
    Variant,
    kind_of,
    missed,
)
from smalti.bundle.reader import Bundle
from smalti.errors import ParityError, SamplingError
from smalti_export.graphs.graph_modules import Traceable, wrap
from smalti_export.graphs.trace import GraphSpec, graph_specs, trace
from smalti_export.graphs.weights import externalise, name_by_content, pack, place, round_to_fp16, share
from smalti_export.parity import golden
from smalti_export.parity.certificate import TOLERANCES
from smalti_export.parity.measure import Figures, make_figures
from smalti_export.precision.attempts import Part, attempts
from smalti_export.precision.cpu_operators import FUSED_OPSET
from smalti_export.precision.fp16 import fp16_tensors, in_fp32
from smalti_export.precision.int8 import too_large
from smalti_export.source import Pair, released, seeing
from smalti_kernels.platform import usable_cores
from smalti_train.data import ImageSet
from smalti_train.runs.bundle_weights import TRANSPOSED, released_names

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
"""Precisions that a component is written in by default."""
QUANTIZED: tuple[Role, ...] = ("denoiser", "predictor", "decoder", "preview")
"""Components with an int8 variant. A third of an int8 encoder's tokens would differ from the model's."""
PARTS: dict[Role, tuple[str, ...]] = {
    "encoder": ("encoder.", "quant", "embedding."),
    "decoder": ("decoder.", "post_quant", "heads."),
}
"""Prefixes of the tensors that belong to the encoder or the decoder alone. Other components own all their tensors."""


LARGE: Final = 2**27
"""Bytes of a model's weights from which on what the tracer leaves is collected at once, which takes seconds."""


@dataclass
class Draft:
    """The files and records of a bundle before it is written."""

    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    components: dict[Role, Component] = field(default_factory=dict[Role, Component])
    weights: list[FileRecord] = field(default_factory=list[FileRecord])
    measures: list[Measure] = field(default_factory=list[Measure])
    golden: FileRecord | None = None
    failures: list[str] = field(default_factory=list[str])
    """Variants that were left out, each with the reason."""


def make_draft(
    pair: Pair,
    images: ImageSet,
    record: Manifest,
    say: Callable[[str], None],
    precisions: Collection[Precision] = PRECISIONS,
) -> Draft:
    """Build every component in these precisions and measure it against the torch model on unseen ``images``.

    ``record`` is the manifest without components; it says how samples are drawn when whole runs are compared. Variants
    out of tolerance are left out and named in the draft.

    ``pair.prior`` cannot be used afterwards: published priors take gigabytes, so no second copy is kept. Peak memory
    for a large prior is three to four times its fp32 weights.

    Raises ParityError when an fp32 graph is out of tolerance, UsageError when there are too few images or the family
    does not allow the sampling defaults.
    """
    figures = make_figures(pair, images, record)
    draft, kept = Draft(), dict[str, Tensor]()
    models: dict[tuple[Role, ...], Traceable] = {}
    features = 1
    if record.latent.pixels is None:
        codec, kept = released(pair)
        models[("encoder",)] = seeing(pair, codec)
        models[tuple(one.decoder for one in record.resolutions)] = codec
        round_to_fp16(models[("encoder",)])
        round_to_fp16(codec)
        features = pair.features
    if pair.preview is not None:
        models[("preview",)] = copy.deepcopy(pair.preview)
        round_to_fp16(models[("preview",)])
    factor = record.latent.factor
    specs = graph_specs(factor, pair.prior_run.model, features, record.resolutions[1:])
    for roles, model in models.items():
        own = {name: value for name, value in kept.items() if roles[0] in PARTS and name.startswith(PARTS[roles[0]])}
        graphs = {role: (record.resolution_of(role).factor // factor, specs[role]) for role in roles}
        for part in _traced(model, graphs, own, precisions, say):
            _add(draft, record, part, _possible(part.role, precisions), figures, say)
        _share(draft, roles)
    role = PRIOR_ROLES[pair.family]
    say(f"{role}: what the model answers")
    figures.reference(role)
    round_to_fp16(pair.prior)
    (part,) = _traced(pair.prior, {role: (1, specs[role])}, {}, precisions, say)
    pair.prior.to("meta")  # the answers are computed and the weights packed
    _add(draft, record, part, _possible(role, precisions), figures, say)
    content = golden.golden_file(figures, record)
    draft.files[golden.FILE], draft.golden = content, _record(golden.FILE, content)
    return draft


def _possible(role: Role, wanted: Collection[Precision]) -> list[Precision]:
    """The ``wanted`` precisions that this component can have, in the order in which they are made."""
    return [one for one in PRECISIONS if one in wanted and (one != "int8" or kind_of(role) in QUANTIZED)]


def _traced(
    model: Traceable,
    wanted: Mapping[Role, tuple[int, GraphSpec]],
    kept: dict[str, Tensor],
    precisions: Collection[Precision],
    say: Callable[[str], None],
) -> list[Part]:
    """Trace the graphs of components that share a model, in fp32 and, if wanted, fp16; pack their weights in one file.

    ``wanted`` tells each component's scale and signature; the file is named after the first. It also holds ``kept``,
    tensors that training needs and graphs do not. The weights of ``model`` must already be rounded to fp16; afterwards
    the model is in fp32 or fp16.
    """
    first = next(iter(wanted))
    file, used = f"{first}.safetensors", set[str]()
    graphs: dict[Role, dict[Precision, onnx.ModelProto]] = {role: {} for role in wanted}
    whole: dict[Role, onnx.ModelProto] = {}
    fixed: dict[Role, list[str]] = {}
    large = sum(value.nbytes for value in model.parameters()) > LARGE
    for precision in PRECISIONS[:2]:  # int8 is made from the fp32 graph
        for role, (scale, spec) in wanted.items() if precision in precisions else ():
            say(f"{role}: tracing {precision}")
            inside = model.half() if precision == "fp16" else model.float()
            proto = trace(role, wrap(role, inside, scale), spec)
            found = name_by_content(proto, released_names(model))
            used.update(found.values())
            graphs[role][precision] = externalise(proto, found, file)
            if precision == "fp32" and "int8" in _possible(role, precisions) and too_large(proto) is None:
                if role in PRIOR_ROLES.values():
                    proto = trace(role, wrap(role, inside, scale), spec, FUSED_OPSET)
                    found = name_by_content(proto, released_names(model))
                whole[role] = proto
                convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
                fixed[role] = [node.name for node in convolutions if node.input[1] not in found]
            del proto
            if large:
                gc.collect()  # the tracer leaves reference cycles that hold every weight
    tensors = released_names(model)
    # Store every tensor of the components, including those that their graphs folded into constants or replaced by
    # another tensor of the same content.
    shown, parts = {name.removesuffix(TRANSPOSED) for name in used}, PARTS.get(first, ("",))
    hidden = {name: value.half() for name, value in tensors.items() if name not in shown and name.startswith(parts)}
    content, places = pack(tensors, used, hidden | kept)
    for graph in (graph for made in graphs.values() for graph in made.values()):
        place(graph, places)
    packed = file, content
    return [
        Part(role, spec, graphs[role], whole.get(role), packed, fixed.get(role, ()))
        for role, (_, spec) in wanted.items()
    ]


def _add(
    draft: Draft,
    record: Manifest,
    part: Part,
    precisions: Sequence[Precision],
    figures: Figures,
    say: Callable[[str], None],
) -> None:
    """Measure each variant of a component through the runtime; add the variants within tolerance to the draft."""
    role, (file, content) = part.role, part.weight_file
    variants: list[Variant] = []
    for precision in precisions:
        if precision == "int8" and (reason := too_large(part.graphs["fp32"])) is not None:
            draft.failures.append(f"{role} int8: {reason}")
            continue
        wrong: list[str] = []
        for proto in attempts(part, precision, figures.calibration(role), say):
            variant, graph, found = _measured(record, part, precision, proto, figures)
            if precision == "fp16":
                exact = in_fp32(proto, fp16_tensors(proto), rounded=True)
                *_, also = _measured(record, part, precision, exact, figures, runs=False)
                names = [name for name in TOLERANCES[kind_of(role)]["fp16"] if name.startswith(ROUNDED)]
                found |= {name: also[name.removeprefix(ROUNDED)] for name in names}
            tolerances = TOLERANCES[kind_of(role)][precision]
            say(f"{role} {precision}: " + ", ".join(f"{key} {value:.5g}" for key, value in found.items()))
            wrong = missed(found, tolerances)
            if not wrong:
                draft.files[variant.graph.file] = graph
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
    if file not in draft.files:  # which another component may share
        draft.files[file] = content
        draft.weights.append(_record(file, content))
    draft.components[role] = Component(inputs=part.spec.inputs, outputs=part.spec.outputs, variants=tuple(variants))


def _share(draft: Draft, roles: Sequence[Role]) -> None:
    """Let the int8 graphs of components that were made from one model read what they share from one file."""
    variants = {
        role: variant for role in roles for variant in draft.components[role].variants if variant.precision == "int8"
    }
    file = f"{roles[0]}.int8.safetensors"
    graphs, content = share({role: draft.files[one.graph.file] for role, one in variants.items()}, file)
    if not content:
        return
    draft.files[file] = content
    draft.weights.append(_record(file, content))
    for role, variant in variants.items():
        graph = draft.files[variant.graph.file] = graphs[role]
        changed = msgspec.structs.replace(variant, graph=_record(variant.graph.file, graph), weights=(file,))
        others = tuple(changed if one is variant else one for one in draft.components[role].variants)
        draft.components[role] = msgspec.structs.replace(draft.components[role], variants=others)


def _measured(
    record: Manifest, part: Part, precision: Precision, proto: onnx.ModelProto, figures: Figures, runs: bool = True
) -> tuple[Variant, bytes, dict[str, float]]:
    """Run one variant from an in-memory bundle and measure it; return the variant, its graph's bytes and its figures.

    Without ``runs``, whole runs of a prior are not compared.
    """
    file, content = part.weight_file
    graph, graph_file = proto.SerializeToString(deterministic=True), f"{part.role}.{precision}.onnx"
    reads = () if precision == "int8" else (file,)
    variant = Variant(precision=precision, graph=_record(graph_file, graph), weights=reads, opset=_opset(proto))
    component = Component(inputs=part.spec.inputs, outputs=part.spec.outputs, variants=(variant,))
    only = msgspec.structs.replace(record, components={part.role: component}, weights=(_record(file, content),))
    trial = Bundle(Path("trial"), only, "", {graph_file: graph, file: content})
    session = OnnxRuntimeCpu(usable_cores()).open(trial, part.role, precision)
    try:
        found = figures.measure(part.role, session, runs)
    except SamplingError:  # invalid logits, such as NaN
        found = dict.fromkeys(TOLERANCES[kind_of(part.role)][precision], float("nan"))
    return variant, graph, found


def _record(file: str, content: bytes) -> FileRecord:
    return FileRecord(file=file, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))


def _opset(proto: onnx.ModelProto) -> int:
    return next(item.version for item in proto.opset_import if item.domain in ("", "ai.onnx"))
