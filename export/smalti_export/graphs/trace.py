"""Trace wrapped models into ONNX graphs; one table sets the names, types and free sizes."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import onnx
import onnxruntime
import torch
from onnx import helper
from torch import Tensor, nn

from smalti.bundle.manifest import Resolution, Role, TensorSpec, kind_of
from smalti.drawing.generator import EMBEDDING
from smalti.errors import UsageError
from smalti_train.models.multinomial_unet import MultinomialUNetConfig
from smalti_train.runs.config import AutoregressiveConfig, PriorConfig

OPSET = 20
"""Opset that every targeted runtime supports. Attention is written out; TensorRT-RTX decoders need no newer opset."""


@dataclass(frozen=True)
class GraphSpec:
    """Inputs and outputs of a component, equal in every precision."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def graph_specs(
    factor: int, prior: PriorConfig, features: int = 1, larger: Sequence[Resolution] = ()
) -> dict[Role, GraphSpec]:
    """Inputs and outputs of each component of a pair, whose tokens also decode to ``larger`` pictures.

    Sizes given by name are free. ``features`` is the number of dimensions of an embedding. Raises UsageError when the
    prior does not say how many tokens an image has.
    """

    def spec(name: str, dtype: Literal["uint8", "int32", "float32"], *shape: str | int) -> TensorSpec:
        return TensorSpec(name=name, dtype=dtype, shape=shape)

    def pictures(factor: int) -> TensorSpec:
        return spec("images", "uint8", "n", f"{factor}*h", f"{factor}*w", 3)

    images = pictures(factor)
    tokens = spec("tokens", "int32", "n", "h", "w")
    labels = spec("labels", "int32", "n")
    specs: dict[Role, GraphSpec] = {
        "encoder": GraphSpec((images,), (tokens, spec(EMBEDDING, "float32", "n", features))),
        "decoder": GraphSpec((tokens,), (images,)),
        "preview": GraphSpec((tokens,), (images,)),
        **{one.decoder: GraphSpec((tokens,), (pictures(one.factor),)) for one in larger},
    }
    if isinstance(prior, AutoregressiveConfig):
        kept, width = 2 * prior.layers, prior.width // prior.heads
        past, present = (
            spec(name, "float32", kept, "n", prior.heads, length, width)
            for name, length in (("past", "p"), ("present", "p+k"))
        )
        logits = spec("logits", "float32", "n", prior.codes)
        specs["predictor"] = GraphSpec((spec("tokens", "int32", "n", "k"), labels, past), (logits, present))
    elif prior.grid is None:
        raise UsageError('the prior does not say how many rows and columns of tokens an image has: give it a "grid"')
    else:
        grids = spec("tokens", "int32", "n", prior.grid[0] * prior.grid[1])
        logits = spec("logits", "float32", "n", "r", prior.codes)
        times = (spec("times", "int32", "n"),) if isinstance(prior, MultinomialUNetConfig) else ()
        specs["denoiser"] = GraphSpec((grids, labels, *times, spec("rows", "int32", "n", "r")), (logits,))
    return specs


