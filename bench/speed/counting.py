"""Operations and bytes of an ONNX graph, node by node.

* An operation is one addition, one multiplication, or one elementary function (exp, tanh, erf, square root, division,
  comparison, rounding). A multiply-add is two.
* Matrix products, convolutions and attention count their multiply-adds; what else each does to an element of its result
  (a bias, a scale) is added. ``PER_ELEMENT`` says how many operations others do to an element.
* Bytes are all inputs, weights and outputs of a node, each moved once. Of a table or a tensor that is only cut, what is
  taken counts twice: read and written. A change of shape moves nothing.

* What depends on constants alone, such as a cast of stored weights, is done once when a graph is loaded: it counts as
  nothing.

So bytes are those of a node that finds nothing in a cache, and leaves nothing there. Products whose two factors come
from ``DequantizeLinear`` count as 8-bit products, as they will run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx
from graph_shapes import Tensor, attribute, infer

Kind = Literal["fp32", "fp16", "int8"]

PER_ELEMENT = dict.fromkeys(
    [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Max",
        "Min",
        "Neg",
        "Abs",
        "Relu",
        "Sqrt",
        "Reciprocal",
        "Erf",
        "Exp",
        "Log",
        "Tanh",
        "Sigmoid",
        "Sin",
        "Cos",
        "Cast",
        "Round",
        "Floor",
        "Ceil",
        "Pow",
        "Where",
        "Equal",
        "Less",
        "Greater",
        "LessOrEqual",
        "GreaterOrEqual",
        "And",
        "Or",
        "Not",
        "Mod",
        "Sum",
        "Mean",
    ],
    1,
) | {
    "Clip": 2,
    "LeakyRelu": 2,
    "Swish": 2,
    "Gelu": 5,  # divide, erf, add, two products
    "FastGelu": 8,  # a polynomial of degree 3 in place of erf
    "QuickGelu": 3,
    "BiasGelu": 6,
    "Softmax": 5,  # maximum, difference, exp, sum, division
    "LogSoftmax": 5,
    "LayerNormalization": 7,  # sum, difference, square, sum, scale, gain, bias
    "SkipLayerNormalization": 8,
    "SimplifiedLayerNormalization": 4,
    "SkipSimplifiedLayerNormalization": 5,
    "RMSNormalization": 4,
    "InstanceNormalization": 7,
    "GroupNormalization": 7,
    "BatchNormalization": 2,
    "QuantizeLinear": 4,  # scale, round, zero point, clip
    "DequantizeLinear": 2,
    "DynamicQuantizeLinear": 6,  # and the least and greatest
    "QLinearAdd": 9,  # two dequantised, one sum, quantised
    "QLinearMul": 9,
    "QLinearSigmoid": 7,
    "QLinearLeakyRelu": 8,
    "QLinearSoftmax": 11,
}
"""Operations on each element of the (first) result."""
REDUCTIONS = dict.fromkeys(
    [
        "ReduceSum",
        "ReduceMean",
        "ReduceMax",
        "ReduceMin",
        "ArgMax",
        "ArgMin",
        "GlobalAveragePool",
        "CumSum",
    ],
    1,
) | {"ReduceL2": 2, "ReduceSumSquare": 2, "ReduceLogSumExp": 3}
"""Operations on each element of the first input."""
TAKES = set(["Gather", "GatherElements", "GatherND", "Slice"])
"""What these read is what they give."""
VIEWS = set(["Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Size", "Constant", "ConstantOfShape"])
MOVES = TAKES | set(
    [
        "Transpose",
        "Concat",
        "Split",
        "Expand",
        "Pad",
        "DepthToSpace",
        "SpaceToDepth",
        "Resize",
        "Tile",
        "ScatterElements",
        "ScatterND",
        "ReorderInput",
        "ReorderOutput",
        "Range",
    ]
)
PRODUCTS = {
    "MatMul": 0,
    "FusedMatMul": 1,  # the factor alpha
    "MatMulInteger": 0,
    "QLinearMatMul": 4,
    "MatMulIntegerToFloat": 2,
    "DynamicQuantizeMatMul": 2,
    "Gemm": 1,
    "FusedGemm": 2,
    "QGemm": 4,
}
"""Matrix products, and what they do to each element of the result besides."""
CONVOLUTIONS = {"Conv": 1, "FusedConv": 2, "ConvInteger": 0, "QLinearConv": 5, "ConvTranspose": 1}
ATTENTION = {"Attention", "MultiHeadAttention"}
SCORE = 6
"""Operations on each score of an attention besides its products: a scale and a softmax."""


@dataclass(frozen=True)
class Count:
    """What a node does once."""

    name: str
    op_type: str
    multiply_adds: int
    others: int
    """Operations besides multiply-adds."""
    bytes: int
    kind: Kind
    """Of its factors, for products; else of its result."""
    known: bool = True
    """False for an operator that no table here has; its operations count as none."""

    @property
    def operations(self) -> int:
        """All operations; a multiply-add is two."""
        return 2 * self.multiply_adds + self.others


def count(
    model: onnx.ModelProto, sizes: Mapping[str, int], known: Mapping[str, Tensor] | None = None
) -> tuple[Count, ...]:
    """Count a graph for inputs whose free sides have ``sizes``; one entry for each node, in their order.

    ``known`` tells tensors that ONNX cannot infer. Raises UsageError as :func:`graph_shapes.infer` does.
    """
    tensors = infer(model, sizes, known)
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    fixed = constants(model)
    return tuple(
        Count(_name(node), node.op_type, 0, 0, 0, "fp32")
        if fixed.issuperset(node.output)
        else _counted(node, tensors, made)
        for node in model.graph.node
    )


def constants(model: onnx.ModelProto) -> set[str]:
    """Return the names of all tensors that no input of the graph has a part in."""
    found = {one.name for one in model.graph.initializer}
    for node in model.graph.node:
        if found.issuperset(filter(None, node.input)):
            found.update(node.output)
    return found - {one.name for one in model.graph.input}


def least_bytes(model: onnx.ModelProto, sizes: Mapping[str, int]) -> int:
    """Bytes that a run moves at least: inputs, outputs and weights, each once; of a table only what is taken.

    Raises UsageError as :func:`graph_shapes.infer` does.
    """
    tensors, fixed, read = infer(model, sizes), constants(model), dict[str, int]()
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name in fixed and not fixed.issuperset(node.output):
                taken = place == 0 and node.op_type in TAKES
                read[name] = max(read.get(name, 0), tensors[node.output[0] if taken else name].bytes)
    ends = (*model.graph.input, *model.graph.output)
    return sum(read.values()) + sum(tensors[one.name].bytes for one in ends)


def operations(counts: Sequence[Count]) -> int:
    """All operations of a graph."""
    return sum(one.operations for one in counts)


def product_operations(counts: Sequence[Count]) -> int:
    """Operations of products, convolutions and attention alone, as torch's ``FlopCounterMode`` counts."""
    return sum(2 * one.multiply_adds for one in counts)


