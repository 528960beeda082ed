"""``bench/speed/roofline.py``: ceilings, tables, profiles that were read, and projections that say what they are."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from smalti.errors import UsageError

sys.path.insert(0, str(Path(__file__).parents[2] / "bench/speed"))
try:
    ceilings, counting, profiling, projection, roofline = (
        importlib.import_module(name) for name in ("ceilings", "counting", "profiling", "projection", "roofline")
    )
finally:
    sys.path.pop(0)

MACHINE = ceilings.Ceilings(1, {"fp32": 1e9, "fp16": 1e9, "int8": 4e9}, {1000: 1e9, 100_000: 1e8})


def node(name: str, op_type: str, products: int = 0, others: int = 0, size: int = 0, kind: str = "fp32"):
    return counting.Count(name, op_type, products, others, size, kind)


def test_a_copy_is_compared_with_one_of_its_size() -> None:
    assert MACHINE.copy(1000) == pytest.approx(1e9)
    assert MACHINE.copy(10) == pytest.approx(1e9)
    assert MACHINE.copy(10_000) == pytest.approx(10**8.5)
    assert MACHINE.copy(10**9) == pytest.approx(1e8)


def test_a_node_is_bound_by_products_or_by_memory() -> None:
    assert MACHINE.least_seconds(node("a", "MatMul", products=500_000, size=1000)) == pytest.approx(1e-3)
    assert MACHINE.least_seconds(node("a", "MatMul", 500_000, 0, 1000, "int8")) == pytest.approx(2.5e-4)
    assert MACHINE.least_seconds(node("a", "Add", others=10, size=100_000)) == pytest.approx(1e-3)
    assert MACHINE.least_seconds(node("a", "Reshape")) == 0


def test_nodes_of_an_operator_are_one_row_and_8_bit_products_another() -> None:
    counts = [
        node("a", "MatMul", 500_000, 0, 1000),
        node("b", "MatMul", 500_000, 0, 1000, "int8"),
        node("c", "Add", 0, 10, 100_000),
        node("d", "Add", 0, 10, 100_000),
        node("e", "Constant"),
    ]
    seconds = {"a": 2e-3, "b": 1e-3, "c": 4e-3, "d": 4e-3}
    rows = roofline.rows_of(counts, seconds, MACHINE)
    assert [(row.operator, row.calls) for row in rows] == [("Add", 2), ("MatMul fp32", 1), ("MatMul int8", 1)]
    assert [row.share for row in rows] == pytest.approx([0.25, 0.5, 0.25])
    text = roofline.table(rows, 12e-3)
    assert "| Add | 2 | 8.00 | 67% | 0.000 | 0.20 | 0.0 | 0.0 | 0.0 | 2.00 | 25% |" in text
    assert "| all nodes | 4 | 11.00 | 92% |" in text
    assert "| between nodes | | 1.00 | 8% |" in text


def test_a_profile_is_read_without_its_first_run() -> None:
    made = {"n0": helper.make_node("Add", ["x", "x"], ["y"], "n0")}
    shape = {"output_type_shape": [{"float": [2, 3]}]}
    events = [
        {"cat": "Session", "name": "model_run", "dur": 9},
        *({"cat": "Node", "name": "n0_kernel_time", "dur": dur, "args": shape} for dur in (900, 20, 10, 30, 40, 50)),
        {"cat": "Node", "name": "n0_fence_before", "dur": 1, "args": {}},
    ]
    found = profiling.read_events(events, made)
    assert found.seconds == {"n0": pytest.approx(10e-6)}
    assert found.tensors["y"].shape == (2, 3)
    assert found.tensors["y"].kind == TensorProto.FLOAT


def test_a_component_is_measured(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "roofline.json"
    few = pytest.MonkeyPatch()
    few.setattr(ceilings, "SIDES", (64,))
    few.setattr(ceilings, "COPIES", (2**14, 2**16))
    with few.context():
        roofline.main([str(tiny_bundle), "--threads", "1", "--runs", "3", "--batch", "2", "--json", str(target)])
    few.undo()
    printed = capsys.readouterr().out
    assert "### denoiser int8, 1 threads" in printed
    assert "### decoder int8, 1 threads" in printed
    assert "not in the tables" not in printed
    found = json.loads(target.read_text())
    assert [one["component"] for one in found] == ["denoiser", "decoder"]
    for one in found:
        assert one["seconds"] > 0
        assert any(row["operator"].endswith("int8") for row in one["operators"])


def test_a_gpu_is_known_by_its_name_and_others_are_refused() -> None:
    assert projection.gpu_named("NVIDIA GeForce rtx2080ti").name == "RTX 2080 Ti"
    with pytest.raises(UsageError, match="GTX 1080 Ti, RTX 2080 Ti, RTX 3060, RTX 4090, H100"):
        projection.gpu_named("RTX 9999")
    for gpu in projection.GPUS:
        assert "NVIDIA" in gpu.source
        assert gpu.fp32 <= gpu.fp16


def test_a_bound_is_what_products_or_weights_take() -> None:
    gpu = projection.Gpu("X", 1e12, 4e12, 1e9, "nowhere")
    heavy = projection.Work((node("a", "MatMul", 2 * 10**9, 0, 1000), node("b", "Add", 0, 0, 10**6)), 1000)
    assert projection.bound(heavy, gpu, "fp32") == projection.Bound(pytest.approx(4e-3), pytest.approx(5e-3))
    assert projection.bound(heavy, gpu, "fp16").fused == pytest.approx(1e-3)
    light = projection.Work((node("a", "MatMul", 10, 0, 10**6),), 10**6)
    assert projection.bound(light, gpu, "fp16").fused == pytest.approx(1e-3)


@pytest.mark.parametrize("gpu", projection.GPUS, ids=lambda gpu: gpu.name)
def test_every_line_of_a_projection_says_so(gpu, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "projection.json"
    roofline.main(["--project", gpu.name, "--json", str(target)])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) > 10
    assert all(line.startswith("projection") for line in printed)
    text = "\n".join(printed)
    for wanted in (gpu.name, gpu.source, "assumed", "a guess", "s/Mpx", "nothing of this was measured"):
        assert wanted in text
    found = json.loads(target.read_text())
    assert found["projection"] == gpu.name
    assert all(row["projection"] for row in found["rows"])
    assert all(0 < row["fused_seconds"] <= row["by_node_seconds"] for row in found["rows"])


def test_an_unknown_gpu_ends_with_the_known_ones() -> None:
    with pytest.raises(SystemExit, match="known are GTX 1080 Ti"):
        roofline.main(["--project", "Voodoo 2"])
