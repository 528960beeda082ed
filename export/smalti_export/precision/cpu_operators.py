"""Operators of ONNX Runtime's CPU provider, of which int8 graphs of priors are made; no engine is built from those.

A product with constant weights becomes one operator: 8-bit inputs and weights, their sum in 32 bits, and a float result
with its bias. The input alone is quantised, once for all products that read it; a result is never rounded to 8 bits.
Attention is one operator on [n, length, heads * d], without the transposes that split the heads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from smalti_export.graphs.trace import remade
from smalti_export.precision.activation_ranges import LEVELS
from smalti_export.precision.graph_index import Graph

FUSED_OPSET = 23
"""The first opset with attention as an operator."""
CONTRIB = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""
HEADS_FIRST = [0, 2, 1, 3]
"""Transposition of [n, length, heads, d] to [n, heads, length, d], and back."""


def attention_without_transposes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a graph whose attention reads and writes [n, length, heads * d]; the function is the same.

    Attention whose heads are split in another way stays as it is.
    """
    graph = Graph(proto)
    replaced: dict[int, onnx.NodeProto] = {}
    dropped: set[int] = set()
    for node in proto.graph.node:
        if node.op_type != "Attention" or len(node.input) != 3:
            continue
        split = [_split_heads(graph, name) for name in node.input]
        back = graph.only_reader(node.output[0], "Transpose")
        merged = graph.only_reader(back.output[0], "Reshape") if back is not None else None
        heads = [found[1] for found in split if found and found[1]]
        if not all(split) or not heads or back is None or merged is None or _axes(back) != HEADS_FIRST:
            continue
        given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        given |= {"q_num_heads": heads[0], "kv_num_heads": heads[0]}
        sources = [found[0] for found in split if found]
        # Placed where the last node of the old ones stood: all that it reads is made by then.
        replaced[id(merged)] = helper.make_node("Attention", sources, [merged.output[0]], node.name, **given)
        dropped |= {id(node), id(back)}
    nodes = [replaced.get(id(node), node) for node in proto.graph.node if id(node) not in dropped]
    return remade(proto, _used(nodes, graph.kept), proto.graph.initializer)


def _split_heads(graph: Graph, name: str) -> tuple[str, int] | None:
    """Return what a tensor of heads [n, heads, length, d] is made of, [n, length, heads * d], and how many heads.

    Their number is 0 where the graph computes it. None where the tensor is made otherwise.
    """
    turned = graph.maker(name, "Transpose")
    shaped = graph.maker(turned.input[0], "Reshape") if turned is not None else None
    if turned is None or shaped is None or _axes(turned) != HEADS_FIRST:
        return None
    shape = shaped.input[1]
    return shaped.input[0], int(graph.value(shape)[2]) if shape in graph.constants else 0


def _axes(node: onnx.NodeProto) -> list[int]:
    return next((list(one.ints) for one in node.attribute if one.name == "perm"), list[int]())


def _used(nodes: Collection[onnx.NodeProto], outputs: Collection[str]) -> list[onnx.NodeProto]:
    """Return the nodes, in their order, that something reads."""
    read, kept = set(outputs), list[onnx.NodeProto]()
    for node in reversed(list(nodes)):
        if read.intersection(node.output):
            kept.append(node)
            read.update(node.input)
    return kept[::-1]


def constant_products(proto: onnx.ModelProto, keep: Collection[str] = ()) -> list[onnx.NodeProto]:
    """Return the matrix products with a constant matrix on the right, but for those named in ``keep``."""
    matrices = {tensor.name for tensor in proto.graph.initializer if len(tensor.dims) == 2}
    products = (node for node in proto.graph.node if node.op_type == "MatMul" and node.name not in keep)
    return [node for node in products if node.input[1] in matrices]


def quantized_products(
    proto: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]], keep: Collection[str] = ()
) -> onnx.ModelProto:
    """Copy a graph in which every product with constant weights reads 8-bit inputs; those in ``keep`` stay.

    ``ranges`` tells what 8 bits cover of each product's input. A packed product that is split at once, such as that of
    queries, keys and values, becomes one product for each part.
    """
    graph = Graph(proto)
    chosen = {id(node) for node in constant_products(proto, keep)}
    done: set[int] = set()
    quantized: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = list(proto.graph.initializer)
    for node in proto.graph.node:
        if id(node) in done:
            continue
        if id(node) not in chosen:
            nodes.append(node)
            continue
        source = node.input[0]
        if source not in quantized:
            quantized.add(source)
            nodes.append(_quantizer(source, ranges[source], constants))
        for name, weights, bias in _parts(graph, node, done):
            nodes.append(_product(source, name, weights, bias, constants))
    read = {name for node in nodes for name in node.input}
    made = remade(proto, nodes, [tensor for tensor in constants if tensor.name in read])
    if chosen and CONTRIB not in {item.domain for item in made.opset_import}:
        made.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    return made


def _parts(
    graph: Graph, node: onnx.NodeProto, done: set[int]
) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.float32] | None]]:
    """Yield name, weights [K, N] and bias [N] of each result of a product; nodes that these stand for are ``done``."""
    name, bias = node.output[0], None
    weights = graph.value(node.input[1]).astype(np.float32)
    added = graph.only_reader(name, "Add")
    other = next((one for one in added.input if one != name), "") if added is not None else ""
    if added is not None and other in graph.constants and len(graph.constants[other].dims) == 1:
        bias, name = graph.value(other).astype(np.float32), added.output[0]
        done.add(id(added))
    split = graph.only_reader(name, "Split")
    count = len(split.output) if split is not None else 1
    if split is None or len(split.input) > 1 or weights.shape[1] % count:
        yield name, weights, bias
        return
    done.add(id(split))
    biases = [None] * count if bias is None else np.split(bias, count)
    yield from zip(split.output, np.split(weights, count, axis=1), biases)


def _quantizer(name: str, covered: tuple[float, float], constants: list[onnx.TensorProto]) -> onnx.NodeProto:
    """Return the node that quantises a tensor, and add its scale and zero point to the constants."""
    low, high = covered
    scale = np.float32((high - low) / LEVELS) or np.float32(1)
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, LEVELS))
    scale_name, zero_name, made = _quantized(name)
    constants.append(numpy_helper.from_array(np.asarray(scale), scale_name))
    constants.append(numpy_helper.from_array(np.asarray(zero), zero_name))
    return helper.make_node("QuantizeLinear", [name, scale_name, zero_name], [made])


def _quantized(name: str) -> tuple[str, str, str]:
    return f"{name}.scale", f"{name}.zero", f"{name}.quantized"


def _product(
    source: str,
    name: str,
    weights: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    constants: list[onnx.TensorProto],
) -> onnx.NodeProto:
    """Return a product of 8-bit inputs and weights, with a scale for each column, and add its constants."""
    scales = np.abs(weights).max(axis=0) / 127
    scales[scales == 0] = 1
    found = {
        "weight": np.rint(weights / scales).astype(np.int8),
        "weight.scale": scales.astype(np.float32),
        "weight.zero": np.zeros(len(scales), np.int8),
    } | ({} if bias is None else {"bias": bias})
    constants += [numpy_helper.from_array(value, f"{name}.{kind}") for kind, value in found.items()]
    scale, zero, quantized = _quantized(source)
    given = [quantized, f"{name}.weight", scale, f"{name}.weight.scale", zero, f"{name}.weight.zero"]
    given += [] if bias is None else [f"{name}.bias"]
    return helper.make_node("MatMulIntegerToFloat", given, [name], domain=CONTRIB)
