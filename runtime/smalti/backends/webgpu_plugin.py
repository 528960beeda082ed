"""ONNX Runtime's WebGPU plugin: it is registered once in a process, and its device is tried before it is used."""

from __future__ import annotations

import importlib
import os
import platform
import re
import threading
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any, Final

import numpy as np

from smalti.backends.onnxruntime_options import LIBRARY, onnxruntime, runtime_version
from smalti.backends.vulkan import LOADER, VulkanDevice, vulkan_devices
from smalti.errors import ProviderUnavailable
from smalti.system.platform import install_hint

PLUGIN: Final = "onnxruntime-ep-webgpu"
"""The package that has the plugin."""
WEBGPU: Final = "WebGpuExecutionProvider"
"""ONNX Runtime's name of the provider."""
OLDEST: Final = (1, 24, 4)
"""The first version of ONNX Runtime that the plugin loads into."""
SOFTWARE: Final = "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER"
"""The plugin's environment variable: 1 lets it use a Vulkan driver that computes on the CPU, which is for tests."""
EXTRA: Final = "webgpu"
LOCK: Final = threading.RLock()
"""Held while the plugin works: all its sessions share one device and one queue."""

_REGISTERED_AS = "smalti.webgpu"
_OTHERWISE = "or use provider cpu"
_BEST_FIRST = ("discrete GPU", "integrated GPU", "virtual GPU", "other", "CPU")


@dataclass(frozen=True)
class Adapter:
    """The device that the plugin computes on."""

    handle: Any
    """ONNX Runtime's object for it, which session options take."""
    words: str
    fp16: bool
    """Whether it computes in half precision."""


@cache
def open_adapter() -> Adapter:
    """Register the plugin and try its device with a small product of matrices; the first success is kept.

    The plugin picks the fastest device itself and has no way to be given another.

    Raises ProviderUnavailable, with the reason and what to do, when any part is missing.
    """
    with LOCK:
        handle = _registered()
        words = _words(handle)
        try:
            right = _multiplies(handle, np.float32)
        except Exception as error:  # ONNX Runtime's exceptions have no public base class
            raise ProviderUnavailable(
                f"provider webgpu cannot run here: the plugin cannot open a device ({_last(error)}); install the GPU's "
                f"newest driver{_vulkan_too()}, {_OTHERWISE}"
            ) from error
        if not right:
            raise ProviderUnavailable(
                f"provider webgpu cannot run here: {words} multiplies two small matrices wrongly; install the GPU's "
                f"newest driver, {_OTHERWISE}"
            )
        try:
            half = _multiplies(handle, np.float16)
        except Exception:  # the session opens on every device, and the run fails: "the device does not support it"
            half = False
        return Adapter(handle, words, half)


def plugin_version() -> str:
    """Return the name and version of the plugin."""
    return f"{PLUGIN} {metadata.version(PLUGIN)}" if _installed(PLUGIN) else PLUGIN


def _registered() -> Any:
    """Return the plugin's device, registering the plugin if nobody did. Raises ProviderUnavailable."""
    if _installed(f"{LIBRARY}-gpu"):
        beside = "beside" if _installed(LIBRARY) else "in place of"
        raise _refusal(
            f"onnxruntime-gpu is installed {beside} onnxruntime, and the plugin is for onnxruntime; the two overwrite "
            "each other",
            f"{install_hint(EXTRA)} in an environment without onnxruntime-gpu",
        )
    ort = onnxruntime()
    if _numbers(ort.__version__) < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise _refusal(f"the plugin needs onnxruntime {needed}, and this is {runtime_version()}", install_hint(EXTRA))
    try:
        plugin: Any = importlib.import_module(PLUGIN.replace("-", "_"))
    except ImportError as error:
        raise _refusal(f"the plugin {PLUGIN} cannot be imported ({error})", install_hint(EXTRA)) from None
    if not (found := _devices(ort)):
        try:
            ort.register_execution_provider_library(_REGISTERED_AS, plugin.get_library_path())
        except Exception as error:
            # It is registered for good, so that a second try after a device was missing ends here.
            if "already registered" not in str(error):
                raise _refusal(
                    f"{runtime_version()} cannot load {plugin_version()} ({_last(error)})",
                    f"pip install --force-reinstall {PLUGIN}",
                ) from error
        found = _devices(ort)
    if not found:
        raise _refusal("ONNX Runtime finds no GPU", f"install the GPU's driver{_vulkan_too()}")
    return found[0]


