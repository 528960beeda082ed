from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import smalti_export.precision.int8
from smalti.backends.onnxruntime_cpu import OnnxSession
from smalti.bundle.reader import open_bundle
from smalti_export.graphs.trace import GraphSpec
from smalti_export.precision.attempts import Part, attempts
from smalti_export.precision.int8 import (
    Feed,
    activations_first,
    calibrated,
    last_layers,
    least,
    quantize,
    quantized,
    too_large,
)
from smalti_export.precision.sensitivity import Layer, cheapest, measured_layers

RNG = np.random.default_rng(0)


def products() -> onnx.ModelProto:
    """y = x W + b; z = y y^T: a product with a constant, and a product of two activations as in attention."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"], "constant"),
        helper.make_node("Add", ["xw", "b"], ["y"], "shift"),
        helper.make_node("Transpose", ["y"], ["t"], "turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["y", "t"], ["z"], "attention"),
    ]
    generator = np.random.default_rng(1)
    weights = {"w": generator.normal(size=(8, 16)), "b": generator.normal(size=16)}
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    ends = [helper.make_tensor_value_info(*end) for end in (("x", 1, ["n", 6, 8]), ("z", 1, ["n", 6, 6]))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def feeds(scale: float = 1.0, count: int = 3) -> list[Feed]:
    generator = np.random.default_rng(2)
    return [{"x": (generator.normal(size=(2, 6, 8)) * scale).astype(np.float32)} for _ in range(count)]


def run(proto: onnx.ModelProto, feed: Feed) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


def sources(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The node that makes each value."""
    return {output: node for node in proto.graph.node for output in node.output}


def kinds(proto: onnx.ModelProto, op: str) -> list[list[str]]:
    """For each ``op``, the sources of its first two inputs: a node's type, or a constant's type."""
    made, constants = sources(proto), {item.name: item for item in proto.graph.initializer}
    found: list[list[str]] = []
    for node in proto.graph.node:
        if node.op_type == op:
            row: list[str] = []
            for name in node.input[:2]:
                source = made.get(name)
                if source is None:
                    row.append("constant" if name in constants else "input")
                elif source.op_type == "DequantizeLinear" and source.input[0] in constants:
                    row.append(TensorProto.DataType.Name(constants[source.input[0]].data_type))
                else:
                    row.append(source.op_type)
            found.append(row)
    return found


def test_products_with_constants_are_quantised_and_those_of_activations_are_not() -> None:
    quantised = quantize(products(), feeds())
    assert kinds(quantised, "MatMul") == [["MatMulIntegerToFloat", "Transpose"]]
    assert kinds(quantised, "MatMulIntegerToFloat") == [["QuantizeLinear", "constant"]]
    x = feeds()[0]
    exact = run(products(), x)
    assert np.abs(run(quantised, x) - exact).max() < 0.05 * np.abs(exact).max()


def test_graphs_with_more_weights_than_can_be_written_are_not_calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 4 * (8 * 16 + 16)
    monkeypatch.setattr(smalti_export.precision.int8, "LARGEST", size)
    assert too_large(products()) is None
    monkeypatch.setattr(smalti_export.precision.int8, "LARGEST", size - 1)
    assert "of fp32 weights, and this has" in str(too_large(products()))


def test_nodes_may_be_kept_in_full_precision() -> None:
    kept = quantize(products(), feeds(), keep=["constant"])
    assert "QuantizeLinear" not in {node.op_type for node in kept.graph.node}


def test_the_last_layers_are_those_before_the_outputs() -> None:
    assert last_layers(products(), 0) == []
    assert last_layers(products(), 1) == last_layers(products(), 2) == ["constant"]  # never the product in attention
    assert last_layers(shuffled(), 1) == ["second"]
    assert last_layers(shuffled(), 2) == ["first", "second"]


