"""Rewrite an fp16 graph so that no tensor overflows fp16 on real inputs.

Operators that read or write a tensor too large for fp16 run in fp32, except matrix products and convolutions: they are
nearly all of the work, and TensorRT-RTX has only fp16 matrix products for Turing. Their inputs are divided by a power
of two, and their results are multiplied by it in fp32. This loses digits only in values that become smaller than 2^-14.
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
"""Greatest finite fp16 number."""
ROOM = 4.0
"""Safety factor on measured magnitudes: other inputs may reach larger values."""
PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")


def too_large(greatest: Mapping[str, float]) -> set[str]:
    """Names of the tensors that may overflow fp16, from the greatest magnitude of each."""
    return {name for name, value in greatest.items() if value * ROOM > LARGEST}


def kept_in_range(
    proto: onnx.ModelProto, halves: Collection[str], greatest: Mapping[str, float]
) -> tuple[onnx.ModelProto, int]:
    """Rewrite a graph so that no fp16 tensor is too large; return it and the number of changed nodes.

    ``halves`` are the graph's fp16 tensors and ``greatest`` the measured magnitudes of the computed ones
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
    """The nodes written so far, and the fp32 versions of fp16 tensors."""

    def __init__(
        self, proto: onnx.ModelProto, halves: Collection[str], greatest: Mapping[str, float], over: Collection[str]
    ) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self._halves, self._greatest, self._over = halves, greatest, over
        self._ranks = {tensor.name: len(tensor.dims) for tensor in proto.graph.initializer}
        self._wide: dict[str, str] = {}

    def widen(self, node: onnx.NodeProto) -> None:
        """Add a node that runs in fp32 instead of fp16."""
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
        """Add a product that runs in fp16 on inputs scaled down until they and the result are within range."""
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
        if len(node.input) == 3:  # add the bias after scaling back
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
        """Record ``wide`` as the fp32 version of ``name``; also cast it to fp16 when it fits."""
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
        """An fp16 tensor divided by two to the ``power``."""
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
    """Exponent of the power of two that brings a magnitude within range."""
    return max(0, math.ceil(math.log2(value * ROOM / LARGEST))) if value else 0