def _devices(ort: Any) -> list[Any]:
    return [device for device in ort.get_ep_devices() if device.ep_name == WEBGPU]


def _words(handle: Any) -> str:
    """Return the device in words. Raises ProviderUnavailable where Vulkan has none, or none but the CPU."""
    if platform.system() != "Linux":
        hardware = handle.device
        return f"{dict(hardware.metadata).get('Description') or hardware.vendor or 'GPU'} (WebGPU)"
    try:
        found = vulkan_devices()
    except OSError:
        raise _refusal(
            f"Vulkan's loader {LOADER} is missing", "install it (Debian and Ubuntu: apt-get install libvulkan1)"
        ) from None
    if not found:
        raise _refusal("no Vulkan driver is installed", "install the Vulkan driver of the GPU")
    return _chosen(found, os.environ.get(SOFTWARE) == "1")


def _chosen(found: list[VulkanDevice], software: bool) -> str:
    """Return, in words, which of Vulkan's devices the plugin takes: it prefers discrete GPUs, and the CPU comes last.

    Raises ProviderUnavailable when only drivers that compute on the CPU are there, and those were not asked for.
    """
    kind = min((device.kind for device in found), key=_BEST_FIRST.index)
    names = " or ".join(dict.fromkeys(device.name for device in found if device.kind == kind))
    if kind == "CPU" and not software:
        raise _refusal(
            f"Vulkan has no GPU, only {names}, which computes on the CPU",
            f"install the Vulkan driver of the GPU (for tests, {SOFTWARE}=1 allows it)",
        )
    return f"{names} ({kind}, WebGPU)"


def _multiplies(handle: Any, dtype: type[np.floating[Any]]) -> bool:
    """Whether the device multiplies two small matrices of a type rightly. Raises what ONNX Runtime raises."""
    ort = onnxruntime()
    options, run = ort.SessionOptions(), ort.RunOptions()
    options.log_severity_level = run.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.add_provider_for_devices([handle], {})
    session = ort.InferenceSession(_product(1 if dtype is np.float32 else 10), options, enable_fallback=0)
    matrix = np.arange(16, dtype=dtype).reshape(4, 4)
    (found,) = session.run(None, {"a": matrix, "b": matrix}, run)
    return session.get_providers()[0] == WEBGPU and np.array_equal(found, matrix @ matrix)


def _product(element: int) -> bytes:
    """Return an ONNX model of one MatMul of 4 x 4 matrices; ``element`` is ONNX's number of their type.

    It is written by hand, since the package onnx is not needed to run bundles.
    """

    def field(number: int, value: int | bytes) -> bytes:
        """One field of a protobuf message; all numbers and lengths are below 128, and so one byte each."""
        if isinstance(value, int):
            return bytes([number << 3, value])
        return bytes([number << 3 | 2, len(value)]) + value

    def tensor(name: bytes) -> bytes:
        shape = field(1, field(1, 4)) * 2
        return field(1, name) + field(2, field(1, field(1, element) + field(2, shape)))

    node = field(1, b"a") + field(1, b"b") + field(2, b"c") + field(4, b"MatMul")
    graph = field(1, node) + field(2, b"g") + field(11, tensor(b"a")) + field(11, tensor(b"b"))
    return field(1, 8) + field(8, field(2, 17)) + field(7, graph + field(12, tensor(b"c")))


def _refusal(reason: str, remedy: str) -> ProviderUnavailable:
    return ProviderUnavailable(f"provider webgpu cannot run here: {reason}; {remedy}, {_OTHERWISE}")


def _vulkan_too() -> str:
    return f" and Vulkan's loader ({LOADER})" if platform.system() == "Linux" else ""


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


def _last(error: Exception) -> str:
    """Return the last part of an error of ONNX Runtime, which begins with files and functions."""
    lines = " ".join(str(error).split())
    return lines.rpartition(" was false. ")[2][-200:]
