from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from smalti_export.precision.activation_ranges import activation_ranges, least_error


def error(values: np.ndarray, low: float, high: float) -> float:
    scale = (high - low) / 255
    zero = round(-low / scale)
    return float(np.square((np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale - values).mean())


def test_values_that_fill_their_range_keep_it() -> None:
    values = np.random.default_rng(0).uniform(-3, 1, 50_000)
    low, high = least_error(values, -3, 1)
    assert low == pytest.approx(-3, rel=0.03)
    assert high == pytest.approx(1, rel=0.03)


def test_a_few_values_far_out_are_cut_off_where_that_gains() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(0, 0.05, 200_000), [10.0, -4.0]])
    low, high = least_error(values, -4, 10)
    assert high < 9
    assert low == pytest.approx(-0.4 * high)
    assert error(values, low, high) < 0.8 * error(values, -4, 10)


def test_what_is_nothing_but_zero_has_no_range() -> None:
    assert least_error(np.zeros(9), 0, 0) == (0, 0)


def graph() -> onnx.ModelProto:
    """y = relu(x), z = y + y."""
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Add", ["y", "y"], ["z"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "m"]) for name in ("x", "z")]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_ranges_are_those_of_the_tensors_on_all_feeds() -> None:
    generator = np.random.default_rng(0)
    feeds = [{"x": generator.uniform(-2, top, (4, 9000)).astype(np.float32)} for top in (1, 5)]
    found = activation_ranges(graph(), ["x", "y", "z"], feeds, whole=["z"])
    assert found["x"] == pytest.approx((-2, 5), rel=0.05)
    assert found["y"] == pytest.approx((0, 5), rel=0.05)
    assert found["z"] == pytest.approx((0, 10), rel=0.001)


def test_what_is_kept_whole_is_not_cut() -> None:
    values = np.full((1, 60_000), 0.05, np.float32) * np.linspace(-1, 1, 60_000, dtype=np.float32)
    values[0, 8] = 10  # an outlier that is not sampled
    (cut,), (whole,) = (activation_ranges(graph(), ["x"], [{"x": values}], kept).values() for kept in ((), ("x",)))
    assert cut[1] < 9
    assert whole[1] == 10


@pytest.mark.parametrize("width", [64, 96, 384])
def test_every_channel_is_looked_at(width: int) -> None:
    """One channel in three has large values too; if not sampled, they are clipped at 0.3 of their range."""
    for channel in range(3):
        values = np.random.default_rng(1).uniform(0, 5, (49_152 // width, width)).astype(np.float32)
        values[:, channel::3] = np.random.default_rng(2).uniform(0, 50, values[:, channel::3].shape)
        ((_, high),) = activation_ranges(graph(), ["x"], [{"x": values}]).values()
        assert high > 45
