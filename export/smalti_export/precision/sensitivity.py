"""What 8 bits cost each layer of a graph, and which layers to keep in fp32 at least expense.

Every layer that would run in 8 bits stands in a branch of its own, so that one session can run any of them with inputs,
weights and results rounded to 8 bits while all others stay fp32. Errors of layers nearly add up: those of the layers
that stay in 8 bits are about the error of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from smalti_export.graphs.trace import in_order_of_nodes, remade
from smalti_export.precision.activation_ranges import LEVELS, Feed
from smalti_export.precision.graph_index import Graph
from smalti_export.precision.int8 import Calibrated, last_layers

JUDGES = 2
"""Calibration batches that tell what 8 bits cost."""
BATCH, SIDE = 2, 8
"""Samples of each, and the longest side of a canvas in tokens: layers differ by more than chance even on little."""
_ON = ".on"


@dataclass(frozen=True)
class Layer:
    """A product or convolution that would run in 8 bits."""

    error: float
    """Mean square error of the graph's first output when this layer alone runs in 8 bits."""
    cost: float
    """Its multiplications."""


def cheapest(layers: Mapping[str, Layer], share: float) -> list[str]:
    """Names of layers to keep in fp32 so that about ``share`` (0 .. 1) of the error is left, at little cost."""
    order = sorted(layers, key=lambda name: layers[name].error / layers[name].cost, reverse=True)
    allowed = share * math.fsum(layer.error for layer in layers.values())
    left = math.fsum(layer.error for layer in layers.values())
    kept: list[str] = []
    for name in order:
        if left <= allowed:
            break
        kept.append(name)
        left -= layers[name].error
    return kept


