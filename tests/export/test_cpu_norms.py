from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from smalti_export.precision.cpu_norms import norms_of_levels, plain_norms
from smalti_export.precision.int8 import calibrated, quantize, quantized

RNG = np.random.default_rng(0)


class Normed(nn.Module):
    """A convolution, a group norm, an activation and a convolution."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(4, 8, eps=1e-3)
        self.activation, self.last = activation, nn.Conv2d(8, 3, 1)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Float [n, 3, h, w] to the same shape."""
        return self.last(self.activation(self.norm(self.first(x))))


def traced(model: nn.Module, opset: int, *, free: bool) -> onnx.ModelProto:
    dim = torch.export.Dim
    sides = {0: dim("n", min=1)} | ({2: dim("h", min=1), 3: dim("w", min=1)} if free else {})
    made = torch.onnx.export(
        model.eval(),
        (torch.zeros(2, 3, 5, 7),),
        dynamo=True,
        dynamic_shapes=(sides,),
        opset_version=opset,
        input_names=["x"],
        output_names=["y"],
        verbose=False,
    )
    assert made is not None
    return made.model_proto


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def kinds(proto: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in proto.graph.node}


def images(count: int = 3) -> np.ndarray:
    return (RNG.normal(size=(count, 3, 5, 7)) + np.arange(count)[:, None, None, None]).astype(np.float32)


@pytest.fixture(params=[True, False], ids=["free", "fixed"])
def free(request: pytest.FixtureRequest) -> bool:
    """Whether the sides of the pictures are free."""
    return request.param


def test_norms_and_mish_become_plain_operators_of_the_same_function(free: bool) -> None:
    torch.manual_seed(0)
    model = Normed(nn.Mish())
    proto = traced(model, 23, free=free)
    assert {"GroupNormalization", "Mish"} <= kinds(proto)
    plain = plain_norms(proto)
    onnx.checker.check_model(plain, full_check=True)
    assert not {"GroupNormalization", "Mish", "Softplus"} & kinds(plain)
    assert ("Shape" in kinds(plain)) == free
    x = 4 * images()
    expected = model(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(run(plain, x), expected, rtol=1e-4, atol=1e-5)


def test_mish_is_exact_at_both_ends() -> None:
    class Alone(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.mish(x)

    x = np.linspace(-90, 90, 210).reshape(2, 3, 5, 7).astype(np.float32)
    found = run(plain_norms(traced(Alone(), 23, free=True)), x)
    expected = nn.functional.mish(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)


def test_a_graph_without_norms_stays_the_same_object() -> None:
    proto = traced(nn.Conv2d(3, 3, 1), 20, free=True)
    assert plain_norms(proto) is proto
    assert norms_of_levels(proto) is proto


def test_a_norm_over_free_sides_becomes_a_factor_and_a_shift() -> None:
    torch.manual_seed(0)
    model = Normed(nn.SiLU())
    proto = traced(model, 20, free=True)
    assert "InstanceNormalization" in kinds(proto)
    made = norms_of_levels(proto)
    onnx.checker.check_model(made, full_check=True)
    assert "InstanceNormalization" not in kinds(made)
    x = images()
    np.testing.assert_allclose(run(made, x), model(torch.from_numpy(x)).detach().numpy(), rtol=1e-4, atol=1e-5)
    even = np.ones((1, 3, 9, 9), np.float32)  # rounding must not take the root of less than 0
    assert np.isfinite(run(made, even)).all()


def test_8_bits_that_only_a_norm_reads_stay_levels() -> None:
    torch.manual_seed(0)
    model = Normed(nn.SiLU())
    x = images()
    proto, given = traced(model, 20, free=True), [{"x": x}]
    whole = calibrated(proto, given)
    made = quantized(whole)
    levels = [node for node in made.graph.node if node.op_type == "Cast" and node.output[0].endswith("levels")]
    assert len(levels) == 1
    expected = model(torch.from_numpy(x)).detach().numpy()
    assert np.abs(run(made, x) - expected).mean() < 0.02 * np.abs(expected).max()
    # A first convolution that is kept is normed as it is.
    kept = quantize(proto, given, [node.name for node in whole.graph.graph.node if node.op_type == "Conv"][:1])
    assert not [node for node in kept.graph.node if node.op_type == "Cast" and node.output[0].endswith("levels")]
    assert np.abs(run(kept, x) - expected).mean() < 0.02 * np.abs(expected).max()
