"""From wrapped models to ONNX graphs; one table gives names, types and free sizes."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnxruntime
import torch
from onnx import helper
from torch import Tensor, nn

from smalti.bundle.manifest import Role, TensorSpec
from smalti.errors import UsageError
from smalti.generator import EMBEDDING
from smalti_train.models.multinomial_unet import MultinomialUNetConfig
from smalti_train.runs.config import AutoregressiveConfig, PriorConfig

OPSET = 20
"""Taken by every runtime we target: attention is spelt out, and decoders of TensorRT-RTX need no more."""


@dataclass(frozen=True)
class GraphSpec:
    """Inputs and outputs of a component, the same in every precision."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def graph_specs(factor: int, prior: PriorConfig, features: int = 1) -> dict[Role, GraphSpec]:
    """Give the signature of every component of a pair; sizes given by name are free, ``features`` are an embedding's.

    Raises UsageError for a prior of which nobody told for how many tokens it is.
    """

    def spec(name: str, dtype: str, *shape: str | int) -> TensorSpec:
        return TensorSpec(name=name, dtype=dtype, shape=shape)  # pyright: ignore[reportArgumentType]

    images = spec("images", "uint8", "n", f"{factor}*h", f"{factor}*w", 3)
    tokens = spec("tokens", "int32", "n", "h", "w")
    labels = spec("labels", "int32", "n")
    specs: dict[Role, GraphSpec] = {
        "encoder": GraphSpec((images,), (tokens, spec(EMBEDDING, "float32", "n", features))),
        "decoder": GraphSpec((tokens,), (images,)),
        "preview": GraphSpec((tokens,), (images,)),
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


def trace(role: Role, graph: nn.Module, spec: GraphSpec) -> onnx.ModelProto:
    """Export a wrapped model to ONNX with free sizes as the spec names them; weights stay inside the proto.

    With more than 2 GB of them the proto cannot be written to a file before they are outside (``externalise``).
    """
    inputs, free = _example(role, spec)
    with _quiet():
        program = torch.onnx.export(
            graph,
            inputs,
            dynamo=True,
            dynamic_shapes=free,
            opset_version=OPSET,
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
    """Inputs to trace with, and their free sizes: unequal and no divisors of each other, so that none is mistaken."""
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
    if role in ("decoder", "preview"):
        return (whole(2, 5, 7),), {"tokens": {0: n, 1: dim("h", min=1), 2: dim("w", min=1)}}
    factor = int(str(shapes["images"][1]).split("*")[0])
    images = torch.zeros(2, 5 * factor, 7 * factor, 3, dtype=torch.uint8)
    return (images,), {"images": {0: n, 1: factor * dim("h", min=1), 2: factor * dim("w", min=1)}}


def name_sizes(proto: onnx.ModelProto, spec: GraphSpec) -> None:
    """Give free sizes the names of the spec; the tracer makes up its own for those it had to work out."""
    for value, tensor in zip((*proto.graph.input, *proto.graph.output), (*spec.inputs, *spec.outputs), strict=True):
        for dim, size in zip(value.type.tensor_type.shape.dim, tensor.shape, strict=True):
            if isinstance(size, str):
                dim.dim_param = size


def remade(
    proto: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], initializers: Sequence[onnx.TensorProto]
) -> onnx.ModelProto:
    """A new graph with the inputs, outputs and versions of ``proto``, and other nodes and initializers."""
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
    """A graph that gives, in place of its own ``outputs``, those of the nodes that look at some of its tensors.

    ``looks`` has them by the tensor's name. They stand where it is made, so that it can go as soon as its users have
    had it: all of them at once would fill the memory.
    """
    nodes = [look for given in proto.graph.input for look in looks.get(given.name, ())]
    for node in proto.graph.node:
        nodes += [node, *(look for name in node.output for look in looks.get(name, ()))]
    result = remade(proto, nodes, [*proto.graph.initializer, *initializers])
    del result.graph.output[:]
    result.graph.output.extend(outputs)
    return result


def in_order_of_nodes() -> onnxruntime.SessionOptions:
    """Options of sessions that compute nodes in the order in which they stand, as :func:`looked_at` wants it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    return options


def strip_traces(proto: onnx.ModelProto) -> None:
    """Remove what the tracer noted about source files: it names the machine and doubles the size of the graph."""
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
    """Keep the tracer's notes on packages that smalti does not use off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
