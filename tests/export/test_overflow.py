"""Graphs that would overflow fp16 on a GPU: real inputs reveal it, and rewriting prevents it."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load

from helpers.checkpoints import SMALL
from smalti.bundle.engines import Profile
from smalti.families.autoregressive.past import Graph
from smalti_export.builder import _traced
from smalti_export.engines.graphs import for_tensorrt
from smalti_export.engines.toolkit import PortableToolkit
from smalti_export.graphs.graph_modules import wrap
from smalti_export.graphs.trace import graph_specs
from smalti_export.graphs.weights import round_to_fp16
from smalti_export.parity.certificate import torch_graph, torch_run
from smalti_export.parity.predictors import prefix_feeds, with_past
from smalti_export.precision.activation_ranges import Feed
from smalti_export.precision.attempts import Part, attempts
from smalti_export.precision.fp16 import fp16_tensors, greatest, in_fp32, on_cpu
from smalti_export.precision.overflow import LARGEST, PRODUCTS, ROOM, kept_in_range, too_large
from smalti_train.models.autoregressive_transformer import AutoregressiveTransformerConfig
from smalti_train.models.vqgan import VQGAN
from smalti_train.presets.catalogue import PRIORS
from smalti_train.runs.bundle_weights import TRANSPOSED
from smalti_train.runs.loading import build_prior

NOTHING = ("none.safetensors", b"\0" * 8)
"""Weight file of graphs that hold their weights inside."""


def run(proto: onnx.ModelProto, feed: Feed, weights: tuple[str, bytes] = NOTHING) -> np.ndarray:
    return np.asarray(on_cpu(proto, weights)(feed)[0])


def graph(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A graph from ``x`` to ``y``, both fp32 [n, 8]; the nodes between ``h`` and ``r`` compute in fp16."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8]) for name in "xy"]
    inside = [numpy_helper.from_array(value.astype(np.float16), name) for name, value in constants.items()]
    first = helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16)
    last = helper.make_node("Cast", ["r"], ["y"], to=TensorProto.FLOAT)
    whole = helper.make_graph([first, *nodes, last], "g", ends[:1], ends[1:], inside)
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def thousandfold() -> onnx.ModelProto:
    """A graph that multiplies its input by 1000 and divides it by 1000."""
    nodes = [helper.make_node("Mul", ["h", "k"], ["m"]), helper.make_node("Div", ["m", "k"], ["r"])]
    return graph(nodes, {"k": np.array(1000)})


def kept(proto: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto:
    halves = fp16_tensors(proto)
    return kept_in_range(proto, halves, greatest(proto, NOTHING, halves, feeds))[0]


def rounded(proto: onnx.ModelProto, feed: Feed, weights: tuple[str, bytes] = NOTHING) -> np.ndarray:
    return run(in_fp32(proto, fp16_tensors(proto), rounded=True), feed, weights)


def test_a_cpu_does_not_show_what_overflows_and_rounding_does() -> None:
    x = {"x": np.tile(np.array([1, 10, 100, 1000], np.float32), (1, 2))}
    assert np.array_equal(run(thousandfold(), x), x["x"])
    assert rounded(thousandfold(), x).tolist() == [[1, 10, np.inf, np.inf] * 2]
    assert np.array_equal(run(in_fp32(thousandfold(), fp16_tensors(thousandfold())), x), x["x"])


def test_rounding_is_that_of_fp16() -> None:
    x = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    half = x.astype(np.float16)
    with np.errstate(over="ignore"):
        expected = (half * np.float16(1000)) / np.float16(1000)
    assert np.array_equal(rounded(thousandfold(), {"x": x}), expected.astype(np.float32))


def test_the_greatest_values_are_those_of_every_batch_without_the_infinities_of_masks() -> None:
    nodes = [helper.make_node("Mul", ["h", "k"], ["m"]), helper.make_node("Add", ["m", "mask"], ["r"])]
    proto = graph(nodes, {"k": np.array(1000), "mask": np.array([0, -np.inf, 0, 0, 0, 0, 0, 0])})
    feeds = [{"x": np.full((2, 8), value, np.float32)} for value in (3.0, -500.0, 2.0)]
    found = greatest(proto, NOTHING, fp16_tensors(proto), feeds)
    assert found == {"h": 500, "m": 500_000, "r": 500_000}
    assert too_large(found) == {"m", "r"}
    assert greatest(proto, NOTHING, fp16_tensors(proto), feeds[::2]) == {"h": 3, "m": 3000, "r": 3000}
    assert found.keys() <= fp16_tensors(proto)


def test_a_graph_within_range_is_left_as_it_is() -> None:
    proto = thousandfold()
    assert kept(proto, [{"x": np.full((1, 8), LARGEST / ROOM / 1001, np.float32)}]) is proto


def test_there_is_room_beyond_what_was_seen() -> None:
    seen = np.full((1, 8), 1.001 * LARGEST / ROOM / 1000, np.float32)
    proto = kept(thousandfold(), [{"x": seen}])
    assert rounded(proto, {"x": 3.9 * seen}) == pytest.approx(3.9 * seen, rel=1e-3)
    assert np.isinf(rounded(thousandfold(), {"x": 4.1 * seen})).all()


KINDS = st.sampled_from(["MatMul", "Gemm", "Twice", "Add", "Relu", "Mul"])


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(KINDS, st.floats(-2, 9)), min_size=1, max_size=5), st.integers(0, 9))
def test_whatever_is_large_is_computed_as_in_fp32(steps: list[tuple[str, float]], seed: int) -> None:
    """Chains of operators, some of them products of two activations, with scales that are powers of two.

    Two last factors bring the output near 1.
    """
    generator = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {}
    before = "h"
    for index, (kind, power) in enumerate(steps):
        after, constant = f"t{index}", f"c{index}"
        shape = (8, 8) if kind in ("MatMul", "Gemm", "Twice") else (8,)
        if kind != "Relu":
            constants[constant] = generator.normal(size=shape) * 2.0**power
        if kind == "Twice":  # h (h^T h) times a matrix; both factors may be large
            nodes.append(helper.make_node("Transpose", [before], [f"{after}.t"], perm=[1, 0]))
            nodes.append(helper.make_node("MatMul", [f"{after}.t", before], [f"{after}.p"]))
            nodes.append(helper.make_node("MatMul", [before, f"{after}.p"], [f"{after}.q"]))
            nodes.append(helper.make_node("MatMul", [f"{after}.q", constant], [after]))
        elif kind == "Gemm":
            constants[f"{constant}.bias"] = generator.normal(size=8) * 2.0**power
            nodes.append(helper.make_node(kind, [before, constant, f"{constant}.bias"], [after], transB=1))
        else:
            nodes.append(helper.make_node(kind, [before] if kind == "Relu" else [before, constant], [after]))
        before = after
    for name in ("once", "r"):
        nodes.append(helper.make_node("Mul", [before, "last"], [name]))
        before = name
    x = {"x": generator.normal(size=(4, 8)).astype(np.float32)}
    plain = graph(nodes, constants | {"last": np.array(1.0)})
    size = np.abs(run(in_fp32(plain, fp16_tensors(plain)), x)).max()
    assume(2.0**-10 < size < 2.0**28)  # beyond, the last factors are too small for fp16
    plain = graph(nodes, constants | {"last": np.array(2.0 ** -round(np.log2(size) / 2))})
    exact = run(in_fp32(plain, fp16_tensors(plain)), x)
    proto = kept(plain, [x])
    onnx.checker.check_model(proto, full_check=True)
    found = greatest(proto, NOTHING, fp16_tensors(proto), [x])
    assert too_large(found) == set()
    event("too large" if too_large(greatest(plain, NOTHING, fp16_tensors(plain), [x])) else "within range")
    assert np.abs(rounded(proto, x) - exact).max() < 0.05 * np.abs(exact).max()


def test_a_transposed_convolution_is_scaled_and_its_bias_is_not() -> None:
    generator = np.random.default_rng(0)
    weight, bias = generator.normal(size=(2, 3, 2, 2)).astype(np.float16), np.array([100, -200, 300])
    nodes = [
        helper.make_node("Reshape", ["h", "square"], ["image"]),
        helper.make_node("ConvTranspose", ["image", "weight", "bias"], ["large"], strides=[2, 2]),
        helper.make_node("Mul", ["large", "less"], ["small"]),
        helper.make_node("Reshape", ["small", "row"], ["r"]),
    ]
    proto = graph(nodes, {"weight": weight, "bias": bias, "less": np.array(2.0**-9)})
    shapes = {"square": [-1, 2, 2, 2], "row": [-1, 8]}
    proto.graph.initializer.extend(numpy_helper.from_array(np.array(v), name) for name, v in shapes.items())
    x = {"x": generator.normal(size=(3, 8)).astype(np.float32) * 30_000}
    proto_kept = kept(proto, [x])
    exact = run(in_fp32(proto, fp16_tensors(proto)), x)
    assert not np.isfinite(rounded(proto, x)).all()
    assert np.abs(rounded(proto_kept, x) - exact).max() < 2e-3 * np.abs(exact).max()
    (found,) = [node for node in proto_kept.graph.node if node.op_type == "ConvTranspose"]
    assert set(found.input) <= fp16_tensors(proto_kept)


def test_a_constant_that_is_too_large_is_made_fp32() -> None:
    most = numpy_helper.from_array(np.array(65504, np.float16))
    nodes = [
        helper.make_node("Constant", [], ["most"], value=most),
        helper.make_node("Min", ["h", "most"], ["r"]),
    ]
    proto = kept(graph(nodes, {}), [{"x": np.ones((1, 8), np.float32)}])
    onnx.checker.check_model(proto, full_check=True)
    assert run(proto, {"x": np.full((1, 8), 5.0, np.float32)}).tolist() == [[5.0] * 8]


def test_a_graph_within_a_graph_is_refused() -> None:
    ends = [helper.make_tensor_value_info("i", TensorProto.FLOAT16, None)]
    inside = helper.make_graph([helper.make_node("Identity", ["h"], ["i"])], "inside", [], ends)
    nodes = [helper.make_node("If", ["yes"], ["r"], then_branch=inside, else_branch=inside)]
    with pytest.raises(ValueError, match="other graphs within"):
        fp16_tensors(graph(nodes, {}))


@pytest.fixture(scope="module")
def bright() -> tuple[Part, Feed, np.ndarray]:
    """A traced VQGAN decoder whose residual stream reaches 900,000, its tokens, and torch's pixels."""
    torch.manual_seed(0)
    model = VQGAN(SMALL).eval()
    assert model.post_quant_conv is not None
    with torch.no_grad():
        model.decoder.conv_in.weight.mul_(1e5)
        model.post_quant_conv.weight.mul_(100)
    round_to_fp16(model)
    feed: Feed = {"tokens": np.random.default_rng(0).integers(0, SMALL.codes, (2, 8, 8)).astype(np.int32)}
    pixels = torch_run(wrap("decoder", model))(feed)
    spec = graph_specs(SMALL.factor, PRIORS["tiny"].model)["decoder"]
    (part,) = _traced(model, {"decoder": (1, spec)}, {}, ["fp16"], lambda line: None)
    return part, feed, pixels


