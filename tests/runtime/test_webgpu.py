"""Provider webgpu on SwiftShader: it computes what the CPU computes, on the device, and refuses what it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import smalti
from helpers import swiftshader, webgpu_runs
from helpers.table_denoiser import TableDenoiser, TimedTableDenoiser
from helpers.table_predictor import autoregressive_bundle
from smalti import ProviderUnavailable
from smalti.backends.onnxruntime_options import CPU, open_session
from smalti.backends.onnxruntime_webgpu import HEAVY, record_assignment, require_on_device
from smalti.backends.vulkan import VulkanDevice, vulkan_devices
from smalti.backends.webgpu_plugin import SOFTWARE, WEBGPU
from smalti.bundle.reader import open_bundle

FAMILIES = tuple(webgpu_runs.OPTIONS)
LIGHT = {
    *("Slice", "Concat", "Gather", "Shape", "Cast", "Unsqueeze", "Squeeze", "Expand", "Reshape", "Range"),
    *("Add", "Mul", "Sub", "Round", "Resize"),
}
"""What was seen on the CPU: it moves data, computes sizes, or is the last step to pixels."""


@pytest.fixture(scope="module")
def driver() -> None:
    """What skips a test where the plugin or SwiftShader is missing."""
    if reason := swiftshader.missing():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def bundles(tiny_bundle, tmp_path_factory):
    folder, labels = tmp_path_factory.mktemp("webgpu"), ("a", "b")
    autoregressive_bundle(tiny_bundle, folder / "autoregressive")
    timed = TimedTableDenoiser((3, 4), 6, 2, 30)
    return {
        "absorbing": tiny_bundle,
        "sundae": TableDenoiser((3, 4), 6, 2).bundle(folder / "sundae", classes=labels),
        "multinomial": timed.bundle(folder / "multinomial", classes=labels, steps=5),
        "autoregressive": folder / "autoregressive",
    }


@pytest.fixture(scope="module")
def ran(driver, bundles, tmp_path_factory) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What one process found on SwiftShader: see ``helpers/webgpu_runs.py``. A crash would end it alone."""
    out = tmp_path_factory.mktemp("ran") / "arrays.npz"
    paths = json.dumps({family: str(path) for family, path in bundles.items()})
    command = [sys.executable, webgpu_runs.__file__, paths, str(out)]
    here = str(Path(__file__).parents[1])
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=swiftshader.environment(PYTHONPATH=python_path(here))
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), dict(np.load(out))


def python_path(*folders: str) -> str:
    return os.pathsep.join(filter(None, [*folders, os.environ.get("PYTHONPATH")]))


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_the_cpu(family, ran, bundles):
    gen = smalti.load(bundles[family], provider="cpu", precision="fp32", threads=1)
    expected = gen.generate(**webgpu_runs.OPTIONS[family])
    assert np.array_equal(ran[1][f"{family}.tokens"], expected.tokens)
    pixels = np.stack([np.asarray(image) for image in expected.images]).astype(int)
    assert np.abs(ran[1][f"{family}.images"] - pixels).max() <= 1


def test_golden_inputs_are_within_the_certificate(ran):
    assert ran[0]["golden"] == {role: [] for role in ("encoder", "decoder", "preview", "denoiser")}


def test_all_that_takes_time_runs_on_the_device(ran):
    nodes = ran[0]["nodes"]
    assert set(nodes) >= {"absorbing denoiser", "sundae denoiser", "multinomial denoiser", "autoregressive predictor"}
    for name, where in nodes.items():
        assert not HEAVY & set(where[CPU]), name
        assert set(where[CPU]) <= LIGHT, name
    assert {"MatMul", "Softmax"} < set(nodes["absorbing denoiser"][WEBGPU])
    assert "Conv" in nodes["absorbing decoder"][WEBGPU]


@pytest.mark.parametrize(("role", "kinds"), [("denoiser", "MatMul"), ("decoder", "Conv"), ("encoder", "Conv")])
def test_a_session_on_the_cpu_alone_is_refused(role, kinds, tiny_bundle):
    session = open_session(open_bundle(tiny_bundle), role, "fp32", 1, [CPU], prepare=record_assignment)
    with pytest.raises(ProviderUnavailable, match=rf"tiny.*cannot run .*\d+ {kinds} on {CPU}.*or provider cpu"):
        require_on_device(session, "tiny")


def session_of(nodes: list[tuple[str, str]], *providers: str) -> Any:
    """A session of which only the providers and the nodes (provider, operator) are there."""
    parts = [
        SimpleNamespace(ep_name=provider, get_nodes=lambda kind=kind: [SimpleNamespace(op_type=kind)])
        for provider, kind in nodes
    ]
    return SimpleNamespace(get_providers=lambda: list(providers), get_provider_graph_assignment_info=lambda: parts)


def test_one_heavy_node_elsewhere_is_enough_to_refuse():
    light = [(WEBGPU, "MatMul"), (CPU, "Slice"), (CPU, "Concat"), (CPU, "Gather"), (CPU, "Cast")]
    require_on_device(session_of(light, WEBGPU, CPU), "x")
    for kind in ("MatMul", "Gemm", "Conv", "ConvTranspose", "Softmax", "LayerNormalization", "SkipLayerNormalization"):
        with pytest.raises(ProviderUnavailable, match=rf"^x: WebGPU cannot run 1 {kind} on CPU"):
            require_on_device(session_of([*light, (CPU, kind)], WEBGPU, CPU), "x")
    with pytest.raises(ProviderUnavailable, match=r"^x: WebGPU cannot run any, and"):
        require_on_device(session_of([(CPU, "Slice")], CPU), "x")


def test_generators_in_threads_do_not_meet(ran):
    first, *others = ran[0]["threads"]
    assert others == [first, first]
    assert first == ran[1]["sundae.tokens"].ravel().tolist()


def test_the_report_says_where_it_runs(ran):
    report = ran[0]["report"]
    assert (report["requested"], report["actual"], report["threads"]) == ("webgpu", "webgpu", 1)
    assert "SwiftShader" in report["device"]
    assert report["device"] == ran[0]["device"]
    assert "(CPU, WebGPU)" in report["device"]
    assert "onnxruntime-ep-webgpu" in report["runtime"]
    assert set(report["precision"].values()) == {"fp32"}
    assert ran[0]["opened"] < 5


def test_precisions_that_the_device_does_not_have_are_refused(ran):
    refused = ran[0]["refused"]
    assert refused["int8"].startswith("UsageError: precision int8: provider webgpu runs fp32 and fp16")
    for name, precision in (("fp16", "fp16"), ("an int8 session", "int8")):
        assert refused[name].startswith(f"ProviderUnavailable: provider webgpu cannot run {precision} on SwiftShader")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({SOFTWARE: "0"}, "ONNX Runtime finds no GPU"),
        ({"VK_ICD_FILENAMES": os.devnull}, "no Vulkan driver is installed"),
    ],
)
def test_without_the_software_device_the_real_plugin_is_refused(driver, change, message):
    if SOFTWARE in change and any(device.kind != "CPU" for device in there()):
        pytest.skip("needs a machine without a GPU")
    code = "from smalti.backends.onnxruntime_webgpu import OnnxRuntimeWebGpu; OnnxRuntimeWebGpu()"
    environment = swiftshader.environment(**change)
    environment["VK_DRIVER_FILES"] = environment["VK_ICD_FILENAMES"]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert f"ProviderUnavailable: provider webgpu cannot run here: {message}" in done.stderr


def there() -> list[VulkanDevice]:
    try:
        return vulkan_devices()
    except OSError:
        return []