def _counted(node: onnx.NodeProto, tensors: Mapping[str, Tensor], made: Mapping[str, str]) -> Count:
    empty = Tensor((0,), onnx.TensorProto.FLOAT)
    inputs = [tensors.get(name, empty) for name in node.input]
    outputs = [tensors[name] for name in node.output if name]
    result = outputs[0]
    products, others, known = 0, 0, True
    if node.op_type in PRODUCTS:
        left = inputs[0].shape
        products = result.elements * (left[-2] if attribute(node, "transA", 0) else left[-1])
        others = result.elements * (PRODUCTS[node.op_type] if node.op_type != "Gemm" else len(inputs) - 2)
    elif node.op_type in CONVOLUTIONS:
        weights = inputs[3 if node.op_type == "QLinearConv" else 1].shape
        base = inputs[0] if node.op_type == "ConvTranspose" else result
        products = base.elements * math.prod(weights[1:])
        biased = node.op_type != "Conv" or len([name for name in node.input if name]) > 2
        others = result.elements * CONVOLUTIONS[node.op_type] if biased else 0
    elif node.op_type in ATTENTION and len(inputs) > 2 and inputs[1].elements:
        products, others = _attention(node, inputs)
    elif node.op_type in PER_ELEMENT:
        several = len(inputs) - 1 if node.op_type in ("Sum", "Mean", "Max", "Min") else 1
        others = result.elements * PER_ELEMENT[node.op_type] * max(1, several)
    elif node.op_type in REDUCTIONS:
        others = inputs[0].elements * REDUCTIONS[node.op_type]
    elif node.op_type in ("MaxPool", "AveragePool"):
        others = result.elements * math.prod(attribute(node, "kernel_shape", [1]))
    else:
        known = node.op_type in VIEWS | MOVES
    factors = inputs if products else [result]
    return Count(
        name=_name(node),
        op_type=node.op_type,
        multiply_adds=products,
        others=others,
        bytes=_bytes(node, tensors),
        kind=_kind(factors, [made.get(name, "") for name in node.input[:2]] if products else []),
        known=known,
    )


def _name(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]


def _attention(node: onnx.NodeProto, inputs: Sequence[Tensor]) -> tuple[int, int]:
    """Multiply-adds and other operations of attention on [N, heads, length, d] or [N, length, heads * d].

    Both products count in full, under a causal mask too.
    """
    queries, keys, values = (one.shape for one in inputs[:3])
    if len(queries) == 4:
        batch, heads, length, width = queries
        seen, value_width = keys[2], values[3]
    else:
        heads = attribute(node, "q_num_heads", attribute(node, "num_heads", 1))
        batch, length, width = queries[0], queries[1], queries[2] // heads
        seen, value_width = keys[1], values[2] // attribute(node, "kv_num_heads", heads)
    if node.op_type == "Attention" and len(inputs) > 4:
        seen += inputs[4].shape[2] if len(inputs[4].shape) == 4 else 0
    scores = batch * heads * length * seen
    return scores * (width + value_width), scores * SCORE


def _bytes(node: onnx.NodeProto, tensors: Mapping[str, Tensor]) -> int:
    if node.op_type in VIEWS:
        return 0
    written = sum(tensors[name].bytes for name in node.output if name)
    names = dict.fromkeys(name for name in node.input if name)  # a tensor that is read twice is read once
    if node.op_type in TAKES:
        return 2 * written + sum(tensors[name].bytes for name in list(names)[1:])
    return written + sum(tensors[name].bytes for name in names if name in tensors)


def _kind(factors: Sequence[Tensor], makers: Sequence[str]) -> Kind:
    eight = (onnx.TensorProto.UINT8, onnx.TensorProto.INT8)
    if factors and factors[0].kind in eight:
        return "int8"
    if len(makers) == 2 and all(maker == "DequantizeLinear" for maker in makers):
        return "int8"
    return "fp16" if factors and factors[0].kind == onnx.TensorProto.FLOAT16 else "fp32"
