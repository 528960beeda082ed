"""What the figures hold for: the device, its driver, and every version that matters."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import platform
import shutil
import subprocess
from typing import Any

from gpu.machine import Machine
from gpu.report import Report

PACKAGES = ("numpy", "torch", "triton", "onnxruntime", "onnxruntime-gpu", "onnx", "msgspec", "pillow", "pytest")
QUERY = "driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit"


def look(report: Report, machine: Machine) -> None:
    """Note device and versions; the report's `found` has them."""
    kernels = machine.kernels
    device = kernels.device
    report.found["device"] = {
        "name": device.name,
        "compute capability": f"{device.capability / 10:.1f}",
        "multiprocessors": device.multiprocessors,
        "CUDA of the driver": ".".join(map(str, kernels.driver.version)),
        "kernel file": kernels.target.name,
        **(from_nvidia_smi() if machine.kind == "gpu" else {}),
    }
    report.found["versions"] = {"python": platform.python_version(), **installed()}
    report.found["platform"] = f"{platform.system()} {platform.machine()}"
    for name, value in report.found["device"].items():
        report.add(name, value, "", 1)
    for package, look_at in (("torch", _torch), ("onnxruntime", _providers)):
        try:
            report.add(*look_at(), 1)
        except Exception as error:  # a broken installation raises anything
            report.skip(package, f"it cannot be imported: {error}")
    for name, version in report.found["versions"].items():
        report.add(name, version, "", 1)


def installed() -> dict[str, str]:
    """Versions of packages, NVIDIA's libraries among them."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    libraries: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name: Any = distribution.metadata["Name"]
        plain = str(name).lower().replace("_", "-")
        if plain.startswith(("nvidia-cu", "nvidia-nv", "cuda-", "tensorrt")):
            libraries[plain] = distribution.version
    return found | dict(sorted(libraries.items()))


def from_nvidia_smi() -> dict[str, str]:
    """Driver, memory, clocks and power limit, if nvidia-smi is there."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    command = [tool, f"--query-gpu={QUERY}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return dict(zip(QUERY.split(","), values)) if done.returncode == 0 else {}


def _torch() -> tuple[str, str, str]:
    torch = importlib.import_module("torch")
    there = "a GPU" if torch.cuda.is_available() else "no GPU"
    return "torch sees", f"{there}; built for CUDA {torch.version.cuda}", ""


def _providers() -> tuple[str, str, str]:
    providers = importlib.import_module("onnxruntime").get_available_providers()
    return "ONNX Runtime has", ", ".join(providers), ""