def likeness(found: np.ndarray, expected: np.ndarray) -> float:
    """PSNR in dB."""
    return float(10 * np.log10(255**2 / max(1e-6, np.square(found.astype(float) - expected).mean())))


def test_a_decoder_that_would_be_black_on_a_gpu_shows_its_picture(
    bright: tuple[Part, Feed, np.ndarray],
) -> None:
    part, feed, pixels = bright
    proto, weights = part.graphs["fp16"], part.weight_file
    assert likeness(run(proto, feed, weights), pixels) > 50  # a CPU computes in fp32
    assert likeness(rounded(proto, feed, weights), pixels) < 10
    assert max(greatest(proto, weights, fp16_tensors(proto), [feed]).values()) > 10 * LARGEST
    lines: list[str] = []
    (fine,) = attempts(part, "fp16", [feed], lines.append)
    (words,) = lines
    found = re.search(r"the greatest activation is 8.8\d*e\+05; (\d+) operators are kept in fp32 or scaled", words)
    assert found, words
    assert 0 < int(found[1]) < 0.25 * len(proto.graph.node)
    assert likeness(rounded(fine, feed, weights), pixels) > 55
    assert likeness(run(fine, feed, weights), pixels) > 55
    left = fp16_tensors(fine)
    assert max(greatest(fine, weights, left, [feed]).values()) <= LARGEST / ROOM
    assert all(set(node.input) <= left for node in fine.graph.node if node.op_type in PRODUCTS)


