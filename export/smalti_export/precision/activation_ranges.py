"""Choose the range that 8 bits cover for each activation: the one with the least squared error, not the full range.

A few outliers would make the steps for all other values coarse. Clipping them costs little; its error is weighed
against the gain from finer steps (Sung et al. 2015; Nagel et al. 2021, section 3.1).
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from smalti_export.graphs.trace import in_order_of_nodes, looked_at

SAMPLES = 1 << 14
"""Values sampled per tensor and batch: a random one from each of this many equal parts, to cover every channel."""
SHARES = np.linspace(1.0, 0.3, 36)
"""Fractions of the full range that are tried."""
LEVELS = 255

Feed = dict[str, NDArray[Any]]


def activation_ranges(
    proto: onnx.ModelProto, tensors: Sequence[str], feeds: Sequence[Feed], whole: Container[str] = ()
) -> dict[str, tuple[float, float]]:
    """Lowest and highest value that 8 bits should cover for each of ``tensors``, measured on ``feeds``.

    ``tensors`` are float tensors of a graph that holds its weights. Each range contains 0. Tensors in ``whole`` get
    their full range.
    """
    if not tensors:
        return {}
    session = onnxruntime.InferenceSession(
        _sampled(proto, tensors).SerializeToString(), in_order_of_nodes(), providers=["CPUExecutionProvider"]
    )
    names = [f"{name}{suffix}" for name in tensors for suffix in (_LOW, _HIGH, _SOME)]
    runs: list[Any] = [session.run(names, feed) for feed in feeds]
    ranges: dict[str, tuple[float, float]] = {}
    for index, name in enumerate(tensors):
        low, high, values = (np.concatenate([np.ravel(run[3 * index + i]) for run in runs]) for i in range(3))
        ends = float(min(0, low.min())), float(max(0, high.max()))
        ranges[name] = ends if name in whole else least_error(values, *ends)
    return ranges


def least_error(values: NDArray[np.floating[Any]], low: float, high: float) -> tuple[float, float]:
    """The part of ``low`` .. ``high`` in which 8 bits represent ``values`` with the least squared error.

    ``low`` <= 0 <= ``high``.
    """
    best = (low, high)
    least = np.inf
    for share in SHARES if high > low else ():
        scale = share * (high - low) / LEVELS
        zero = round(-share * low / scale)
        shown = (np.clip(np.rint(values / scale) + zero, 0, LEVELS) - zero) * scale
        error = float(np.square(shown - values).mean())
        if error < least:
            best, least = (share * low, share * high), error
    return best


_LOW, _HIGH, _SOME = ".low", ".high", ".some"


def _sampled(proto: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """The graph with three outputs per tensor instead of its own: minimum, maximum and ``SAMPLES`` values.

    Whole tensors would fill the memory: a decoder at full resolution makes gigabytes of them.
    """
    where = (np.arange(SAMPLES) + np.random.default_rng(0).random(SAMPLES)) / SAMPLES
    constants = {".where": where, ".flat": np.array([-1])}
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    names = [name + suffix for name in tensors for suffix in (_LOW, _HIGH, _SOME)]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    return looked_at(proto, {name: _looks(name) for name in tensors}, outputs, initializers)


def _looks(name: str) -> list[onnx.NodeProto]:
    """Nodes that compute a tensor's minimum, maximum and sampled values."""
    return [
        helper.make_node("ReduceMin", [name], [name + _LOW], keepdims=0),
        helper.make_node("ReduceMax", [name], [name + _HIGH], keepdims=0),
        helper.make_node("Size", [name], [f"{name}.size"]),
        helper.make_node("Cast", [f"{name}.size"], [f"{name}.length"], to=TensorProto.DOUBLE),
        helper.make_node("Mul", [f"{name}.length", ".where"], [f"{name}.place"]),
        helper.make_node("Cast", [f"{name}.place"], [f"{name}.index"], to=TensorProto.INT64),
        helper.make_node("Reshape", [name, ".flat"], [f"{name}.row"]),
        helper.make_node("Gather", [f"{name}.row", f"{name}.index"], [name + _SOME]),
    ]
