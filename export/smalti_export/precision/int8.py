"""int8 with static, calibrated scales, so that a sample's result never depends on what else is in its batch.

Matrix products with constant weights and convolutions run in 8 bit (unsigned activations, signed weights with a scale
per output channel: the fastest pair on x86); norms, softmax and attention's own products stay fp32. An activation's
range is the one of least squared error on real inputs (``ranges``), and where a ReLU follows, what that lets through.
"""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from smalti_export.graphs.trace import remade, strip_traces
from smalti_export.precision.activation_ranges import Feed, activation_ranges

QUANTIZED = ("MatMul", "Conv")
"""Operators that run in 8 bit."""
LARGEST = 2**31 - 2**24
"""Bytes of weights that a graph to be quantised may have inside: what protobuf can write, and some room."""


class _Reader(CalibrationDataReader):
    """Hands real inputs to the calibrator, one batch at a time."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Give the next batch, or None after the last."""
        return next(self._feeds, None)


def too_large(proto: onnx.ModelProto) -> str | None:
    """Say why an fp32 graph, its weights inside or beside it, cannot be quantised; None where it can."""
    size = sum(4 * math.prod(initializer.dims) for initializer in proto.graph.initializer)
    if size <= LARGEST:
        return None
    return f"calibration takes graphs of at most {LARGEST / 1e9:.1f} GB of fp32 weights, and this has {size / 1e9:.1f}"


def quantize(proto: onnx.ModelProto, feeds: Sequence[Feed], keep: Sequence[str] = ()) -> onnx.ModelProto:
    """Quantise an fp32 graph whose weights are inside, with scales calibrated on ``feeds``.

    ``feeds`` are real inputs of the graph; a single batch size among them is enough. ``keep`` names nodes that stay
    fp32. Raises ValueError when there is nothing to calibrate on.
    """
    if not feeds:
        raise ValueError("static scales need at least one batch to calibrate on")
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, prepared, target = (Path(folder) / name for name in ("fp32.onnx", "prepared.onnx", "int8.onnx"))
        onnx.save(activations_first(proto), source)
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        whole = onnx.load(prepared)
        keep = [*keep, *products_of_activations(whole)]
        # Of a graph's own outputs the extremes are what counts: the greatest logit is the likeliest token.
        last = set(last_layers(whole, 1))
        outputs = {node.output[0] for node in whole.graph.node if node.name in last}
        ranges = activation_ranges(whole, quantized_tensors(whole, keep), feeds, outputs)
        quantize_static(
            str(prepared),
            str(target),
            _Reader([least(whole, feeds[0])]),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*QUANTIZED, "Relu"],  # which the convolution before it then does by its range
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=keep,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "TensorQuantOverrides": {
                    name: [{"rmin": np.float32(low), "rmax": np.float32(high)}] for name, (low, high) in ranges.items()
                }
            },
        )
        result = onnx.load(target)
    strip_traces(result)
    used = {node.domain for node in result.graph.node}
    opsets = [item for item in result.opset_import if item.domain in used]  # without the tools' own, which none needs
    del result.opset_import[:]
    result.opset_import.extend(opsets)
    return result


def least(proto: onnx.ModelProto, feed: Feed) -> Feed:
    """One value along every free side of a graph's inputs: as little as it can be asked.

    The quantiser insists on calibrating, though every range is given, and keeps all that the graph computes: 22 GB of
    two images of 1024 x 1024 pixels.
    """
    one = {
        given.name: tuple(slice(0, 1) if dim.dim_param else slice(None) for dim in given.type.tensor_type.shape.dim)
        for given in proto.graph.input
    }
    return {name: value[one[name]] if name in one else value for name, value in feed.items()}


def activations_first(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the graph with every ReLU that follows a pixel shuffle moved before it: the same function.

    Behind its convolution it spares that one's 8 bits the values that it would throw away, half of them.
    """
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in proto.graph.node]
    for first, shuffle in enumerate(nodes):
        if shuffle.op_type != "DepthToSpace":
            continue
        users = [index for index, node in enumerate(nodes) if shuffle.output[0] in node.input]
        if len(users) == 1 and nodes[users[0]].op_type == "Relu":
            relu = nodes[users[0]]
            before, between, after = shuffle.input[0], shuffle.output[0], relu.output[0]
            relu.input[0], relu.output[0], shuffle.input[0], shuffle.output[0] = before, between, between, after
            nodes[first], nodes[users[0]] = relu, shuffle
    return remade(proto, nodes, proto.graph.initializer)


def quantized_tensors(proto: onnx.ModelProto, keep: Iterable[str]) -> list[str]:
    """Activations that are held in 8 bits when all products and convolutions but those to ``keep`` are."""
    constants, kept = {initializer.name for initializer in proto.graph.initializer}, set(keep)
    held: dict[str, None] = {}
    for node in proto.graph.node:
        if (node.op_type in QUANTIZED and node.name not in kept) or node.op_type == "Relu":
            inputs = node.input[:2] if node.op_type == "MatMul" else node.input[:1]
            held.update(dict.fromkeys(name for name in (*inputs, node.output[0]) if name not in constants))
    return list(held)


def last_layers(proto: onnx.ModelProto, count: int) -> list[str]:
    """Names of the last ``count`` nodes that would run in 8 bit: what they err by, no later layer evens out."""
    attention = products_of_activations(proto)
    names = [node.name for node in proto.graph.node if node.op_type in QUANTIZED and node.name not in attention]
    return names[len(names) - count :] if count else []


def products_of_activations(proto: onnx.ModelProto) -> list[str]:
    """Names of the matrix products without a constant factor: attention's, which need more than 8 bits."""
    constants = {initializer.name for initializer in proto.graph.initializer}
    products = (node for node in proto.graph.node if node.op_type == "MatMul")
    return [node.name for node in products if not constants & set(node.input)]


@contextlib.contextmanager
def _quiet():
    """Keep the quantiser's advice on preprocessing (which is done) off the terminal."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