def shuffled() -> onnx.ModelProto:
    """A graph of convolution, pixel shuffle, ReLU and convolution."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first"),
        helper.make_node("DepthToSpace", ["a"], ["b"], "shuffle", blocksize=2, mode="CRD"),
        helper.make_node("Relu", ["b"], ["c"], "relu"),
        helper.make_node("Conv", ["c", "v"], ["y"], "second"),
    ]
    generator = np.random.default_rng(1)
    weights = {"w": generator.normal(size=(16, 3, 1, 1)), "v": generator.normal(size=(3, 4, 1, 1))}
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    ends = [helper.make_tensor_value_info(*end) for end in (("x", 1, ["n", 3, 4, 4]), ("y", 1, ["n", 3, 8, 8]))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def images(top: float = 1.0) -> list[Feed]:
    generator = np.random.default_rng(2)
    return [{"x": generator.uniform(-1, top, (2, 3, 4, 4)).astype(np.float32)} for _ in range(3)]


def test_a_relu_moves_before_the_pixel_shuffle_and_changes_nothing() -> None:
    moved = activations_first(shuffled())
    onnx.checker.check_model(moved, full_check=True)
    assert [node.name for node in moved.graph.node] == ["first", "relu", "shuffle", "second"]
    assert np.array_equal(run(moved, images()[0]), run(shuffled(), images()[0]))
    assert [node.name for node in shuffled().graph.node] == ["first", "shuffle", "relu", "second"]
    # A pixel shuffle with other users stays in place.
    shared = shuffled()
    shared.graph.node.append(helper.make_node("Neg", ["b"], ["other"], "other"))
    assert [node.name for node in activations_first(shared).graph.node][:3] == ["first", "shuffle", "relu"]


def test_no_step_of_8_bits_is_spent_on_what_a_relu_throws_away() -> None:
    quantised = quantize(shuffled(), images())
    zeros = {item.name: numpy_helper.to_array(item) for item in quantised.graph.initializer}
    assert "Relu" not in {node.op_type for node in quantised.graph.node}  # the range of the scales replaces it
    (convolution,) = [node for node in quantised.graph.node if node.name == "first"]
    (after,) = [node for node in quantised.graph.node if convolution.output[0] in node.input]
    assert after.op_type == "QuantizeLinear"
    assert zeros[after.input[2]] == 0
    exact = run(shuffled(), images()[0])
    # By the definition of the operators: products of 8 bits saturate on processors without VNNI.
    (found,) = ReferenceEvaluator(quantised).run(None, images()[0])
    assert np.abs(found - exact).max() < 0.05 * np.abs(exact).max()


def hard_for(layer: str) -> tuple[onnx.ModelProto, list[Feed]]:
    """A graph and inputs of which 8 bits hold little for one layer: something huge in it has no use."""
    proto, given = shuffled(), images()
    weights = {item.name: numpy_helper.to_array(item).copy() for item in proto.graph.initializer}
    if layer == "first":
        weights["w"][:, 0] = 0
        for feed in given:
            feed["x"][:, 0] *= 1000
    else:
        weights["w"][:4] = 0  # the shuffle makes a channel of these four
        weights["v"][:, 0] *= 1000
    for item in proto.graph.initializer:
        item.CopyFrom(numpy_helper.from_array(weights[item.name], item.name))
    return proto, given


@pytest.mark.parametrize("layer", ["first", "second"])
def test_the_layer_that_8_bits_hurt_most_is_found(layer: str) -> None:
    proto, given = hard_for(layer)
    made = calibrated(proto, given)
    layers = measured_layers(made, given)
    assert max(layers, key=lambda name: layers[name].error) == layer
    assert cheapest(layers, 0.5) == [layer]
    assert layer not in measured_layers(made, given, [layer])
    wanted = run(proto, given[0])
    errors = [np.abs(run(quantize(proto, given, keep), given[0]) - wanted).mean() for keep in ([], [layer])]
    assert errors[1] < 0.5 * errors[0]


def test_a_layers_cost_is_its_multiplications_and_its_error_that_of_its_8_bits() -> None:
    proto, given = shuffled(), images()
    made = calibrated(proto, given)
    layers = measured_layers(made, given)
    assert [layers[name].cost for name in ("first", "second")] == [2 * 16 * 4 * 4 * 3, 2 * 3 * 8 * 8 * 4]
    assert measured_layers(made, given, ["first", "second"]) == {}
    exact = [run(proto, feed) for feed in given[:2]]
    for name, other in (("first", "second"), ("second", "first")):
        only = ReferenceEvaluator(quantized(made, [other]))
        alone = [next(iter(only.run(None, dict(feed)))) for feed in given[:2]]
        error = sum(np.square(found - wanted).mean() for found, wanted in zip(alone, exact))
        assert layers[name].error == pytest.approx(error, rel=0.02)


@settings(max_examples=50, deadline=None)
@drawn(
    layers=st.dictionaries(
        st.text("abc", min_size=1), st.builds(Layer, st.floats(1e-6, 1.0), st.floats(1.0, 1e6)), min_size=1
    ),
    share=st.floats(0, 1),
)
def test_the_layers_that_are_kept_leave_no_more_error_than_allowed(layers: dict[str, Layer], share: float) -> None:
    kept = cheapest(layers, share)
    total = sum(layer.error for layer in layers.values())
    left = sum(layer.error for name, layer in layers.items() if name not in kept)
    assert left <= share * total + 1e-9 * total
    worth = [layers[name].error / layers[name].cost for name in kept]
    assert worth == sorted(worth, reverse=True)
    assert not kept or left + layers[kept[-1]].error > share * total * (1 - 1e-9)


def test_int8_is_tried_with_ever_fewer_of_the_last_layers_and_then_without_the_worst() -> None:
    proto, given = hard_for("first")
    part = Part("decoder", GraphSpec((), ()), {}, proto, ("decoder.safetensors", b""))
    graphs = list(attempts(part, "int8", given, lambda line: None))
    rows = [[row[1] for row in kinds(graph, "Conv")] for graph in graphs]
    both, neither = ["INT8", "INT8"], ["constant", "constant"]
    assert rows[:4] == [both, ["INT8", "constant"], neither, ["constant", "INT8"]]


def test_scales_come_from_the_calibration_and_not_from_the_input() -> None:
    small, large = quantize(products(), feeds(scale=1)), quantize(products(), feeds(scale=100))
    assert "DynamicQuantizeLinear" not in {node.op_type for node in small.graph.node}

    def scale(proto: onnx.ModelProto) -> float:
        (found,) = [item for item in proto.graph.initializer if item.name == "x.scale"]
        return float(numpy_helper.to_array(found))

    assert scale(large) == pytest.approx(100 * scale(small), rel=1e-5)


def test_the_batch_that_the_quantiser_itself_asks_for_is_small_and_decides_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (feed,) = feeds(count=1)
    assert least(products(), feed)["x"].shape == (1, 6, 8)
    made = quantize(products(), feeds()), quantize(shuffled(), images())
    monkeypatch.setattr(
        smalti_export.precision.int8, "least", lambda proto, feed: {name: 9 * x for name, x in feed.items()}
    )
    assert (quantize(products(), feeds()), quantize(shuffled(), images())) == made


def test_calibration_without_feeds_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one batch to calibrate on"):
        quantize(products(), [])


def test_a_quantised_graph_declares_no_tools_of_its_maker() -> None:
    proto = quantize(products(), feeds())
    onnx.checker.check_model(proto, full_check=True)
    assert [(item.domain, item.version) for item in proto.opset_import] == [("", 20), ("com.microsoft", 1)]
    assert [item.domain for item in quantize(shuffled(), images()).opset_import] == [""]
    assert not proto.metadata_props


def test_the_logits_of_a_sample_do_not_depend_on_its_batch(tiny_bundle: Path) -> None:
    session = OnnxSession(open_bundle(tiny_bundle), "denoiser", "int8", threads=2)
    generator = np.random.default_rng(3)
    batch = {
        "tokens": generator.integers(0, 65, (11, 16)).astype(np.int32),
        "labels": generator.integers(0, 9, 11).astype(np.int32),
        "rows": np.tile(np.arange(16, dtype=np.int32), (11, 1)),
    }
    (together,) = session(batch)
    for sample in range(11):
        (alone,) = session({name: value[sample : sample + 1] for name, value in batch.items()})
        assert np.array_equal(alone[0], together[sample])


def test_the_pixels_of_a_sample_do_not_depend_on_its_batch(tiny_bundle: Path) -> None:
    session = OnnxSession(open_bundle(tiny_bundle), "decoder", "int8", threads=2)
    tokens = np.random.default_rng(4).integers(0, 64, (5, 4, 4)).astype(np.int32)
    (together,) = session({"tokens": tokens})
    for sample in range(5):
        assert np.array_equal(session({"tokens": tokens[sample : sample + 1]})[0][0], together[sample])


def test_the_denoisers_attention_stays_in_full_precision_and_is_one_operator(tiny_bundle: Path) -> None:
    proto = onnx.load(tiny_bundle / "denoiser.int8.onnx")
    assert kinds(proto, "Attention") == [["MatMulIntegerToFloat", "MatMulIntegerToFloat"]] * 2 + [
        ["GatherElements", "MatMulIntegerToFloat"]  # the last layer answers for the rows alone
    ]
    rows = kinds(proto, "MatMulIntegerToFloat")
    assert rows == [["QuantizeLinear", "constant"]] * len(rows)
    assert len(rows) == 6 * 3 + 3  # of each layer, queries, keys and values apart, and down, up and head
    left = {node.op_type for node in proto.graph.node}
    assert not left & {"MatMul", "Softmax", "DequantizeLinear", "QLinearMatMul", "Split"}


def test_graphs_that_become_engines_have_standard_operators_alone(tiny_bundle: Path) -> None:
    graphs = [path for path in tiny_bundle.glob("*.onnx") if "int8" not in path.name]
    assert graphs
    for path in graphs:
        proto = onnx.load(path, load_external_data=False)
        assert {node.domain for node in proto.graph.node} == {""}, path.name
        assert [(item.domain, item.version) for item in proto.opset_import] == [("", 20)], path.name


def test_every_convolution_of_the_decoder_has_int8_weights(tiny_bundle: Path) -> None:
    proto = onnx.load(tiny_bundle / "decoder.int8.onnx")
    rows = kinds(proto, "Conv")
    assert rows == [["DequantizeLinear", "INT8"]] * len(rows)
    assert len(rows) == 1 + 3 * 2 + 2 + 1  # the first, three residual blocks, two upsamplings, the head
    scales = [item for item in proto.graph.initializer if item.name.endswith("weight_scale")]
    assert all(len(item.dims) == 1 and item.dims[0] > 1 for item in scales)  # one per output channel
