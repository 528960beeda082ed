"""A graph's nodes by the tensors that they make and read, for those who rewrite it."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


class Graph:
    """Nodes of a graph by the tensors that they make and read."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        self.made = {name: node for node in proto.graph.node for name in node.output}
        self.read: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in proto.graph.node:
            for name in node.input:
                self.read[name].append(node)
        self.kept = {value.name for value in proto.graph.output}

    def only_reader(self, name: str, kind: str) -> onnx.NodeProto | None:
        """Return the node of this kind that alone reads a tensor; None where there is no such."""
        readers = self.read[name]
        if len(readers) != 1 or name in self.kept or readers[0].op_type != kind:
            return None
        return readers[0]

    def maker(self, name: str, kind: str) -> onnx.NodeProto | None:
        """Return the node of this kind that makes a tensor; None where there is no such."""
        node = self.made.get(name)
        return node if node is not None and node.op_type == kind else None

    def value(self, name: str) -> NDArray[np.generic]:
        """Return a constant."""
        return numpy_helper.to_array(self.constants[name])