def trace(role: Role, graph: nn.Module, spec: GraphSpec, opset: int = OPSET) -> onnx.ModelProto:
    """Export a wrapped model to ONNX with the free sizes of the spec; the weights stay inside the proto.

    A proto with more than 2 GB of weights cannot be written to a file until ``externalise`` has moved them out.
    """
    inputs, free = _example(role, spec)
    with _quiet():
        program = torch.onnx.export(  # pyright: ignore[reportUnknownMemberType] - in part without types
            graph,
            inputs,
            dynamo=True,
            dynamic_shapes=free,
            opset_version=opset,
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    strip_traces(proto)
    name_sizes(proto, spec)
    return proto


def _example(role: Role, spec: GraphSpec) -> tuple[tuple[Tensor, ...], dict[str, dict[int, Any]]]:
    """Inputs to trace with, and their free sizes.

    Example sizes differ and do not divide each other, so that the tracer cannot confuse them.
    """
    dim = torch.export.Dim
    n = dim("n", min=1)
    shapes = {tensor.name: tensor.shape for tensor in spec.inputs}

    def whole(*sizes: int) -> Tensor:
        return torch.zeros(sizes, dtype=torch.int32)

    if role == "denoiser":
        free = {name: {0: n} for name in shapes} | {"rows": {0: n, 1: dim("r", min=1)}}
        times = (whole(2),) if "times" in shapes else ()
        return (whole(2, int(shapes["tokens"][1])), whole(2), *times, whole(2, 3)), free
    if role == "predictor":
        kept, heads, width = (int(shapes["past"][axis]) for axis in (0, 2, 4))
        free = {"tokens": {0: n, 1: dim("k", min=1)}, "labels": {0: n}, "past": {1: n, 3: dim("p", min=0)}}
        return (whole(2, 3), whole(2), torch.zeros(kept, 2, heads, 5, width)), free
    if kind_of(role) in ("decoder", "preview"):
        return (whole(2, 5, 7),), {"tokens": {0: n, 1: dim("h", min=1), 2: dim("w", min=1)}}
    factor = int(str(shapes["images"][1]).split("*")[0])
    images = torch.zeros(2, 5 * factor, 7 * factor, 3, dtype=torch.uint8)
    return (images,), {"images": {0: n, 1: factor * dim("h", min=1), 2: factor * dim("w", min=1)}}


def name_sizes(proto: onnx.ModelProto, spec: GraphSpec) -> None:
    """Name the free sizes as in the spec; the tracer invents names for sizes that it computes."""
    for value, tensor in zip((*proto.graph.input, *proto.graph.output), (*spec.inputs, *spec.outputs), strict=True):
        for dim, size in zip(value.type.tensor_type.shape.dim, tensor.shape, strict=True):
            if isinstance(size, str):
                dim.dim_param = size


def remade(
    proto: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], initializers: Sequence[onnx.TensorProto]
) -> onnx.ModelProto:
    """A new graph with the inputs, outputs and versions of ``proto``, and the given nodes and initializers."""
    source = proto.graph
    return helper.make_model(
        helper.make_graph(nodes, source.name, source.input, source.output, initializers),
        opset_imports=proto.opset_import,
        functions=proto.functions,
        ir_version=proto.ir_version,
        producer_name=proto.producer_name,
        producer_version=proto.producer_version,
    )


def looked_at(
    proto: onnx.ModelProto,
    looks: Mapping[str, Sequence[onnx.NodeProto]],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    """Copy a graph, add nodes that observe some of its tensors, and replace its outputs by ``outputs``.

    ``looks`` maps a tensor's name to the nodes that observe it. They are placed right after the node that makes the
    tensor, so the tensor can be freed after its last use; keeping all tensors would fill the memory.
    """
    nodes = [look for given in proto.graph.input for look in looks.get(given.name, ())]
    for node in proto.graph.node:
        nodes += [node, *(look for name in node.output for look in looks.get(name, ()))]
    result = remade(proto, nodes, [*proto.graph.initializer, *initializers])
    del result.graph.output[:]
    result.graph.output.extend(outputs)
    return result


def in_order_of_nodes() -> onnxruntime.SessionOptions:
    """Session options that run nodes in the order of the graph, as :func:`looked_at` needs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    return options


def strip_traces(proto: onnx.ModelProto) -> None:
    """Remove the tracer's notes about source files: they identify the machine and double the graph's size."""
    del proto.metadata_props[:]
    proto.doc_string = ""
    proto.graph.doc_string = ""
    del proto.graph.metadata_props[:]
    del proto.graph.value_info[:]
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for tensor in (*proto.graph.initializer, *proto.graph.input, *proto.graph.output):
        del tensor.metadata_props[:]
        tensor.doc_string = ""


@contextlib.contextmanager
def _quiet():
    """Hide the tracer's messages about packages that smalti does not use."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
