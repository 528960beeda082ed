"""What this machine reaches at best: products in fp32 and int8, and copies, measured by ONNX Runtime itself.

Every ceiling is the rate of one operator on data of its own, timed by the same profiler as the nodes of a model. A copy
is an ``Add`` of two arrays, whose bytes are two reads and a write, at several sizes: what fits into a cache is copied
faster, so a node is compared with a copy of its own size.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from counting import Count, Kind
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from profiling import profiled

SIDES = (256, 512, 1024)
"""Of the square matrices that are multiplied; the rate is that of the side that does best."""
COPIES = (2**18, 2**20, 2**22, 2**24, 3 * 2**26)
"""Bytes that copies move; the last are more than caches hold."""


@dataclass(frozen=True)
class Ceilings:
    """Rates of a machine with a number of threads."""

    threads: int
    products: dict[str, float]
    """Operations per second by the kind of the factors; fp16 is computed in fp32 on a CPU."""
    copies: dict[int, float]
    """Bytes per second by the bytes that are moved."""

    def copy(self, size: int) -> float:
        """Bytes per second of a copy that moves ``size`` bytes, between the two nearest that were measured."""
        sizes = sorted(self.copies)
        where = np.log([max(1, size)])
        return float(np.exp(np.interp(where, np.log(sizes), np.log([self.copies[one] for one in sizes])))[0])

    def least_seconds(self, one: Count) -> float:
        """Seconds that a node takes at least by the roofline (Williams, Waterman and Patterson 2009).

        They are the greater of its operations at the machine's product rate and its bytes at the copy's rate.
        """
        compute = one.operations / self.products[one.kind if one.multiply_adds else "fp32"]
        return max(compute, one.bytes / self.copy(one.bytes) if one.bytes else 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, for JSON."""
        return asdict(self)


def measured(threads: int, folder: Path, runs: int = 30, spinning: str = "0") -> Ceilings:
    """Measure the machine. Graphs are kept in ``folder`` while they run. It takes some seconds."""
    kinds: tuple[Kind, ...] = ("fp32", "int8")
    rates = {kind: max(product_rate(kind, side, threads, folder, runs, spinning) for side in SIDES) for kind in kinds}
    copies = {size: _copy(size, threads, folder, runs, spinning) for size in COPIES}
    return Ceilings(threads, {**rates, "fp16": rates["fp32"]}, copies)


def product_rate(kind: Kind, side: int, threads: int, folder: Path, runs: int = 30, spinning: str = "0") -> float:
    """Operations per second of a product of square matrices, fp32, or 8-bit inputs with 8-bit weights."""
    rng = np.random.default_rng(0)
    if kind == "int8":
        left: NDArray[Any] = rng.integers(0, 256, (side, side), np.uint8)
        weights = {
            "w": rng.integers(-127, 128, (side, side), np.int8),
            "left_scale": np.float32(0.01),
            "scale": np.full(side, 0.01, np.float32),
            "zero": np.uint8(128),
            "bias": np.zeros(side, np.float32),
        }
        node = helper.make_node(
            "MatMulIntegerToFloat",
            ["x", "w", "left_scale", "scale", "zero", "", "bias"],
            ["y"],
            "timed",
            domain="com.microsoft",
        )
        given = TensorProto.UINT8
    else:
        left = rng.standard_normal((side, side), np.float32)
        weights = {"w": rng.standard_normal((side, side), np.float32)}
        node, given = helper.make_node("MatMul", ["x", "w"], ["y"], "timed"), TensorProto.FLOAT
    path = _written(folder / f"product-{kind}-{side}.onnx", [node], {"x": (given, [side, side])}, weights)
    return 2 * side**3 / profiled(path, {"x": left}, threads, runs, spinning).seconds["timed"]


def _copy(size: int, threads: int, folder: Path, runs: int, spinning: str) -> float:
    count = size // 12
    feed = {name: np.random.default_rng(0).standard_normal(count, np.float32) for name in ("x", "x2")}
    node = helper.make_node("Add", ["x", "x2"], ["y"], "timed")
    inputs = {name: (int(TensorProto.FLOAT), [count]) for name in feed}
    path = _written(folder / f"copy-{size}.onnx", [node], inputs, {})
    # A few microseconds are told in whole ones, so small copies run more often.
    often = runs * max(1, round(math.sqrt(COPIES[-1] / size) / 4))
    return size / profiled(path, feed, threads, often, spinning).seconds["timed"]


def _written(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[int]]],
    weights: dict[str, Any],
) -> Path:
    """Write a graph that gives the first number of ``y``, so that nothing large is copied out."""
    axes = len(next(iter(inputs.values()))[1])
    cut = {"starts": np.zeros(axes, np.int64), "ends": np.ones(axes, np.int64)}
    graph = helper.make_graph(
        [*nodes, helper.make_node("Slice", ["y", "starts", "ends"], ["first"], "cut")],
        "ceiling",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info("first", TensorProto.FLOAT, [1] * axes)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in {**weights, **cut}.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
    return path
