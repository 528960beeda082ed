"""Graphs as TensorRT takes them."""

from __future__ import annotations

import onnx
from onnx import TensorProto


def bytes_last(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with the cast to uint8 as its last step, where only a transposition came after it.

    TensorRT knows uint8 in inputs and outputs alone. A transposition moves values and changes none, so that pixels
    are the same, bit for bit.
    """
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    makers = {name: node for node in graph.node for name in node.output}
    for output in graph.output:
        if output.type.tensor_type.elem_type != TensorProto.UINT8:
            continue
        moves: list[onnx.NodeProto] = []
        node = makers[output.name]
        while node.op_type == "Transpose":
            moves.append(node)
            node = makers[node.input[0]]
        if moves and node.op_type == "Cast":
            cast = onnx.NodeProto()
            cast.CopyFrom(node)
            moves[-1].input[0] = node.input[0]
            moves[0].output[0] = f"{output.name}.values"
            cast.input[0], cast.output[0] = f"{output.name}.values", output.name
            graph.node.remove(node)
            graph.node.append(cast)
    return result
