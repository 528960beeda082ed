from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load, load_file
from torch import Tensor

from smalti.bundle.manifest import Precision, Role
from smalti.bundle.reader import open_bundle
from smalti_export.graphs.weights import externalise, halved, name_by_content, pack, place, round_to_fp16, share
from smalti_export.source import load_pair, with_embedding
from smalti_train.data.config import open_split
from smalti_train.runs.bundle_weights import TRANSPOSED, folded
from smalti_train.runs.loading import load_prior
from smalti_train.runs.token_cache import load_autoencoder

ROLES: tuple[Role, ...] = ("encoder", "decoder", "denoiser")
BOTH = pytest.mark.parametrize("precision", ["fp32", "fp16"])


def graph(bundle: Path, role: str, precision: str) -> onnx.GraphProto:
    return onnx.load(bundle / f"{role}.{precision}.onnx", load_external_data=False).graph


def external(found: onnx.GraphProto) -> list[TensorProto]:
    return [tensor for tensor in found.initializer if tensor.data_location == TensorProto.EXTERNAL]


def places(content: bytes) -> dict[tuple[int, int], str]:
    """Map (offset, length) to names, as in the header of a safetensors file."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header.pop("__metadata__", None)
    offsets = {name: entry["data_offsets"] for name, entry in header.items()}
    return {(8 + size + first, last - first): name for name, (first, last) in offsets.items()}


def trained(role: Role, runs: tuple[Path, Path]) -> dict[str, Tensor]:
    """The model's own tensors, as a bundle releases them."""
    model = load_prior(runs[1])[0] if role == "denoiser" else folded(load_autoencoder(runs[1] / "autoencoder")[0])[0]
    state = model.state_dict()
    if role != "denoiser":
        state = {name: value for name, value in state.items() if name.startswith((role, "quantizer"))}
    if role == "encoder":
        pair = load_pair(runs[1])
        pair = with_embedding(pair, open_split(pair.prior_run.data, "validation"))
        assert pair.embedding is not None
        state |= {f"embedding.{name}": value for name, value in pair.embedding.state_dict().items()}
    return state


@BOTH
@pytest.mark.parametrize("role", ROLES)
def test_every_weight_of_a_graph_is_a_named_tensor_of_the_one_file(
    role: Role, precision: Precision, tiny_bundle: Path, tiny_runs: tuple[Path, Path]
) -> None:
    content = (tiny_bundle / f"{role}.safetensors").read_bytes()
    tensors, names, own = load(content), places(content), trained(role, tiny_runs)
    referred = external(graph(tiny_bundle, role, precision))
    assert len(referred) > 10
    for tensor in referred:
        entry = {item.key: item.value for item in tensor.external_data}
        offset, length = int(entry["offset"]), int(entry["length"])
        assert entry["location"] == f"{role}.safetensors"
        assert tensor.data_type == TensorProto.FLOAT16
        name = names[offset, length]
        # An encoder's codes are a convolution of 1x1.
        assert [side for side in tensor.dims if side > 1] == [side for side in tensors[name].shape if side > 1]
        assert content[offset : offset + length] == tensors[name].numpy().tobytes()
        expected = own[name.removesuffix(TRANSPOSED)].half()
        assert torch.equal(tensors[name], expected.T if name.endswith(TRANSPOSED) else expected), name


@pytest.mark.parametrize("role", ROLES)
def test_both_precisions_read_the_same_tensors(role: Role, tiny_bundle: Path) -> None:
    def read(precision: str) -> set[tuple[str, ...]]:
        return {
            tuple(item.value for item in tensor.external_data)
            for tensor in external(graph(tiny_bundle, role, precision))
        }

    assert read("fp32") == read("fp16")
    bundle = open_bundle(tiny_bundle)
    for precision in ("fp32", "fp16"):
        assert bundle.variant(role, precision).weights == (f"{role}.safetensors",)


