from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from torch import Tensor, nn

from smalti_export.precision.cpu_operators import (
    FUSED_OPSET,
    attention_without_transposes,
    constant_products,
    quantized_products,
)


class Attending(nn.Module):
    """Attention with packed projections, as the embedded prior has it."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, n, 8] to the same shape."""
        parts = (part.unflatten(2, (self.heads, -1)) for part in self.qkv(x).chunk(3, dim=-1))
        q, k, v = (part.transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out(mixed.flatten(2))


def traced(model: nn.Module) -> onnx.ModelProto:
    free = {"x": {0: torch.export.Dim("n", min=1)}}
    made = torch.onnx.export(
        model.eval(),
        (torch.zeros(2, 6, 8),),
        dynamo=True,
        dynamic_shapes=free,
        opset_version=FUSED_OPSET,
        input_names=["x"],
        output_names=["y"],
        verbose=False,
    )
    assert made is not None
    return made.model_proto


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def kinds(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


X = np.random.default_rng(0).normal(size=(3, 6, 8)).astype(np.float32)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_reads_heads_where_they_lie(heads: int) -> None:
    torch.manual_seed(0)
    model = Attending(heads)
    proto = traced(model)
    assert "Transpose" in kinds(proto)
    made = attention_without_transposes(proto)
    assert kinds(made).count("Attention") == 1
    assert not {"Transpose", "Reshape"} & set(kinds(made))
    assert np.allclose(run(made, X), model(torch.from_numpy(X)).detach().numpy(), atol=1e-5)


def test_heads_that_are_split_in_another_way_stay_as_they_are() -> None:
    torch.manual_seed(0)
    proto = traced(Attending(2))
    turn = next(node for node in proto.graph.node if node.op_type == "Transpose")
    turn.attribute[0].CopyFrom(helper.make_attribute("perm", [0, 2, 3, 1]))
    assert kinds(attention_without_transposes(proto)) == kinds(proto)


def test_a_packed_product_becomes_one_for_each_part() -> None:
    torch.manual_seed(0)
    model = Attending(2)
    whole = attention_without_transposes(traced(model))
    inputs = {node.input[0] for node in constant_products(whole)}
    made = quantized_products(whole, dict.fromkeys(inputs, (-4.0, 4.0)))
    product = "MatMulIntegerToFloat"
    assert kinds(made) == ["QuantizeLinear", *[product] * 3, "Attention", "QuantizeLinear", product]
    exact = model(torch.from_numpy(X)).detach().numpy()
    assert np.abs(run(made, X) - exact).max() < 0.05 * np.abs(exact).max()


def test_a_product_that_is_kept_stays_with_what_follows_it() -> None:
    torch.manual_seed(0)
    whole = attention_without_transposes(traced(Attending(2)))
    first, last = constant_products(whole)
    made = quantized_products(whole, {last.input[0]: (-4.0, 4.0)}, keep=[first.name])
    assert kinds(made) == ["MatMul", "Add", "Split", "Attention", "QuantizeLinear", "MatMulIntegerToFloat"]


@settings(max_examples=25, deadline=None)
@given(
    low=st.floats(-8, 0, width=16),
    high=st.floats(0, 8, width=16),
    bias=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_a_product_is_that_of_its_rounded_factors(low: float, high: float, bias: bool, seed: int) -> None:
    generator = np.random.default_rng(seed)
    weights = generator.normal(size=(8, 5)).astype(np.float32)
    weights[:, 0] = 0  # a column without a scale
    added = generator.normal(size=5).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m" if bias else "y"], "product")]
    constants = [numpy_helper.from_array(weights, "w")]
    if bias:
        nodes.append(helper.make_node("Add", ["b", "m"], ["y"]))
        constants.append(numpy_helper.from_array(added, "b"))
    ends = [helper.make_tensor_value_info(*end) for end in (("x", 1, ["n", 6, 8]), ("y", 1, ["n", 6, 5]))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    made = quantized_products(proto, {"x": (low, high)})
    assert kinds(made) == ["QuantizeLinear", "MatMulIntegerToFloat"]
    step = np.float32((high - low) / 255) or np.float32(1)
    zero = np.clip(np.rint(-low / step), 0, 255)
    levels = np.clip(np.rint(X / step) + zero, 0, 255) - zero
    steps = np.abs(weights).max(axis=0) / 127
    steps[steps == 0] = 1
    expected = (levels * step) @ (np.rint(weights / steps) * steps) + (added if bias else 0)
    assert np.allclose(run(made, X), expected, atol=1e-3 + 0.02 * np.abs(expected).max())
