"""Group norms and activations of int8 graphs, in operators that ONNX Runtime's CPU provider computes fast.

Its group norm of opset 21 is a dozen small operators, and its Softplus, half of Mish, runs on one thread. A norm over a
map whose sides are free reads the map three times and writes it three times; here it becomes a factor and a shift for
each channel, from means that are read once. The 8-bit result of a convolution is normed as the levels that it is:
ONNX Runtime would otherwise make floats of it once for every reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from smalti_export.graphs.trace import remade
from smalti_export.precision.graph_index import Graph

NORM, MISH = "GroupNormalization", "Mish"


class _Writer:
    """Nodes and constants that replace one node or several."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, inputs: Sequence[str], name: str, **given: Any) -> str:
        """Add a node; return the name of its result, which is ``name`` behind the prefix."""
        self.nodes.append(helper.make_node(kind, list(inputs), [f"{self.prefix}.{name}"], **given))
        return self.nodes[-1].output[0]

    def constant(self, value: NDArray[np.generic] | np.generic | list[int], name: str) -> str:
        """Add a constant, integers as int64; return its name."""
        self.constants.append(numpy_helper.from_array(np.asarray(value), f"{self.prefix}.{name}"))
        return self.constants[-1].name

    def ends_as(self, name: str) -> None:
        """Let the last node make the tensor ``name``."""
        self.nodes[-1].output[0] = name