@BOTH
@pytest.mark.parametrize("role", ROLES)
def test_graphs_hold_no_weights_themselves(role: Role, precision: Precision, tiny_bundle: Path) -> None:
    found = graph(tiny_bundle, role, precision)
    inside = [tensor for tensor in found.initializer if tensor.data_location != TensorProto.EXTERNAL]
    inside += [item.t for node in found.node for item in node.attribute if item.type == onnx.AttributeProto.TENSOR]
    assert sum(tensor.ByteSize() for tensor in inside) < 4000
    codes = open_bundle(tiny_bundle).manifest.latent.codes  # the tracer may compute their lengths, a number for each
    assert max(np.prod(tensor.dims, initial=1) for tensor in inside) <= (codes if role == "encoder" else 16)


@pytest.mark.parametrize("role", ROLES)
def test_a_parameter_takes_two_bytes(role: Role, tiny_bundle: Path, tiny_runs: tuple[Path, Path]) -> None:
    tensors = load_file(tiny_bundle / f"{role}.safetensors")
    own = trained(role, tiny_runs)
    halves = {name: value for name, value in tensors.items() if value.dtype == torch.float16}
    norms = {name: value for name, value in tensors.items() if value.dtype == torch.float32}
    ranges = {name: norms.pop(name) for name in list(norms) if name.endswith("sharpness")}  # graphs hold their squares
    assert {name.removesuffix(TRANSPOSED) for name in halves} | ranges.keys() == own.keys()
    assert len(ranges) == (role == "decoder")
    parameters = sum(value.numel() for name, value in own.items() if name not in ranges)
    assert sum(value.nbytes for value in halves.values()) == 2 * parameters
    assert all(value.ndim == 1 for value in norms.values())
    channels = sum(len(value) for name, value in norms.items() if name.endswith("running_var"))
    assert sum(value.nbytes for value in norms.values()) == 4 * 4 * channels  # training continues from these
    size = (tiny_bundle / f"{role}.safetensors").stat().st_size
    squared = sum(value.nbytes for value in ranges.values())
    assert size - 2 * parameters - 16 * channels - squared < 120 * len(tensors)  # the header


def test_rounding_leaves_what_fp16_can_hold() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    before = model[0].weight.detach().clone()
    round_to_fp16(model)
    assert model[0].weight.dtype == torch.float32
    assert torch.equal(model[0].weight, before.half().float())
    assert not torch.equal(model[0].weight, before)
    assert model[1].num_batches_tracked.dtype == torch.int64


def test_a_packed_graph_computes_what_it_did_before() -> None:
    generator = np.random.default_rng(0)
    weight, bias = (generator.normal(size=size).astype(np.float16).astype(np.float32) for size in ((3, 5), (5,)))
    tensors = {"layer.weight": torch.from_numpy(weight.T.copy()), "layer.bias": torch.from_numpy(bias)}
    inside = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")]
    inside.append(numpy_helper.from_array(np.array([2.0], np.float32), "two"))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["xw"]), helper.make_node("Add", ["xw", "b"], ["y"])]
    nodes.append(helper.make_node("Mul", ["y", "two"], ["z"]))
    ends = [helper.make_tensor_value_info(*end) for end in (("x", 1, ["n", 3]), ("z", 1, ["n", 5]))]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], inside),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    found = name_by_content(proto, tensors)
    assert found == {"w": "layer.weight^T", "b": "layer.bias"}  # the constant is no tensor of the model
    content, where = pack(tensors, set(found.values()), {"norm": torch.ones(2)})
    assert set(load(content)) == {"layer.weight^T", "layer.bias", "norm"}
    packed = externalise(proto, found, "w.safetensors")
    place(packed, where)

    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_external_initializers_from_files_in_memory(["w.safetensors"], [content], [len(content)])
    providers = ["CPUExecutionProvider"]
    x = generator.normal(size=(4, 3)).astype(np.float32)
    before = onnxruntime.InferenceSession(proto.SerializeToString(), providers=providers).run(None, {"x": x})[0]
    after = onnxruntime.InferenceSession(packed.SerializeToString(), options, providers=providers).run(None, {"x": x})[
        0
    ]
    assert np.array_equal(before, after)
    assert len(packed.SerializeToString()) < len(proto.SerializeToString()) + 300


