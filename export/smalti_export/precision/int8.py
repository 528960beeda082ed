"""int8 graphs with static, calibrated scales, so that a sample never depends on the rest of its batch.

Matrix products with constant weights and convolutions run in 8 bit: unsigned activations and signed weights with a
scale per output channel, the fastest combination on x86. Norms, softmax and the products inside attention stay fp32. An
activation's range has the least squared error on real inputs (``activation_ranges``); before a ReLU, it is the range
after the ReLU. Products are written as ``cpu_operators`` has them, whose results are floats; convolutions pass 8 bits
on.
"""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from smalti_export.graphs.weights import halved
from smalti_export.precision.activation_ranges import Feed, activation_ranges
from smalti_export.precision.cpu_norms import norms_of_levels, plain_norms
from smalti_export.precision.cpu_operators import attention_without_transposes, constant_products, quantized_products

LARGEST = 2**31 - 2**24
"""Most bytes of weights inside a graph to be quantised: protobuf's limit less a margin."""


class _Reader(CalibrationDataReader):
    """Give real inputs to the calibrator, one batch at a time."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:
        """Return the next batch, or None after the last."""
        return next(self._feeds, None)


def too_large(proto: onnx.ModelProto) -> str | None:
    """Reason why an fp32 graph, its weights inside or beside it, cannot be quantised; None when it can."""
    size = sum(4 * math.prod(initializer.dims) for initializer in proto.graph.initializer)
    if size <= LARGEST:
        return None
    return f"calibration takes graphs of at most {LARGEST / 1e9:.1f} GB of fp32 weights, and this has {size / 1e9:.1f}"


@dataclass(frozen=True)
class Calibrated:
    """A graph that is ready to be quantised."""

    graph: onnx.ModelProto
    """The fp32 graph as it is quantised: folded, activations first, attention without transposes."""
    ranges: Mapping[str, tuple[float, float]]
    """What 8 bits cover of each activation."""
    smallest: Feed
    """An input of size 1 along every free side."""


def quantize(proto: onnx.ModelProto, feeds: Sequence[Feed], keep: Collection[str] = ()) -> onnx.ModelProto:
    """Quantise an fp32 graph that holds its weights, with scales calibrated on ``feeds``.

    ``feeds`` are real inputs of the graph; one batch size is enough. Nodes named in ``keep`` stay fp32.

    Raises ValueError when ``feeds`` is empty.
    """
    return quantized(calibrated(proto, feeds, keep), keep)


def calibrated(proto: onnx.ModelProto, feeds: Sequence[Feed], keep: Collection[str] = ()) -> Calibrated:
    """Prepare a graph and measure its activations, but for those that only nodes in ``keep`` read.

    Raises ValueError when ``feeds`` is empty.
    """
    if not feeds:
        raise ValueError("static scales need at least one batch to calibrate on")
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, prepared = (Path(folder) / name for name in ("fp32.onnx", "prepared.onnx"))
        source.write_bytes(plain_norms(activations_first(proto)).SerializeToString())
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        whole = attention_without_transposes(onnx.ModelProto.FromString(prepared.read_bytes()))
    # The graph's outputs keep their full range, because the greatest logit is the likeliest token.
    last = set(last_layers(whole, 1))
    outputs = {node.output[0] for node in whole.graph.node if node.name in last}
    ranges = activation_ranges(whole, quantized_tensors(whole, keep), feeds, outputs)
    return Calibrated(whole, ranges, least(whole, feeds[0]))


def quantized(made: Calibrated, keep: Collection[str] = ()) -> onnx.ModelProto:
    """Quantise all products with constants and all convolutions but those named in ``keep``."""
    result = quantized_products(made.graph, made.ranges, keep)
    if held := convolution_tensors(made.graph, keep):
        with tempfile.TemporaryDirectory() as folder, _quiet():
            source, target = (Path(folder) / name for name in ("prepared.onnx", "int8.onnx"))
            source.write_bytes(result.SerializeToString())
            quantize_static(
                str(source),
                str(target),
                _Reader([made.smallest]),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "Relu"],  # done by the range of the convolution before it
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=list(keep),
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={
                    "TensorQuantOverrides": {
                        name: [{"rmin": np.float32(made.ranges[name][0]), "rmax": np.float32(made.ranges[name][1])}]
                        for name in held
                    }
                },
            )
            result = norms_of_levels(onnx.ModelProto.FromString(target.read_bytes()))
    strip_traces(result)
    result = halved(result)
    used = {node.domain for node in result.graph.node}
    opsets = [item for item in result.opset_import if item.domain in used]  # drop those that only the tools added
    del result.opset_import[:]
    result.opset_import.extend(opsets)
    return result


def least(proto: onnx.ModelProto, feed: Feed) -> Feed:
    """Cut a feed to size 1 along every free side of the graph's inputs, the smallest input that it takes.

    The quantiser insists on a calibration run although all ranges are given, and keeps every tensor of it: 22 GB for
    two images of 1024 x 1024 pixels.
    """
    one = {
        given.name: tuple(slice(0, 1) if dim.dim_param else slice(None) for dim in given.type.tensor_type.shape.dim)
        for given in proto.graph.input
    }
    return {name: value[one[name]] if name in one else value for name, value in feed.items()}


def activations_first(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Copy the graph and move each ReLU that follows a pixel shuffle before it; the function is the same.

    Directly after its convolution, the ReLU saves 8-bit levels: half of the values are negative and need none.
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


def quantized_tensors(proto: onnx.ModelProto, keep: Collection[str]) -> list[str]:
    """Activations that are stored in 8 bits when all products and convolutions outside ``keep`` are quantised."""
    products = [node.input[0] for node in constant_products(proto, keep)]
    return list(dict.fromkeys([*products, *convolution_tensors(proto, keep)]))


def convolution_tensors(proto: onnx.ModelProto, keep: Collection[str]) -> list[str]:
    """Inputs and results in 8 bits of the convolutions outside ``keep``, with the ReLUs after them."""
    constants, held = {initializer.name for initializer in proto.graph.initializer}, dict[str, None]()
    for node in proto.graph.node:
        if (node.op_type == "Conv" and node.name not in keep) or node.op_type == "Relu":
            held.update(dict.fromkeys(name for name in (node.input[0], node.output[0]) if name not in constants))
    return list(held)


def last_layers(proto: onnx.ModelProto, count: int) -> list[str]:
    """Names of the last ``count`` nodes that would run in 8 bit; no later layer can reduce their errors."""
    products = {node.name for node in constant_products(proto)}
    names = [node.name for node in proto.graph.node if node.op_type == "Conv" or node.name in products]
    return names[max(0, len(names) - count) :] if count else []


@contextlib.contextmanager
def _quiet():
    """Hide the quantiser's advice to preprocess the graph, which is already done."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