def test_tensors_of_the_same_content_are_all_stored(bright: tuple[Part, Feed, np.ndarray]) -> None:
    own = {name for name in VQGAN(SMALL).state_dict() if name.startswith(("decoder.", "post_quant"))}
    stored = {name.removesuffix(TRANSPOSED) for name in load(bright[0].weight_file[1])}
    assert own <= stored  # although all its norms hold the same ones and zeros


@pytest.fixture(scope="module")
def keen() -> tuple[Part, list[Feed], Graph]:
    """A traced predictor whose keys overflow fp16, its inputs, and a torch function for its answers."""
    torch.manual_seed(0)
    config = PRIORS["tiny-autoregressive"].model
    assert isinstance(config, AutoregressiveTransformerConfig)
    model = build_prior(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.3)
            if "attn.key" in name:
                parameter.mul_(2**15)
            if "attn.query" in name:
                parameter.mul_(2**-12)
    round_to_fp16(model)
    run = torch_graph(wrap("predictor", model))
    past, length = (2 * config.layers, config.heads, config.width // config.heads), 16
    tokens = np.random.default_rng(0).integers(0, config.codes, (8, length))
    feeds = prefix_feeds(tokens, np.arange(8) % config.classes, config.codes, past, batches=2, batch=4)
    spec = graph_specs(16, config)["predictor"]
    (part,) = _traced(copy.deepcopy(model), {"predictor": (1, spec)}, {}, ["fp16"], lambda line: None)
    return part, with_past(run, feeds, 4), run


def test_what_a_predictor_keeps_is_within_range_too(keen: tuple[Part, list[Feed], Graph]) -> None:
    part, feeds, answers = keen
    assert "Gemm" not in {node.op_type for node in part.graphs["fp16"].graph.node}
    assert feeds[3]["past"].shape[3] == 12
    size = greatest(part.graphs["fp16"], part.weight_file, fp16_tensors(part.graphs["fp16"]), feeds[1:2])
    masked = {node.input[0] for node in part.graphs["fp16"].graph.node if node.op_type == "Softmax"}
    assert masked
    assert too_large({name: size[name] for name in masked}) == set()  # the mask is -inf, not a large finite number
    assert np.abs(feeds[3]["past"]).max() > LARGEST

    def error(calibration: list[Feed]) -> float:
        """Error for one more token, in units of the logits' standard deviation."""
        (fine,) = attempts(part, "fp16", calibration, lambda line: None)
        last = feeds[3]
        exact, found = answers(last)[0], rounded(fine, last, part.weight_file)
        return float(np.abs(found - exact).max() / exact.std())

    assert not error(feeds[1:3]) < 0.1  # calibrated without a past, it overflows
    assert error(feeds[:2]) < 0.1


def test_tensorrt_rtx_builds_it_for_turing(bright: tuple[Part, Feed, np.ndarray], tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    part, feed, _ = bright
    (fine,) = attempts(part, "fp16", [feed], lambda line: None)
    file, content = part.weight_file
    (tmp_path / file).write_bytes(content)
    (tmp_path / "decoder.onnx").write_bytes(for_tensorrt(fine).SerializeToString())
    profile = {"tokens": Profile(least=(1, 8, 8), best=(1, 8, 8), most=(2, 16, 16))}
    assert PortableToolkit(("sm_75",)).build(tmp_path / "decoder.onnx", (profile,)).startswith(b"vtrt")
