"""The two builders behind one adapter: their requests and their refusals. TensorRT itself is not needed."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from helpers.fake_tensorrt import FakeTensorRT
from smalti import open_bundle
from smalti.bundle.engine_folder import engine_cache
from smalti.bundle.engines import Profile
from smalti.bundle.manifest import Component, Latent, Resolution, TensorSpec, own_resolution
from smalti.cli.main import _run
from smalti.errors import DriverUnavailable, EngineError, MissingExtra, UsageError
from smalti.system.platform import system_name
from smalti_export.engines import toolkit
from smalti_export.engines.cli import _place as place
from smalti_export.engines.graphs import bytes_last, for_tensorrt
from smalti_export.engines.profiles import make_profiles
from smalti_export.engines.toolkit import PORTABLE, DeviceToolkit, PortableToolkit, default_targets, open_toolkit
from smalti_kernels.impl.cuda.driver import Device

RTX_3060 = Device(0, "NVIDIA GeForce RTX 3060", 86, 28)
SIZES = {"tokens": Profile(least=(1, 4), best=(1, 4), most=(16, 4)), "times": Profile(least=(1,), best=(1,), most=(2,))}


@pytest.fixture
def graph(tmp_path):
    (tmp_path / "denoiser.onnx").write_bytes(b"a graph")
    return tmp_path / "denoiser.onnx"


def test_one_engine_for_several_gpus_is_strongly_typed_and_has_the_profiles(graph):
    trt = FakeTensorRT(portable=True)
    tools = PortableToolkit(["sm_120", "sm_75", "sm_75"], trt)
    assert (tools.targets, tools.device, tools.system) == (("sm_75", "sm_120"), "", "")
    assert tools.build(graph, [SIZES, SIZES]).startswith(b"vtrt")
    # Sizes of inputs that the graph does not have are ignored.
    profile = ("profile", {"tokens": ((1, 4), (1, 4), (16, 4))})
    assert trt.calls == [
        ("flags", 2),
        ("parse", "denoiser.onnx", ["denoiser.onnx"]),
        ("target", 0, 75),
        ("target", 1, 120),
        ("clear", 7),
        profile,
        profile,
    ]


def test_targets_may_be_spelled_as_people_spell_them():
    for word in ("sm_86", "SM86", "sm 86", "8.6", "86", "RTX 3060", "GeForce RTX 3080 Ti", "3090"):
        assert PortableToolkit([word], FakeTensorRT(portable=True)).targets == ("sm_86",)
    assert PortableToolkit(["12.0"], FakeTensorRT(portable=True)).targets == ("sm_120",)


def test_an_engine_for_the_gpu_at_hand_is_built_in_the_same_way(graph):
    trt = FakeTensorRT()
    tools = DeviceToolkit(trt, RTX_3060)
    assert (tools.runtime, tools.version, tools.targets) == ("trt", "10.13.0", ("sm_86",))
    assert (tools.device, tools.system) == ("NVIDIA GeForce RTX 3060", system_name())
    tools.build(graph, [SIZES])
    assert [call[0] for call in trt.calls] == ["flags", "parse", "clear", "profile"]


@pytest.mark.parametrize(
    ("fail", "says"),
    [
        ("device", "cannot build here: no CUDA-capable device is detected"),
        ("parse", r"cannot read denoiser\.onnx: an operator it does not know"),
        ("build", r"cannot build denoiser\.onnx: Cannot compile operation$"),
    ],
)
def test_what_a_builder_refuses_is_told(fail, says, graph):
    with pytest.raises(EngineError, match=says):
        DeviceToolkit(FakeTensorRT(fail=fail), RTX_3060).build(graph, [SIZES])


def test_targets_and_runtimes_that_do_not_exist_are_refused():
    for target, says in (
        ("sm_61", r"target sm_61 \(GeForce GTX 10\): TensorRT-RTX 1\.7 builds for sm_75, .*explain --for sm_61"),
        ("H100", r"target sm_90 \(H100\): .*build --runtime trt, without --target, on the machine that has it"),
        ("sm_86,RTX 4090", r"names several GPUs; give each its own: --target sm_86 --target sm_89"),
        ("foo", r"target 'foo' is no GPU that smalti knows; allowed are .*as in --target sm_75 --target sm_86"),
    ):
        with pytest.raises(UsageError, match=says):
            PortableToolkit([target], FakeTensorRT("1.7", portable=True))
    with pytest.raises(UsageError, match="runtime 'cuda': allowed are rtx and trt"):
        open_toolkit("cuda", [])
    with pytest.raises(UsageError, match="leave --target out"):
        open_toolkit("trt", ["sm_75"])
    with pytest.raises(EngineError, match=r"TensorRT 8\.6\.1 is too old"):
        DeviceToolkit(FakeTensorRT("8.6.1"), RTX_3060)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(toolkit.importlib, "import_module", missing)
    for runtime, package, extra in (("rtx", "tensorrt_rtx", "engines"), ("trt", "tensorrt", "trt")):
        with pytest.raises(MissingExtra, match=rf'needs {package}; pip install .*\[{extra}\]"'):
            open_toolkit(runtime, [])


def test_tensorrt_without_a_gpu_is_told_by_the_driver(monkeypatch):
    def none():
        raise DriverUnavailable("no NVIDIA driver", "install one")

    monkeypatch.setattr(toolkit, "driver", none)
    with pytest.raises(DriverUnavailable):
        DeviceToolkit(FakeTensorRT())


def component(*shapes) -> Component:
    inputs = tuple(TensorSpec(name=name, dtype="int32", shape=shape) for name, *shape in shapes)
    return Component(inputs=inputs, outputs=(), variants=())


def latent(halo: int | None = 3) -> Latent:
    return Latent(grid=(16, 8), codes=9, factor=4, halo=halo)


def test_profiles_of_a_prior_are_those_of_the_runtime():
    denoiser = component(("tokens", "n", 128), ("labels", "n"), ("rows", "n", "r"))
    (found,) = make_profiles("denoiser", denoiser, latent(), own_resolution(latent()))
    assert found["tokens"] == Profile(least=(1, 128), best=(1, 128), most=(16, 128))
    assert found["labels"] == Profile(least=(1,), best=(1,), most=(16,))
    assert found["rows"] == Profile(least=(1, 1), best=(1, 8), most=(16, 128))
    predictor = component(("tokens", "n", "k"), ("past", 6, "n", 2, "p", 5))
    (found,) = make_profiles("predictor", predictor, latent(), own_resolution(latent()))
    assert found["tokens"] == Profile(least=(1, 1), best=(1, 1), most=(16, 128))
    assert found["past"] == Profile(least=(6, 1, 2, 0, 5), best=(6, 1, 2, 64, 5), most=(6, 16, 2, 128, 5))


def test_profiles_of_a_codec_are_batches_of_its_grid_and_canvases():
    batch, canvas = make_profiles("decoder", component(("tokens", "n", "h", "w")), latent(), own_resolution(latent()))
    assert batch["tokens"] == Profile(least=(1, 16, 8), best=(1, 16, 8), most=(16, 16, 8))
    assert canvas["tokens"] == Profile(least=(1, 1, 1), best=(1, 16, 8), most=(1, 38, 38))
    batch, canvas = make_profiles(
        "encoder", component(("images", "n", "4*h", "4*w", 3)), latent(), own_resolution(latent())
    )
    assert batch["images"].most == (16, 64, 32, 3)
    assert canvas["images"] == Profile(least=(1, 4, 4, 3), best=(1, 64, 32, 3), most=(1, 256, 128, 3))
    seen = Latent(grid=(16, 8), codes=9, factor=4, halo=3, encoder_halo=2)
    _, canvas = make_profiles("encoder", component(("images", "n", "4*h", "4*w", 3)), seen, own_resolution(seen))
    assert canvas["images"].most == (1, 144, 144, 3)
    large = Resolution(pixels=256, factor=16, decoder="decoder_256", halo=5)
    batch, canvas = make_profiles("decoder_256", component(("tokens", "n", "h", "w")), latent(), large)
    assert batch["tokens"].most == (16, 16, 8)
    assert canvas["tokens"].most == (1, 42, 42)
    larger = Resolution(pixels=1024, factor=64, decoder="decoder_1024", halo=5)
    batch, _ = make_profiles("decoder_1024", component(("tokens", "n", "h", "w")), latent(), larger)
    assert batch["tokens"].most == (2, 16, 8)
    (whole,) = make_profiles(
        "decoder", component(("tokens", "n", "h", "w")), latent(halo=None), own_resolution(latent(halo=None))
    )
    assert whole["tokens"] == Profile(least=(1, 1, 1), best=(1, 16, 8), most=(1, 64, 32))


def test_profiles_of_a_preview_are_those_of_tiles_with_its_own_halo():
    preview = component(("tokens", "n", "h", "w"))
    reach = Latent(grid=(16, 8), codes=9, factor=4, halo=None, preview_halo=4)
    batches, canvas = make_profiles("preview", preview, reach, own_resolution(reach))
    assert batches["tokens"].most == (16, 16, 8)
    assert canvas["tokens"].most == (1, 40, 40)


def test_a_free_side_that_nobody_knows_is_refused():
    for side in ("q", "99999*h", "9" * 5000 + "*h"):
        with pytest.raises(EngineError, match=rf"the decoder's input tokens .* '{re.escape(side)}'.*n, h, w"):
            make_profiles("decoder", component(("tokens", "n", side, "w")), latent(), own_resolution(latent()))


def test_a_circle_of_transpositions_has_an_end():
    nodes = [
        helper.make_node("Transpose", ["b"], ["a"]),
        helper.make_node("Transpose", ["a"], ["b"]),
    ]
    images = helper.make_tensor_value_info("a", TensorProto.UINT8, ["n"])
    model = helper.make_model(helper.make_graph(nodes, "g", [], [images]))
    assert bytes_last(model) == model


def test_the_cast_to_bytes_moves_behind_the_transposition_and_changes_nothing():
    nodes = [
        helper.make_node("Round", ["x"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["bytes"], to=TensorProto.UINT8),
        helper.make_node("Transpose", ["bytes"], ["images"], perm=[0, 2, 1]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4])
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 4, 3])
    opset = helper.make_opsetid("", 18)
    before = helper.make_model(helper.make_graph(nodes, "g", [x], [images]), opset_imports=[opset], ir_version=10)
    after = bytes_last(before)
    assert [node.op_type for node in after.graph.node] == ["Round", "Transpose", "Cast"]
    assert [node.op_type for node in before.graph.node] == ["Round", "Cast", "Transpose"]
    onnx.checker.check_model(after, full_check=True)
    values = np.random.default_rng(0).uniform(0, 255, (2, 3, 4)).astype(np.float32)
    first, second = (
        onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"x": values}
        )[0]
        for proto in (before, after)
    )
    assert np.array_equal(first, second)
    assert bytes_last(after) == after


def test_the_embedded_decoder_with_its_smoothing_in_steps_draws_the_same_pixels():
    bundle = open_bundle()
    variant = bundle.variant("decoder", "fp32")
    before = onnx.ModelProto.FromString(bundle.read(variant.graph.file))
    after = for_tensorrt(before)
    assert len(after.graph.node) == len(before.graph.node) + 18  # nine passes along each axis
    options = onnxruntime.SessionOptions()
    (weights,) = variant.weights
    content = bundle.read(weights)
    options.add_external_initializers_from_files_in_memory([weights], [content], [len(content)])
    tokens = np.random.default_rng(0).integers(0, 1024, (1, 4, 5)).astype(np.int32)
    first, second = (
        onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(
            None, {"tokens": tokens}
        )[0]
        for proto in (before, after)
    )
    assert np.abs(first.astype(int) - second).max() <= 1
    assert (first == second).mean() > 0.999


@pytest.mark.parametrize("output", ["-", "a.tar", "a.tar.gz", "B.7Z", "smalti.whl"])
def test_what_is_neither_a_zip_nor_a_folder_is_refused(output, tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorrt_rtx", reason='needs TensorRT-RTX: pip install "smalti[engines]"')
    monkeypatch.chdir(tmp_path)
    assert _run(["engine", "build", "-o", output, "--component", "preview"]) == 2
    assert f"output '{output}': a .zip or a folder is needed" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_a_slash_at_the_end_is_a_folder(monkeypatch):
    bundle = open_bundle()
    assert place("eng.zip", bundle) == (True, Path("eng.zip"))
    assert place("eng.zip/", bundle) == (False, Path("eng.zip"))
    assert place(None, bundle) == (False, engine_cache(bundle))


def test_fp32_leaves_out_the_gpu_that_has_none():
    assert default_targets("fp16") == PORTABLE
    assert default_targets("fp32") == PORTABLE[1:]
