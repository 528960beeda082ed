"""Shapes and element types of every tensor of an ONNX graph, for inputs of given sizes.

ONNX infers node by node. Small whole numbers that the graph computes (shapes, above all) are computed along, so that
a ``Reshape`` to a computed shape is known too. ONNX Runtime's own operators have no rules in ONNX; those that bundles
use have theirs here, and shapes of any others can be given from outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from smalti.errors import UsageError

MOST_VALUES = 64
"""Elements of the largest tensor whose values are computed; shapes have fewer."""
FLOAT = onnx.TensorProto.FLOAT


@dataclass(frozen=True)
class Tensor:
    """What is known of a tensor."""

    shape: tuple[int, ...]
    kind: int
    """Element type, as in ``onnx.TensorProto.DataType``."""

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return self.elements * helper.tensor_dtype_to_np_dtype(self.kind).itemsize


def infer(
    model: onnx.ModelProto, sizes: Mapping[str, int], known: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return every tensor of a graph by name.

    Args:
        model: its weights may lie elsewhere: only their sizes are read.
        sizes: number for each free side of the inputs, such as ``{"n": 1, "r": 128}``.
        known: tensors that are told instead of inferred, such as those that a run of the graph had.

    Raises UsageError for a free side without a number, and for a tensor that can neither be inferred nor is known.
    """
    given = dict(known or {})
    tensors = {one.name: Tensor(tuple(one.dims), one.data_type) for one in model.graph.initializer}
    values = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer if _is_small(one)}
    for one in model.graph.input:
        if one.name not in tensors:
            tensors[one.name] = _given(one, sizes)
    opsets = {item.domain: item.version for item in model.opset_import}
    for node in model.graph.node:
        inputs = [tensors.get(name) for name in node.input]
        found = {name: given[name] for name in node.output if name in given}
        if len(found) < sum(map(bool, node.output)):
            found = _outputs(node, inputs, values, opsets) | found
        if missing := [name for name in node.output if name and name not in found]:
            raise UsageError(
                f"the shape of {missing[0]}, which {node.op_type} makes, cannot be inferred: add a rule to "
                "bench/speed/graph_shapes.py, or tell it with known="
            )
        tensors |= found
        _compute(node, tensors, values, opsets)
    return tensors


def _is_small(tensor: onnx.TensorProto) -> bool:
    whole = tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    inside = tensor.data_location != onnx.TensorProto.EXTERNAL
    return whole and inside and math.prod(tensor.dims) <= MOST_VALUES


def _given(value: onnx.ValueInfoProto, sizes: Mapping[str, int]) -> Tensor:
    kind, sides = value.type.tensor_type, list[int]()
    for dim in kind.shape.dim:
        if dim.dim_param and dim.dim_param not in sizes:
            raise UsageError(f"input {value.name} has a free side {dim.dim_param}: say how long it is")
        sides.append(sizes[dim.dim_param] if dim.dim_param else dim.dim_value)
    return Tensor(tuple(sides), kind.elem_type)


def _outputs(
    node: onnx.NodeProto,
    inputs: Sequence[Tensor | None],
    values: Mapping[str, NDArray[Any]],
    opsets: Mapping[str, int],
) -> dict[str, Tensor]:
    """Return what can be inferred of a node's outputs."""
    there = [one for one in inputs if one is not None]
    if rule := RULES.get(node.op_type if node.domain else ""):
        return dict(zip(node.output, rule(node, there)))
    if node.domain in ("", "ai.onnx"):
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, opsets.get("", 1)), "")
        kinds = {
            name: helper.make_tensor_type_proto(one.kind, one.shape)
            for name, one in zip(node.input, inputs)
            if one is not None
        }
        data = {name: numpy_helper.from_array(values[name], name) for name in node.input if name in values}
        versions = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
        types = onnx.shape_inference.infer_node_outputs(schema, node, kinds, data, None, versions, 10)
        return {name: tensor for name, kind in types.items() if (tensor := _whole(kind)) is not None}
    return {}


def _whole(kind: onnx.TypeProto) -> Tensor | None:
    """A tensor whose sides are all known."""
    inner = kind.tensor_type
    if not inner.HasField("shape") or not all(dim.HasField("dim_value") for dim in inner.shape.dim):
        return None
    return Tensor(tuple(dim.dim_value for dim in inner.shape.dim), inner.elem_type)


