"""Keep an fp16 graph within the range of fp16, where real inputs show that it would leave it.

Every operator that reads or writes a tensor too large for fp16 runs in fp32, but for matrix products and convolutions:
they are nearly all of the work, and TensorRT-RTX has matrix products for Turing in fp16 alone. These take inputs
divided by a power of two, which costs digits only where it makes them smaller than 2^-14, and their results are
multiplied by it in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from smalti_export.graphs.trace import remade
from smalti_export.precision.fp16 import take_to_fp32

LARGEST = 65504.0
"""Of fp16."""
ROOM = 4.0
"""How many times what was seen must fit, as other inputs make of some tensor more than those that were measured."""
PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")


def too_large(greatest: Mapping[str, float]) -> set[str]:
    """Tensors that may leave the range of fp16, by the greatest magnitude of each."""
    return {name for name, value in greatest.items() if value * ROOM > LARGEST}


def kept_in_range(
    proto: onnx.ModelProto, halves: Collection[str], greatest: Mapping[str, float]
) -> tuple[onnx.ModelProto, int]:
    """The same function in which no fp16 tensor is too large, and of how many nodes it took a change.

    ``halves`` are the graph's fp16 tensors and ``greatest`` the magnitudes of those that it computes
    (:mod:`smalti_export.precision.fp16`).
    """
    over = too_large(greatest)
    if not over:
        return proto, 0
    rewriting = _Rewriting(proto, halves, greatest, over)
    changed = 0
    for node in proto.graph.node:
        if over.isdisjoint((*node.input, *node.output)):
            rewriting.nodes.append(node)
            continue
        changed += 1
        if node.op_type in PRODUCTS and not any(one.name == "beta" and one.f != 1 for one in node.attribute):
            rewriting.scale(node)
        else:
            rewriting.widen(node)
    return remade(proto, rewriting.nodes, [*proto.graph.initializer, *rewriting.constants]), changed


class _Rewriting:
    """The nodes written so far, and the fp16 tensors that there is an fp32 version of."""

    def __init__(
        self, proto: onnx.ModelProto, halves: Collection[str], greatest: Mapping[str, float], over: Collection[str]
    ) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self._halves, self._greatest, self._over = halves, greatest, over
        self._ranks = {tensor.name: len(tensor.dims) for tensor in proto.graph.initializer}
        self._wide: dict[str, str] = {}

    def widen(self, node: onnx.NodeProto) -> None:
        """Let a node run in fp32."""
        wide = onnx.NodeProto()
        wide.CopyFrom(node)
        for index, name in enumerate(node.input):
            wide.input[index] = self._as_fp32(name)
        take_to_fp32(wide)
        results = [name for name in node.output if name in self._halves]
        for index, name in enumerate(node.output):
            if name in self._halves:
                wide.output[index] = f"{name}.wide"
        self.nodes.append(wide)
        for name in results:
            self._give(name, f"{name}.wide")

    def scale(self, node: onnx.NodeProto) -> None:
        """Let a product run in fp16, of inputs so much smaller that it and they are within range."""
        (result,) = node.output
        down = [_exponent(self._greatest.get(name, 0.0)) for name in node.input[:2]]
        down[0] += max(0, _exponent(self._greatest.get(result, 0.0)) - sum(down))
        inputs = [self._divided(name, power, f"{result}.{side}") for name, power, side in zip(node.input, down, "01")]
        product = onnx.NodeProto()
        product.CopyFrom(node)
        del product.input[:]
        product.input.extend(inputs)
        product.output[0] = f"{result}.scaled"
        self.nodes.append(product)
        found = self._cast(f"{result}.scaled", f"{result}.unbiased", TensorProto.FLOAT)
        found = self._multiplied(found, 2.0 ** sum(down), np.float32, f"{result}.times")
        if len(node.input) == 3:  # a bias, which was not to be divided
            bias = self._as_fp32(node.input[2])
            if node.op_type != "Gemm":
                shape = f"{result}.shape"
                sides = np.array([1, -1] + [1] * (self._ranks[node.input[1]] - 2), np.int64)
                self.constants.append(numpy_helper.from_array(sides, shape))
                self.nodes.append(helper.make_node("Reshape", [bias, shape], [f"{result}.bias"]))
                bias = f"{result}.bias"
            self.nodes.append(helper.make_node("Add", [found, bias], [f"{result}.biased"]))
            found = f"{result}.biased"
        self._give(result, found)

    def _give(self, name: str, wide: str) -> None:
        """``wide`` is what ``name`` is in fp32; those that can have it in fp16 as well."""
        self._wide[name] = wide
        if name not in self._over:
            self._cast(wide, name, TensorProto.FLOAT16)

    def _as_fp32(self, name: str) -> str:
        if name not in self._halves:
            return name
        if name not in self._wide:
            self._wide[name] = self._cast(name, f"{name}.wide", TensorProto.FLOAT)
        return self._wide[name]

    def _divided(self, name: str, power: int, target: str) -> str:
        """A tensor in fp16, divided by two to the ``power``."""
        if name in self._over:
            wide = self._multiplied(self._wide[name], 2.0**-power, np.float32, f"{target}.wide")
            return self._cast(wide, target, TensorProto.FLOAT16)
        return self._multiplied(name, 2.0**-power, np.float16, target) if power else name

    def _multiplied(self, name: str, factor: float, kind: type[np.floating], target: str) -> str:
        constant = f"{target}.factor"
        self.constants.append(numpy_helper.from_array(np.array(factor, kind), constant))
        self.nodes.append(helper.make_node("Mul", [name, constant], [target]))
        return target

    def _cast(self, name: str, target: str, kind: int) -> str:
        self.nodes.append(helper.make_node("Cast", [name], [target], to=kind))
        return target


def _exponent(value: float) -> int:
    """By which power of two a tensor must be divided to be within range."""
    return max(0, math.ceil(math.log2(value * ROOM / LARGEST))) if value else 0