def test_a_constant_that_only_rounds_to_a_weight_is_none() -> None:
    tensors = {"gate": torch.zeros(1), "scale": torch.tensor([0.1767578125])}
    inside = {"eps": 1e-12, "root": 32**-0.5, "gate": 0.0, "scale": 0.1767578125}
    proto = onnx.ModelProto()
    proto.graph.initializer.extend(numpy_helper.from_array(np.array([v], np.float32), n) for n, v in inside.items())
    assert name_by_content(proto, tensors) == {"gate": "gate", "scale": "scale"}


def int8_graph(shared: np.ndarray, own: np.ndarray) -> onnx.ModelProto:
    """y = x W V with 8-bit W and V, and a large fp32 constant that is added."""
    weights = {"w": shared, "v": own, "scale": np.array(0.1, np.float32), "zero": np.array(0, np.int8)}
    weights["c"] = np.linspace(-1, 1, 64 * 32).reshape(64, 32).astype(np.float16).astype(np.float32)
    nodes = [
        *(helper.make_node("DequantizeLinear", [n, "scale", "zero"], [f"{n}f"]) for n in ("w", "v")),
        helper.make_node("MatMul", ["x", "wf"], ["xw"]),
        helper.make_node("Add", ["xw", "c"], ["xwc"]),
        helper.make_node("MatMul", ["xwc", "vf"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(*end) for end in (("x", 1, [64, 256]), ("y", 1, [64, 256]))]
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def answer(graph: bytes, file: str = "", content: bytes = b"") -> np.ndarray:
    options = onnxruntime.SessionOptions()
    if content:
        options.add_external_initializers_from_files_in_memory([file], [content], [len(content)])
    x = np.random.default_rng(5).normal(size=(64, 256)).astype(np.float32)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def test_int8_graphs_share_what_is_equal_and_compute_the_same() -> None:
    rng = np.random.default_rng(4)
    shared, *own = (rng.integers(-128, 128, shape).astype(np.int8) for shape in ((256, 32), (32, 256), (32, 256)))
    graphs = {name: int8_graph(shared, one).SerializeToString() for name, one in zip(("small", "large"), own)}
    found, content = share(graphs, "both.safetensors")
    (moved,) = load(content).values()  # what differs stays inside, though it has the same name
    assert np.array_equal(moved.numpy(), shared)
    for name, graph in found.items():
        assert len(graph) < len(graphs[name]) - shared.nbytes / 2
        assert np.array_equal(answer(graph, "both.safetensors", content), answer(graphs[name]))
    assert share({"small": graphs["small"]}, "both.safetensors") == ({"small": graphs["small"]}, b"")


def test_constants_that_fp16_holds_exactly_take_half_the_bytes() -> None:
    rng = np.random.default_rng(4)
    whole = int8_graph(*(rng.integers(-128, 128, shape).astype(np.int8) for shape in ((256, 32), (32, 256))))
    half = halved(whole)
    onnx.checker.check_model(half, full_check=True)
    assert whole.ByteSize() - half.ByteSize() > 64 * 32 * 1.8
    assert np.array_equal(answer(half.SerializeToString()), answer(whole.SerializeToString()))
    for constant in whole.graph.initializer:
        if constant.name == "c":
            constant.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(constant) + np.float32(1e-6), "c"))
    kept = [one.data_type for one in halved(whole).graph.initializer if one.name == "c"]
    assert kept == [TensorProto.FLOAT], "what fp16 would round stays as it is"


def test_int8_decoders_of_several_sizes_read_one_file(sized_bundle: Path) -> None:
    bundle = open_bundle(sized_bundle)
    decoders = [one.decoder for one in bundle.manifest.resolutions]
    assert len(decoders) == 3
    assert {bundle.variant(role, "int8").weights for role in decoders} == {("decoder.int8.safetensors",)}
    known = places(bundle.read("decoder.int8.safetensors"))
    for role in decoders:
        tensors = external(graph(sized_bundle, role, "int8"))
        assert tensors
        for tensor in tensors:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            assert (int(entries["offset"]), int(entries["length"])) in known