def measured_layers(made: Calibrated, feeds: Sequence[Feed], keep: Collection[str] = ()) -> dict[str, Layer]:
    """Measure all layers but those in ``keep``: one run of the fp32 graph for each of them and batch.

    ``feeds`` are those that calibrated the graph; a few are used, cut to small sizes.
    """
    graph = made.graph
    names = [name for name in last_layers(graph, len(graph.graph.node)) if name not in keep]
    if not names:
        return {}
    branched = _branched(made, names)
    runtime: Any = onnxruntime  # whose levels have no types
    options: Any = in_order_of_nodes()
    # Folding constants would hold every layer's weights twice.
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(branched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs = [graph.graph.output[0].name, *map(_count, names)]
    errors, costs = dict.fromkeys(names, 0.0), dict.fromkeys(names, 1.0)
    off = np.zeros(len(names), np.bool_)
    for feed in feeds[:JUDGES]:
        given = {name: value for name, value in small(graph, feed).items() if name in _inputs(graph)}
        wanted, *counts = session.run(outputs, {**given, _ON: off})
        costs |= {name: float(count) for name, count in zip(names, counts)}
        for index, name in enumerate(names):
            on = off.copy()
            on[index] = True
            (found,) = session.run(outputs[:1], {**given, _ON: on})
            errors[name] += float(np.square(np.asarray(found, np.float64) - wanted).mean())
    return {name: Layer(errors[name], max(1.0, costs[name])) for name in names}


def small(proto: onnx.ModelProto, feed: Feed) -> Feed:
    """Cut a feed along the free sides of the graph's inputs: ``n`` to BATCH, ``h`` and ``w`` to SIDE."""
    longest, cut = {"n": BATCH, "h": SIDE, "w": SIDE}, Feed()
    for given in proto.graph.input:
        sides = [dim.dim_param for dim in given.type.tensor_type.shape.dim]
        if given.name in feed:
            part = tuple(slice(0, longest.get(side)) for side in sides)
            cut[given.name] = feed[given.name][part]
    return cut


def _inputs(proto: onnx.ModelProto) -> set[str]:
    return {given.name for given in proto.graph.input}


def _count(name: str) -> str:
    return f"{name}.multiplications"


def _branched(made: Calibrated, names: Sequence[str]) -> onnx.ModelProto:
    """The graph with a branch for each layer; an input says which run in 8 bits, and more outputs tell their cost."""
    graph = Graph(made.graph)
    places = {name: index for index, name in enumerate(names)}
    nodes: list[onnx.NodeProto] = []
    added: list[onnx.TensorProto] = []
    for node in made.graph.graph.node:
        if node.name not in places:
            nodes.append(node)
            continue
        name, weights = node.name, graph.constants[node.input[1]]
        # A ReLU is done by the levels of the convolution before it.
        relu = graph.only_reader(node.output[0], "Relu")
        result = node.output[0] if relu is None else relu.output[0]
        added.append(numpy_helper.from_array(np.asarray(places[name]), f"{name}.place"))
        each = math.prod(weights.dims) // weights.dims[0 if node.op_type == "Conv" else 1]
        added.append(numpy_helper.from_array(np.asarray(each), f"{name}.each"))
        rounded, exact = _body(_rounded(made, node, weights, result, added)), _body([_plain(node)])
        nodes += [
            helper.make_node("Gather", [_ON, f"{name}.place"], [f"{name}.on"]),
            helper.make_node("If", [f"{name}.on"], node.output, then_branch=rounded, else_branch=exact),
            helper.make_node("Size", node.output, [f"{name}.size"]),
            helper.make_node("Mul", [f"{name}.size", f"{name}.each"], [_count(name)]),
        ]
    result = remade(made.graph, nodes, [*made.graph.graph.initializer, *added])
    result.graph.input.append(helper.make_tensor_value_info(_ON, TensorProto.BOOL, [len(names)]))
    counts = [helper.make_tensor_value_info(_count(name), TensorProto.INT64, []) for name in names]
    result.graph.output.extend(counts)
    return result


def _body(nodes: Sequence[onnx.NodeProto]) -> onnx.GraphProto:
    """A branch, whose result is that of its last node."""
    result = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    return helper.make_graph(nodes, "branch", [], [result])


def _plain(node: onnx.NodeProto) -> onnx.NodeProto:
    """The node as it is, with a result of another name."""
    copied = onnx.NodeProto.FromString(node.SerializeToString())
    copied.output[0] = f"{node.name}.exact"
    return copied


def _rounded(
    made: Calibrated, node: onnx.NodeProto, weights: onnx.TensorProto, result: str, added: list[onnx.TensorProto]
) -> list[onnx.NodeProto]:
    """Nodes that compute a layer as the int8 graph does, in floats; the last makes the result.

    A convolution's result gets the levels of the tensor ``result``.
    """
    axis = 0 if node.op_type == "Conv" else 1
    values = numpy_helper.to_array(weights).astype(np.float32)
    scales = np.abs(values).max(axis=tuple(i for i in range(values.ndim) if i != axis)) / 127
    scales[scales == 0] = 1
    body = _levels(f"{node.name}.w", node.input[1], scales, np.zeros(len(scales), np.int8), added, axis=axis)
    body += _covered(made, node.input[0], f"{node.name}.x", added)
    product = onnx.NodeProto.FromString(node.SerializeToString())
    product.input[0], product.input[1], product.output[0] = f"{node.name}.x", f"{node.name}.w", f"{node.name}.y"
    body.append(product)
    if node.op_type == "Conv":
        body += _covered(made, result, f"{node.name}.z", added, f"{node.name}.y")
    return body


def _covered(
    made: Calibrated, tensor: str, name: str, added: list[onnx.TensorProto], source: str = ""
) -> list[onnx.NodeProto]:
    """Nodes that round ``source`` to the levels of a tensor's range."""
    low, high = made.ranges[tensor]
    scale = np.float32((high - low) / LEVELS) or np.float32(1)
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, LEVELS))
    return _levels(name, source or tensor, np.asarray(scale), np.asarray(zero), added)


def _levels(
    name: str,
    source: str,
    scale: NDArray[np.float32],
    zero: NDArray[np.uint8] | NDArray[np.int8],
    added: list[onnx.TensorProto],
    **axis: Any,
) -> list[onnx.NodeProto]:
    constants = [f"{name}.scale", f"{name}.zero"]
    added += [numpy_helper.from_array(value, place) for value, place in zip((scale, zero), constants)]
    return [
        helper.make_node("QuantizeLinear", [source, *constants], [f"{name}.levels"], **axis),
        helper.make_node("DequantizeLinear", [f"{name}.levels", *constants], [name], **axis),
    ]
