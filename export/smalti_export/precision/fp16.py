"""How an fp16 graph behaves on hardware that computes in fp16: its range and its rounding.

ONNX Runtime's CPU provider has no fp16 kernels. It runs such a graph in fp32 and drops most of the casts, so an
overflow that a GPU would show (black images from VQ decoders) is hidden. Here the graph is converted to fp32 on
purpose: once to measure how large each tensor becomes, and once with every tensor rounded to fp16, as a GPU stores it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from smalti.families.autoregressive.past import Graph
from smalti_export.graphs.trace import in_order_of_nodes, looked_at, remade
from smalti_export.precision.activation_ranges import Feed


def fp16_tensors(proto: onnx.ModelProto) -> set[str]:
    """Names of a graph's fp16 tensors, weights included.

    Raises ValueError when the graph contains subgraphs (If, Loop) or a tensor of unknown type.
    """
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
    """Convert an fp16 graph with external weights to compute in fp32; with ``rounded``, round each result to fp16.

    ``halves`` are its :func:`fp16_tensors`. Inputs, outputs and the weight file stay as they are.
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
    """Replace a node's casts to fp16 and its fp16 constants by fp32 ones."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
            attribute.i = TensorProto.FLOAT
        if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT16:
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float32)))


def on_cpu(proto: onnx.ModelProto, weights: tuple[str, bytes]) -> Graph:
    """A function that runs a graph on the CPU.

    ``weights`` are the name and bytes of its weight file. Inputs that the graph does not have are ignored.
    """
    options = in_order_of_nodes()
    file, content = weights
    options.add_external_initializers_from_files_in_memory([file], [content], [len(content)])
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    known = {node.name for node in session.get_inputs()}
    return lambda inputs: session.run(None, {name: value for name, value in inputs.items() if name in known})


def greatest(
    proto: onnx.ModelProto, weights: tuple[str, bytes], halves: Collection[str], feeds: Sequence[Feed]
) -> dict[str, float]:
    """Greatest magnitude of each computed fp16 tensor of a graph on ``feeds``, computed in fp32.

    Infinities are ignored: masks contain them, and fp16 can hold them. ``weights`` are the name and bytes of the weight
    file.
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