def plain_norms(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a graph, its group norms as instance norms of groups and its Mish by a sigmoid; the function is the same.

    A graph without either is returned as it is.
    """
    if not {NORM, MISH} & {node.op_type for node in proto.graph.node}:
        return proto
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    sizes = _sizes(proto)
    nodes: list[onnx.NodeProto] = []
    added: list[onnx.TensorProto] = []
    for node in proto.graph.node:
        written = _Writer(node.output[0])
        if node.op_type == MISH:
            _mish(written, node.input[0])
        elif node.op_type == NORM and set(node.input[1:]) <= constants.keys():
            factors, shifts = (numpy_helper.to_array(constants[name]) for name in node.input[1:])
            _instance_norm(written, node, factors, shifts, sizes.get(node.input[0], []))
        else:
            nodes.append(node)
            continue
        written.ends_as(node.output[0])
        nodes += written.nodes
        added += written.constants
    read = {name for node in nodes for name in node.input}
    return remade(proto, nodes, [tensor for tensor in [*proto.graph.initializer, *added] if tensor.name in read])


def _sizes(proto: onnx.ModelProto) -> dict[str, list[int]]:
    """Return the sides of tensors, 0 for free ones.

    The inference knows no sizes of what a norm or Mish makes, which keep those of their input: it sees copies instead.
    """
    nodes = [
        helper.make_node("Identity", node.input[:1], node.output) if node.op_type in (NORM, MISH) else node
        for node in proto.graph.node
    ]
    found = onnx.shape_inference.infer_shapes(remade(proto, nodes, proto.graph.initializer)).graph.value_info
    return {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in found}


def _mish(written: _Writer, source: str) -> None:
    """x tanh(ln(1 + e^x)) = x (2 / (1 + r^2) - 1), where r = 1 / (1 + e^x)."""
    one, two = (written.constant(np.float32(value), f"{value}") for value in (1, 2))
    rest = written.add("Sigmoid", [written.add("Neg", [source], "negative")], "rest")
    below = written.add("Add", [written.add("Mul", [rest, rest], "square"), one], "below")
    gate = written.add("Sub", [written.add("Div", [two, below], "ratio"), one], "gate")
    written.add("Mul", [source, gate], "mish")


def _instance_norm(
    written: _Writer,
    node: onnx.NodeProto,
    factors: NDArray[np.generic],
    shifts: NDArray[np.generic],
    sizes: Sequence[int],
) -> None:
    given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    groups, channels = int(given["num_groups"]), len(factors)
    flat = written.add("Reshape", [node.input[0], written.constant([0, groups, -1], "groups")], "flat")
    ones, zeros = (written.constant(np.full(groups, value, np.float32), f"all{value}") for value in (1, 0))
    normed = written.add("InstanceNormalization", [flat, ones, zeros], "even", epsilon=float(given["epsilon"]))
    # Only where a side is free is the shape asked of the map: asking makes floats of 8 bits once more.
    if len(sizes) == 4 and all(sizes[2:]):
        shape = written.constant([0, channels, *sizes[2:]], "shape")
    else:
        shape = written.add("Shape", [node.input[0]], "shape")
    shaped = written.add("Reshape", [normed, shape], "shaped")
    factor, shift = (
        written.constant(values.astype(np.float32).reshape(-1, 1, 1), name)
        for values, name in ((factors, "factor"), (shifts, "shift"))
    )
    written.add("Add", [written.add("Mul", [shaped, factor], "scaled"), shift], "shifted")


@dataclass(frozen=True)
class _Norm:
    """A norm of groups over free sides, as it is traced."""

    nodes: list[onnx.NodeProto]
    """All of its nodes; the last makes the result."""
    source: str
    factors: NDArray[np.generic]
    shifts: NDArray[np.generic]
    groups: int
    epsilon: float


def norms_of_levels(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a graph whose norms over free sides are a factor and a shift for each channel; the function is the same.

    Where 8 bits are made floats for nothing but a norm, it takes the levels: a norm undoes scale and zero.
    """
    graph = Graph(proto)
    found = {id(norm.nodes[-1]): norm for node in proto.graph.node if (norm := _free_norm(graph, node)) is not None}
    if not found:
        return proto
    dropped = {id(node) for norm in found.values() for node in norm.nodes}
    nodes: list[onnx.NodeProto] = []
    added: list[onnx.TensorProto] = []
    for node in proto.graph.node:
        norm = found.get(id(node))
        if norm is None:
            nodes += [] if id(node) in dropped else [node]
            continue
        written = _Writer(f"{node.output[0]}.map")
        source, epsilon = norm.source, norm.epsilon
        floats = graph.maker(source, "DequantizeLinear")
        if floats is not None and {id(one) for one in graph.read[source]} <= {id(one) for one in norm.nodes}:
            source = written.add("Cast", [floats.input[0]], "levels", to=onnx.TensorProto.FLOAT)
            epsilon /= float(graph.value(floats.input[1])) ** 2
        _by_channel(written, norm, source, epsilon)
        written.ends_as(node.output[0])
        nodes += written.nodes
        added += written.constants
    read = {name for node in nodes for name in node.input} | graph.kept
    nodes = [node for node in nodes if read.intersection(node.output)]
    kept = [tensor for tensor in [*proto.graph.initializer, *added] if tensor.name in read]
    return remade(proto, nodes, kept)


def _free_norm(graph: Graph, node: onnx.NodeProto) -> _Norm | None:
    """Return the norm whose instance norm is ``node``; None where there is no such, or its sides are known."""
    if node.op_type != "InstanceNormalization":
        return None
    flat = graph.maker(node.input[0], "Reshape")
    back = graph.only_reader(node.output[0], "Reshape")
    shape = graph.maker(back.input[1], "Shape") if back is not None else None
    scaled = graph.only_reader(back.output[0], "Mul") if back is not None else None
    shifted = graph.only_reader(scaled.output[0], "Add") if scaled is not None else None
    if flat is None or back is None or shape is None or scaled is None or shifted is None:
        return None
    source = flat.input[0]
    names = [*scaled.input[1:], *shifted.input[1:], flat.input[1], *node.input[1:]]
    if shape.input[0] != source or not set(names) <= graph.constants.keys():
        return None
    factors, shifts, groups, ones, zeros = (graph.value(name) for name in names)
    if not (ones == 1).all() or zeros.any() or len(groups) != 3 or factors.ndim != 3 or factors.shape != shifts.shape:
        return None
    epsilon = next(one.f for one in node.attribute if one.name == "epsilon")
    own = [flat, node, shape, back, scaled, shifted]
    if any(len(graph.read[one.output[0]]) != 1 for one in own[:-1]):
        return None
    return _Norm(own, source, factors, shifts, int(groups[1]), epsilon)


def _by_channel(written: _Writer, norm: _Norm, source: str, epsilon: float) -> None:
    """Write the norm of ``source``, float32 [n, C, h, w]."""
    add, constant = written.add, written.constant
    sides, last, grouped = constant([2, 3], "sides"), constant([2], "last"), constant([0, norm.groups, -1], "grouped")
    area = add("ReduceProd", [add("Shape", [source], "shape", start=2), constant([0], "first")], "area")
    area = add("Cast", [area], "cells", to=onnx.TensorProto.FLOAT)
    squares = add("Div", [add("ReduceSumSquare", [source, sides], "sum"), area], "squares")
    means = add("ReduceMean", [source, sides], "means")
    mean, square = (
        add("ReduceMean", [add("Reshape", [value, grouped], f"{name}.groups"), last], f"{name}.mean")
        for value, name in ((means, "first"), (squares, "second"))
    )
    spread = add("Sub", [square, add("Mul", [mean, mean], "mean.square")], "spread")
    # Rounding may take the spread of an even map below 0.
    spread = add("Max", [spread, constant(np.float32(0), "least")], "positive")
    deviation = add("Sqrt", [add("Add", [spread, constant(np.float32(epsilon), "epsilon")], "safe")], "deviation")
    factors, shifts = (
        constant(values.astype(np.float32).reshape(1, norm.groups, -1), name)
        for values, name in ((norm.factors, "all.factors"), (norm.shifts, "all.shifts"))
    )
    factor = add("Div", [factors, deviation], "factor")
    shift = add("Sub", [shifts, add("Mul", [mean, factor], "middle")], "shift")
    channels = constant([0, norm.factors.size, 1, 1], "channels")
    factor, shift = (add("Reshape", [value, channels], f"{value}.map") for value in (factor, shift))
    add("Add", [add("Mul", [source, factor], "scaled"), shift], "shifted")
