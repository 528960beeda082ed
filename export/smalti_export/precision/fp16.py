"""What an fp16 graph does where fp16 is what it computes with: its range, and its rounding.

ONNX Runtime's CPU provider has no fp16 kernels. It runs such a graph in fp32 and leaves out most of the casts between,
so that what overflows on a GPU (VQ decoders do: black images) is fine there. Here the graph is taken into fp32 on
purpose: once to see how large every tensor becomes, and once with every tensor rounded to fp16 as a GPU would store it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from smalti.families.autoregressive.past import Graph
from smalti_export.graphs.trace import in_order_of_nodes, looked_at, remade
from smalti_export.precision.activation_ranges import Feed


def fp16_tensors(proto: onnx.ModelProto) -> set[str]:
    """Names of a graph's fp16 tensors, weights included; ValueError for a graph that has others within (If, Loop)."""
    kinds = {attribute.type for node in proto.graph.node for attribute in node.attribute}
    if onnx.AttributeProto.GRAPH in kinds:
        raise ValueError("the graph has other graphs within, whose tensors are not looked at")
    graph = onnx.shape_inference.infer_shapes(proto).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    kinds |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    if unknown := [name for node in graph.node for name in node.output if name and not kinds.get(name)]:
        raise ValueError(f"the graph does not tell the type of {unknown[0]}")
    return {name for name, kind in kinds.items() if kind == TensorProto.FLOAT16}


def in_fp32(proto: onnx.ModelProto, halves: Collection[str], rounded: bool = False) -> onnx.ModelProto:
    """An fp16 graph (its weights outside) computed in fp32; ``rounded``: each result is rounded to fp16 all the same.

    ``halves`` are its :func:`fp16_tensors`. Inputs, outputs and the file of weights stay as they are.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    nodes: list[onnx.NodeProto] = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT16:
            continue
        if tensor.data_location == TensorProto.EXTERNAL:
            nodes.append(helper.make_node("Cast", [f"{tensor.name}.fp16"], [tensor.name], to=TensorProto.FLOAT))
            tensor.name += ".fp16"
        else:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in graph.node:
        take_to_fp32(node)
        nodes.append(node)
        for index, name in enumerate(node.output):
            if rounded and name in halves:
                node.output[index] = f"{name}.exact"
                nodes.append(helper.make_node("Cast", [f"{name}.exact"], [f"{name}.half"], to=TensorProto.FLOAT16))
                nodes.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    return remade(result, nodes, graph.initializer)


def take_to_fp32(node: onnx.NodeProto) -> None:
    """Let what a node casts to fp16, or has as a constant in fp16, be fp32."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
            attribute.i = TensorProto.FLOAT
        if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT16:
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float32)))


def on_cpu(proto: onnx.ModelProto, weights: tuple[str, bytes]) -> Graph:
    """Run a graph whose weights are those of a file, given by its name and bytes; inputs it does not have are left."""
    options = in_order_of_nodes()
    file, content = weights
    options.add_external_initializers_from_files_in_memory([file], [content], [len(content)])
    session: Any = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    known = {node.name for node in session.get_inputs()}
    return lambda inputs: session.run(None, {name: value for name, value in inputs.items() if name in known})


def greatest(
    proto: onnx.ModelProto, weights: tuple[str, bytes], halves: Collection[str], feeds: Sequence[Feed]
) -> dict[str, float]:
    """The greatest magnitude of each tensor that an fp16 graph computes in fp16, on ``feeds``, as fp32 has it.

    Infinite ends are left out: masks are made of them, and fp16 has them too. ``weights`` are the file that the graph
    reads: its name and its bytes.
    """
    whole = in_fp32(proto, halves)
    names = [name for node in proto.graph.node for name in node.output if name in halves]
    looks = {
        name: [helper.make_node(end, [name], [f"{name}.{end}"], keepdims=0) for end in ("ReduceMin", "ReduceMax")]
        for name in names
    }
    ends = [look.output[0] for name in names for look in looks[name]]
    outputs = [helper.make_tensor_value_info(end, TensorProto.FLOAT, []) for end in ends]
    run = on_cpu(looked_at(whole, looks, outputs), weights)
    found = np.array([run(feed) for feed in feeds], np.float32)
    ends = np.abs(np.where(np.isinf(found), 0, found)).reshape(len(feeds), len(names), 2)
    return dict(zip(names, ends.max((0, 2), initial=0).tolist()))