def _compute(
    node: onnx.NodeProto, tensors: Mapping[str, Tensor], values: dict[str, NDArray[Any]], opsets: Mapping[str, int]
) -> None:
    """Compute the values of a node's outputs where they are few, whole, and depend on values and shapes alone."""
    small = all(
        tensors[name].elements <= MOST_VALUES and tensors[name].kind in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
        for name in node.output
        if name
    )
    if node.domain or not small:
        return
    if node.op_type == "Shape":
        ends = {one.name: one.i for one in node.attribute}
        shape = tensors[node.input[0]].shape
        values[node.output[0]] = np.array(shape[ends.get("start", 0) : ends.get("end", len(shape))], np.int64)
    elif all(name in values for name in node.input if name):
        run = ReferenceEvaluator(node, opsets={"": opsets.get("", 20)})
        found = run.run(None, {name: values[name] for name in node.input if name})
        values |= {name: np.asarray(value) for name, value in zip(node.output, found) if name}


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return an attribute of a node, or what stands for it when it is absent."""
    return next((helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


def _product(node: onnx.NodeProto, inputs: Sequence[Tensor]) -> list[Tensor]:
    left, right = inputs[0].shape, inputs[1].shape
    rows = left[-1] if attribute(node, "transA", 0) else left[-2]
    columns = right[-2] if attribute(node, "transB", 0) else right[-1]
    outer = np.broadcast_shapes(left[:-2], right[:-2])
    return [Tensor((*outer, rows, columns), FLOAT)]


def _broadcast(*places: int) -> Callable[[onnx.NodeProto, Sequence[Tensor]], list[Tensor]]:
    def rule(node: onnx.NodeProto, inputs: Sequence[Tensor]) -> list[Tensor]:
        del node
        return [Tensor(np.broadcast_shapes(*(inputs[place].shape for place in places)), inputs[0].kind)]

    return rule


def _quantized_convolution(node: onnx.NodeProto, inputs: Sequence[Tensor]) -> list[Tensor]:
    """QLinearConv; images are [N, C, H, W], or [N, H, W, C] with ``channels_last``."""
    image, weights = inputs[0].shape, inputs[3].shape
    last = bool(attribute(node, "channels_last", 0))
    sides = image[1:-1] if last else image[2:]
    count = len(sides)
    pads, strides = attribute(node, "pads", [0] * 2 * count), attribute(node, "strides", [1] * count)
    dilations = attribute(node, "dilations", [1] * count)
    if attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return []
    across = [
        (side + pads[i] + pads[i + count] - dilations[i] * (weights[2 + i] - 1) - 1) // strides[i] + 1
        for i, side in enumerate(sides)
    ]
    shape = (image[0], *across, weights[0]) if last else (image[0], weights[0], *across)
    return [Tensor(shape, inputs[0].kind)]


def _query_heads(node: onnx.NodeProto, inputs: Sequence[Tensor]) -> list[Tensor]:
    """MultiHeadAttention without packed inputs: [N, length, heads * d] of queries, keys and values."""
    del node
    if len(inputs) < 3 or any(len(one.shape) != 3 for one in inputs[:3]):
        return []
    return [Tensor((*inputs[0].shape[:2], inputs[2].shape[2]), inputs[0].kind)]


def _normalized_sum(node: onnx.NodeProto, inputs: Sequence[Tensor]) -> list[Tensor]:
    """SkipLayerNormalization, whose fourth output is the sum; the two between, if any, are not computed."""
    del node
    return [inputs[0], Tensor((0,), FLOAT), Tensor((0,), FLOAT), inputs[0]]


RULES: dict[str, Callable[[onnx.NodeProto, Sequence[Tensor]], list[Tensor]]] = {
    "FusedMatMul": _product,
    "MatMulIntegerToFloat": _product,
    "DynamicQuantizeMatMul": _product,
    "QLinearConv": _quantized_convolution,
    "QLinearAdd": _broadcast(0, 3),
    "QLinearMul": _broadcast(0, 3),
    "Gelu": _broadcast(0),
    "FastGelu": _broadcast(0),
    "QuickGelu": _broadcast(0),
    "BiasGelu": _broadcast(0),
    "MultiHeadAttention": _query_heads,
    "SkipLayerNormalization": _normalized_sum,
    "SkipSimplifiedLayerNormalization": _normalized_sum,
}
"""Of ONNX Runtime's own operators."""
