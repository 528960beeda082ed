"""What provider webgpu refuses, and says, on machines that lack a part of it; no plugin is needed here."""

from __future__ import annotations

import os
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import smalti
from smalti import ProviderUnavailable, UsageError
from smalti.backends import onnxruntime_webgpu, webgpu_plugin
from smalti.backends.onnxruntime_cpu import OnnxRuntimeCpu
from smalti.backends.onnxruntime_webgpu import OnnxRuntimeWebGpu
from smalti.backends.vulkan import VulkanDevice, vulkan_devices
from smalti.backends.webgpu_plugin import SOFTWARE, WEBGPU, Adapter
from smalti.bundle.reader import open_bundle


class Machine:
    """A machine on which the plugin works; tests take parts of it away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.packages = {"onnxruntime": "1.32.0", "onnxruntime-ep-webgpu": "0.4.0"}
        self.devices = [SimpleNamespace(ep_name=WEBGPU, device=SimpleNamespace(vendor="Maker", metadata={}))]
        self.vulkan: list[VulkanDevice] | None = [VulkanDevice("Card", "discrete GPU")]
        self.registered: list[str] = []
        self.fails: dict[str, Exception | bool] = {}
        self.system = "Linux"
        monkeypatch.setattr(webgpu_plugin, "_installed", self.packages.__contains__)
        monkeypatch.setattr(webgpu_plugin, "onnxruntime", self.onnxruntime)
        monkeypatch.setattr(webgpu_plugin, "vulkan_devices", self.vulkan_devices)
        monkeypatch.setattr(webgpu_plugin, "_multiplies", self.multiplies)
        monkeypatch.setattr(webgpu_plugin.platform, "system", lambda: self.system)
        plugin = SimpleNamespace(get_library_path=lambda: "library")
        monkeypatch.setitem(sys.modules, "onnxruntime_ep_webgpu", plugin)
        monkeypatch.delenv(SOFTWARE, raising=False)
        webgpu_plugin.open_adapter.cache_clear()

    def onnxruntime(self) -> Any:
        return SimpleNamespace(
            __version__=self.packages["onnxruntime"],
            get_ep_devices=lambda: self.devices if self.registered else [],
            register_execution_provider_library=self.register,
        )

    def register(self, name: str, path: str) -> None:
        if error := self.fails.get("register"):
            raise error
        if self.registered:
            raise RuntimeError(f"EP library is already registered under {name}")
        self.registered.append(path)

    def vulkan_devices(self) -> list[VulkanDevice]:
        if self.vulkan is None:
            raise OSError
        return self.vulkan

    def multiplies(self, handle: Any, dtype: Any) -> bool:
        answer = self.fails.get(np.dtype(dtype).name, True)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def machine(monkeypatch):
    yield Machine(monkeypatch)
    webgpu_plugin.open_adapter.cache_clear()


LONG_ERROR = RuntimeError("a.cc:136 f() status == Success was false. Failed to get a WebGPU adapter: No adapters\n\n")
LACKS = {
    "onnxruntime-gpu too": (
        lambda m: m.packages.update({"onnxruntime-gpu": "1.32.0"}),
        r"onnxruntime-gpu is installed beside onnxruntime.*pip install .*without onnxruntime-gpu",
    ),
    "onnxruntime-gpu alone": (
        lambda m: (m.packages.update({"onnxruntime-gpu": "1.32.0"}), m.packages.pop("onnxruntime")),
        "onnxruntime-gpu is installed in place of onnxruntime",
    ),
    "an old onnxruntime": (
        lambda m: m.packages.update(onnxruntime="1.24.3"),
        r"the plugin needs onnxruntime 1\.24\.4, and this is .*; pip install .*\[webgpu\]\"",
    ),
    "a plugin that cannot be loaded": (
        lambda m: m.fails.update(register=RuntimeError("too old")),
        r"cannot load onnxruntime-ep-webgpu.* \(too old\); pip install --force-reinstall onnxruntime-ep-webgpu",
    ),
    "no device": (lambda m: m.devices.clear(), r"ONNX Runtime finds no GPU; install the GPU's driver"),
    "no loader": (lambda m: setattr(m, "vulkan", None), r"loader libvulkan\.so\.1 is missing; install it"),
    "no driver": (lambda m: m.vulkan.clear(), "no Vulkan driver is installed; install"),
    "a driver on the CPU alone": (
        lambda m: setattr(m, "vulkan", [VulkanDevice("llvmpipe", "CPU")]),
        rf"Vulkan has no GPU, only llvmpipe, which computes on the CPU; install .*{SOFTWARE}=1",
    ),
    "no adapter": (
        lambda m: m.fails.update(float32=LONG_ERROR),
        r"cannot open a device \(Failed to get a WebGPU adapter: No adapters\); install the GPU's newest driver",
    ),
    "a device that computes wrongly": (
        lambda m: m.fails.update(float32=False),
        r"Card \(discrete GPU, WebGPU\) multiplies two small matrices wrongly",
    ),
}


@pytest.mark.parametrize("lack", LACKS)
def test_what_is_missing_is_said_and_never_the_cpu_taken(lack, machine, tiny_bundle):
    take_away, message = LACKS[lack]
    take_away(machine)
    for _ in range(2):  # the second time the plugin is registered, as it stays
        started = time.perf_counter()
        with pytest.raises(
            ProviderUnavailable, match=rf"^provider webgpu cannot run here: .*{message}.*use provider cpu"
        ):
            smalti.load(tiny_bundle, provider="webgpu")
        assert time.perf_counter() - started < 2


def test_a_missing_plugin_is_said(machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_webgpu", None)
    with pytest.raises(ProviderUnavailable, match=r"plugin onnxruntime-ep-webgpu cannot be imported.*\[webgpu\]"):
        OnnxRuntimeWebGpu()


def test_a_device_is_opened_once_and_described(machine):
    machine.vulkan = [VulkanDevice("llvmpipe", "CPU"), VulkanDevice("Small", "integrated GPU")]
    backend, again = OnnxRuntimeWebGpu(), OnnxRuntimeWebGpu(3)
    assert backend.adapter is again.adapter
    assert machine.registered == ["library"]
    assert backend.device == "Small (integrated GPU, WebGPU)"
    assert (backend.threads, again.threads, backend.certified) == (1, 3, "fp16")


def test_without_fp16_all_is_fp32(machine):
    machine.fails["float16"] = RuntimeError("requires f16 but the device does not support it")
    assert OnnxRuntimeWebGpu().certified == "fp32"


@pytest.mark.parametrize("system", ["Windows", "Darwin"])
def test_elsewhere_no_vulkan_is_asked(system, machine):
    machine.system, machine.vulkan = system, None
    assert OnnxRuntimeWebGpu().device == "Maker (WebGPU)"


def test_a_driver_on_the_cpu_is_taken_only_where_it_was_asked_for(machine, monkeypatch):
    machine.vulkan = [VulkanDevice("llvmpipe", "CPU")]
    monkeypatch.setenv(SOFTWARE, "1")
    assert OnnxRuntimeWebGpu().device == "llvmpipe (CPU, WebGPU)"


def test_a_decoder_that_overflows_in_fp16_runs_in_fp32(monkeypatch, tiny_bundle):
    monkeypatch.setattr(onnxruntime_webgpu, "open_adapter", lambda: Adapter(None, "a card", True))
    backend, cpu = OnnxRuntimeWebGpu(), OnnxRuntimeCpu(1)
    black = False

    def opened(bundle, role, precision):
        session = cpu.open(bundle, role, precision)
        return (lambda inputs: [np.zeros_like(one) for one in session(inputs)]) if black else session

    monkeypatch.setattr(backend, "open", opened)
    bundle = open_bundle(tiny_bundle)
    chosen, why = backend.resolve_precision(bundle, "auto")
    assert chosen["decoder"] == chosen["denoiser"] == "fp16"
    black = True
    chosen, why = backend.resolve_precision(bundle, "fp16")
    assert (chosen["denoiser"], chosen["decoder"]) == ("fp16", "fp32")
    assert "decoder in fp32: golden input 0 decodes at" in why
    with pytest.raises(UsageError, match="precision int8: provider webgpu runs fp32 and fp16"):
        backend.resolve_precision(bundle, "int8")


def test_a_missing_loader_is_an_error_of_the_system():
    with pytest.raises(OSError, match="libnothing"):
        vulkan_devices("libnothing.so.1")


def test_the_command_ends_with_4_in_two_seconds(command, tiny_bundle, monkeypatch, out):
    for name in ("VK_ICD_FILENAMES", "VK_DRIVER_FILES"):
        monkeypatch.setenv(name, os.devnull)  # whatever GPU this machine has
    seconds: list[float] = []
    for _ in range(3):
        started = time.perf_counter()
        done = command("generate", "--bundle", tiny_bundle, "--provider", "webgpu", "-o", out / "a.png")
        seconds.append(time.perf_counter() - started)
        assert done.returncode == 4, done.stderr
        assert "provider webgpu cannot run here: " in done.stderr
        assert "or use provider cpu" in " ".join(done.stderr.split())
    assert min(seconds) < 2
    assert not list(out.iterdir())
