"""``bench/speed/counting.py``: operations and bytes of graphs counted by hand, and of the embedded bundle by torch."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import smalti
from smalti.errors import UsageError
from smalti_export.graphs.graph_modules import wrap
from smalti_train.presets.catalogue import AUTOENCODERS, PRIORS
from smalti_train.runs.loading import build_autoencoder, build_prior

sys.path.insert(0, str(Path(__file__).parents[2] / "bench/speed"))
try:
    counting, graph_shapes, recording = (importlib.import_module(n) for n in ("counting", "graph_shapes", "recording"))
finally:
    sys.path.pop(0)

FLOAT, UINT8, INT8, INT32 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32


def graph(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[int | str]]],
    constants: dict[str, Any] | None = None,
    opset: int = 23,
) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "by_hand",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    )


def one(node: onnx.NodeProto, inputs: dict[str, Any], constants: dict[str, Any] | None = None, **sizes: int) -> Any:
    return counting.count(graph([node], inputs, constants), sizes)[0]


def test_a_product_is_rows_by_columns_by_depth() -> None:
    weights = np.zeros((7, 11), np.float32)
    found = one(helper.make_node("MatMul", ["x", "w"], ["y"]), {"x": (FLOAT, ["n", 5, 7])}, {"w": weights}, n=3)
    assert found.multiply_adds == 3 * 5 * 7 * 11
    assert found.operations == 2 * found.multiply_adds
    assert found.bytes == 4 * (3 * 5 * 7 + 7 * 11 + 3 * 5 * 11)
    assert found.kind == "fp32"


def test_gemm_adds_its_bias_and_may_be_transposed() -> None:
    constants = {"w": np.zeros((11, 7), np.float32), "b": np.zeros(11, np.float32)}
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transA=1, transB=1)
    found = one(node, {"x": (FLOAT, [7, 5])}, constants)
    assert (found.multiply_adds, found.others) == (5 * 7 * 11, 5 * 11)


def test_a_convolution_counts_its_groups_and_strides() -> None:
    constants = {"w": np.zeros((8, 2, 3, 3), np.float32), "b": np.zeros(8, np.float32)}
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=2, strides=[2, 2], pads=[1, 1, 1, 1])
    found = one(node, {"x": (FLOAT, [1, 4, 10, 6])}, constants)
    places = 8 * 5 * 3
    assert (found.multiply_adds, found.others) == (places * 2 * 9, places)


@pytest.mark.parametrize("split", [True, False])
def test_attention_counts_both_products_and_its_softmax(split: bool) -> None:
    n, heads, length, seen, width = 2, 4, 6, 9, 5
    shapes = {name: [n, heads, rows, width] for name, rows in (("q", length), ("k", seen), ("v", seen))}
    more: dict[str, int] = {}
    if not split:
        shapes = {name: [n, shape[2], heads * width] for name, shape in shapes.items()}
        more = {"q_num_heads": heads, "kv_num_heads": heads}
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], **more)
    found = one(node, {name: (FLOAT, shape) for name, shape in shapes.items()})
    scores = n * heads * length * seen
    assert (found.multiply_adds, found.others) == (scores * 2 * width, scores * 6)


def test_8_bit_products_of_onnx_runtime_have_shapes_and_8_bit_weights() -> None:
    constants = {"w": np.zeros((7, 11), np.int8), "a": np.float32(1), "s": np.ones(11, np.float32), "z": np.uint8(3)}
    node = helper.make_node("MatMulIntegerToFloat", ["x", "w", "a", "s", "z"], ["y"], domain="com.microsoft")
    found = one(node, {"x": (UINT8, [5, 7])}, constants)
    assert (found.multiply_adds, found.kind) == (5 * 7 * 11, "int8")
    assert found.bytes == 5 * 7 + 7 * 11 + 4 + 4 * 11 + 1 + 4 * 5 * 11


def test_an_8_bit_convolution_counts_its_own_weights() -> None:
    constants = {"w": np.zeros((8, 4, 3, 3), np.int8), "s": np.float32(1), "z": np.uint8(0), "ws": np.float32(1)}
    constants |= {"wz": np.int8(0)}
    inputs = ["x", "s", "z", "w", "ws", "wz", "s", "z"]
    node = helper.make_node("QLinearConv", inputs, ["y"], domain="com.microsoft", channels_last=1, pads=[1, 1, 1, 1])
    found = one(node, {"x": (UINT8, [1, 6, 5, 4])}, constants)
    assert (found.multiply_adds, found.kind) == (6 * 5 * 8 * 4 * 9, "int8")


def test_a_product_between_dequantisers_is_an_8_bit_product() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["wf"]),
        helper.make_node("MatMul", ["xf", "wf"], ["y"]),
    ]
    constants = {"w": np.zeros((7, 11), np.int8), "s": np.float32(1)}
    counts = counting.count(graph(nodes, {"x": (UINT8, [5, 7])}, constants), {})
    assert counts[2].kind == "int8"
    assert counting.product_operations(counts) == 2 * 5 * 7 * 11
    assert counting.operations(counts) == 2 * 5 * 7 * 11 + 2 * 5 * 7  # weights are dequantised once, at load


def test_constants_are_folded_and_read_once() -> None:
    nodes = [
        helper.make_node("Cast", ["w"], ["w32"], to=FLOAT),
        helper.make_node("Gather", ["t", "i"], ["x"]),
        helper.make_node("MatMul", ["x", "w32"], ["y"]),
    ]
    stored = {"w": np.zeros((8, 4), np.float16), "t": np.zeros((1000, 8), np.float32)}
    made = graph(nodes, {"i": (INT32, ["n"])}, stored)
    counts = counting.count(made, {"n": 3})
    assert (counts[0].operations, counts[0].bytes) == (0, 0)
    assert counting.constants(made) == {"w", "w32", "t"}
    assert counting.least_bytes(made, {"n": 3}) == 4 * 3 + 4 * 3 * 8 + 4 * 8 * 4 + 4 * 3 * 4


def test_elementwise_operators_count_each_element_and_read_one_tensor_once() -> None:
    found = one(helper.make_node("Add", ["x", "x"], ["y"]), {"x": (FLOAT, [3, 4])})
    assert (found.operations, found.bytes) == (12, 4 * (12 + 12))
    assert one(helper.make_node("Softmax", ["x"], ["y"]), {"x": (FLOAT, [3, 4])}).operations == 5 * 12
    assert one(helper.make_node("ReduceSum", ["x"], ["y"]), {"x": (FLOAT, [3, 4])}).operations == 12


def test_what_only_moves_counts_bytes_and_a_table_only_what_is_taken() -> None:
    table = {"t": np.zeros((1000, 8), np.float32)}
    taken = one(helper.make_node("Gather", ["t", "i"], ["y"]), {"i": (INT32, [3])}, table)
    assert (taken.operations, taken.bytes, taken.known) == (0, 2 * 4 * 3 * 8 + 4 * 3, True)
    turned = one(helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0]), {"x": (FLOAT, [3, 4])})
    assert (turned.operations, turned.bytes) == (0, 2 * 4 * 12)


def test_computed_shapes_are_followed() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], start=0, end=1),
        helper.make_node("Concat", ["s", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["y"]),
        helper.make_node("Relu", ["y"], ["z"]),
    ]
    made = graph(nodes, {"x": (FLOAT, ["n", 6])}, {"rest": np.array([2, -1], np.int64)})
    assert graph_shapes.infer(made, {"n": 5})["z"].shape == (5, 2, 3)
    counts = counting.count(made, {"n": 5})
    assert [found.bytes for found in counts][2:] == [0, 2 * 4 * 30]


def test_what_cannot_be_counted_is_told() -> None:
    unknown = helper.make_node("Novelty", ["x"], ["y"], "new", domain="com.microsoft")
    made = graph([unknown], {"x": (FLOAT, ["n", 4])})
    with pytest.raises(UsageError, match="free side n"):
        counting.count(made, {})
    with pytest.raises(UsageError, match="Novelty"):
        counting.count(made, {"n": 1})
    told = counting.count(made, {"n": 1}, {"y": graph_shapes.Tensor((1, 4), FLOAT)})[0]
    assert (told.known, told.operations, told.bytes) == (False, 0, 32)


@pytest.mark.parametrize("role", ["denoiser", "decoder"])
def test_products_of_the_embedded_bundle_are_those_that_torch_counts(role: Any) -> None:
    bundle = smalti.open_bundle()
    preset, (height, width) = bundle.manifest.provenance.training["preset"], bundle.manifest.latent.grid
    length = height * width
    tokens, every = torch.zeros(1, length, dtype=torch.int32), torch.arange(length, dtype=torch.int32)[None]
    if role == "denoiser":
        model: Any = build_prior(PRIORS[preset].model)
        inputs, sizes = (tokens, torch.zeros(1, dtype=torch.int32), every), {"n": 1, "r": length}
    else:
        model = build_autoencoder(AUTOENCODERS[preset].model)
        inputs, sizes = (tokens.view(1, height, width),), {"n": 1, "h": height, "w": width}
    wrapped = wrap(role, model)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        wrapped(*inputs)
    for precision in bundle.precisions(role):
        stored = onnx.load_from_string(bundle.read(bundle.variant(role, precision).graph.file))
        counts = counting.count(stored, sizes)
        assert counting.product_operations(counts) == pytest.approx(counter.get_total_flops(), rel=0.02)
        assert all(found.known for found in counts)
        eight = sum(found.multiply_adds for found in counts if found.kind == "int8")
        assert (2 * eight > 0.5 * counter.get_total_flops()) == (precision == "int8")


def test_a_denoiser_counted_at_two_sizes_is_counted_at_all() -> None:
    bundle = smalti.open_bundle()
    arithmetic = recording.Arithmetic(bundle)
    stored = onnx.load_from_string(bundle.read(bundle.variant("denoiser", "fp32").graph.file))
    for n, r in ((1, 1), (1, 100), (3, 7)):
        call = recording.Call("denoiser", {"tokens": (n, 256), "labels": (n,), "rows": (n, r)})
        assert arithmetic.operations(call) == pytest.approx(
            counting.operations(counting.count(stored, {"n": n, "r": r})), rel=1e-6
        )
