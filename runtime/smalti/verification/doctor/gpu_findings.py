"""What follows from the facts about GPUs: drivers, kernels, libraries, plugins and engines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from smalti.backends.onnxruntime_places import CUDA
from smalti.backends.webgpu_plugin import OLDEST as OLDEST_FOR_PLUGIN
from smalti.backends.webgpu_plugin import PLUGIN
from smalti.verification.doctor.facts import Gpu, Machine
from smalti.verification.doctor.finding import Finding, missing, ok, warn
from smalti.verification.doctor.install import (
    DRIVER_FOR,
    GPU_WHEEL,
    choose,
    choose_extra,
    other_gpu,
    runs,
    target,
    uninstall,
    usable_gpus,
    wheels,
)
from smalti.verification.doctor.libraries import LIBRARIES, MAJORS
from smalti_kernels.impl.cuda.driver import OLDEST_CUDA

LAST_CUDNN: Final = (9, 10)
"""The last cuDNN with code for GPUs before compute capability 7.5."""
_UPDATE: Final = f"install NVIDIA driver {DRIVER_FOR[13]} or newer ({DRIVER_FOR[12]} is the oldest that smalti can use)"


def driver(machine: Machine) -> Iterator[Finding]:
    """NVIDIA's driver."""
    found = machine.driver
    cuda = f"CUDA {found.cuda[0]}.{found.cuda[1]}" if found.cuda else "an unknown CUDA"
    named = f"{found.version or 'version unknown'}, for {cuda}"
    if not found.library:
        card = any(one.vendor == "NVIDIA" for one in machine.adapters)
        if found.problem:
            yield missing("NVIDIA driver", f"its library is broken: {found.problem}", _UPDATE)
        elif card:
            yield missing("NVIDIA driver", "there is an NVIDIA card, and no driver", _UPDATE)
        else:
            yield ok("NVIDIA driver", "none, and no NVIDIA card was found")
    elif found.cuda and found.cuda < OLDEST_CUDA:
        yield missing("NVIDIA driver", f"{named}, is too old: smalti's kernels need CUDA {OLDEST_CUDA[0]}.0", _UPDATE)
    elif found.problem:
        if machine.visible is not None and "NO_DEVICE" in found.problem:
            remedy = f"unset CUDA_VISIBLE_DEVICES, which is {machine.visible!r} and hides GPUs"
        else:
            remedy = f"restart the machine after an update of the driver, or {_UPDATE}"
        yield missing("NVIDIA driver", f"{named}, cannot be used: {found.problem}", remedy)
    elif not found.gpus:
        yield missing("NVIDIA driver", f"{named}, shows no GPU", "make a GPU visible (CUDA_VISIBLE_DEVICES hides them)")
    else:
        yield ok("NVIDIA driver", named)


def gpus(machine: Machine) -> Iterator[Finding]:
    """Each GPU with the kernels that it runs."""
    for number, gpu in enumerate(machine.driver.gpus):
        memory = f", {gpu.memory / 2**30:.1f} GiB" if gpu.memory else ""
        text = f"{number}: {gpu.name}, compute capability {_dotted(gpu)}{memory}"
        file = target(machine, gpu)
        if file is None:
            too_old = (machine.driver.cuda or (0, 0)) < OLDEST_CUDA
            why = "the driver is too old for smalti's kernels" if too_old else "smalti has no kernels for it"
            yield missing("GPU", f"{text}; {why}", _UPDATE if too_old else "use provider cpu, or another GPU")
        elif machine.kernels and file.name not in machine.kernels:
            again = f"{choose(machine).line} --force-reinstall --no-deps"
            yield missing("GPU", f"{text}; its kernels {file.name} are missing from this installation", again)
        elif not usable_gpus(machine):
            yield missing("GPU", f"{text}; ONNX Runtime has no CUDA wheels for this system", "use provider cpu")
        else:
            compiled = ", which the driver compiles when it is first used" if file.ptx else ""
            yield ok("GPU", f"{text}; runs the kernels {file.name}{compiled}")


def coverage(machine: Machine) -> Iterator[Finding]:
    """Whether the installed onnxruntime-gpu has code for each GPU, and a driver for its CUDA."""
    cuda, supported = cuda_major(machine), machine.driver.cuda
    if CUDA not in machine.onnxruntime.providers or cuda is None or not machine.driver.gpus or supported is None:
        return
    name, line = f"onnxruntime-gpu {machine.onnxruntime.version}", choose(machine).line
    if cuda > supported[0]:
        yield missing(
            "ONNX Runtime's code",
            f"{name} is for CUDA {cuda}, and the driver supports CUDA {supported[0]}.{supported[1]}",
            f"{line}\nor install NVIDIA driver {DRIVER_FOR[13]} or newer",
        )
        return
    if cuda not in MAJORS:
        yield missing("ONNX Runtime's code", f"{name} is for CUDA {cuda}, which smalti does not support", line)
        return
    for gpu in usable_gpus(machine):
        if runs(cuda, gpu.capability):
            yield ok("ONNX Runtime's code", f"{name} runs on {gpu.name}")
        else:
            text = f"{name} is for CUDA {cuda}, which has no code for {gpu.name} (compute capability {_dotted(gpu)})"
            yield missing("ONNX Runtime's code", text, line)


def cuda_libraries(machine: Machine) -> Iterator[Finding]:
    """The libraries that the installed onnxruntime-gpu links or loads."""
    cuda, windows = cuda_major(machine), machine.system.name == "Windows"
    if cuda not in MAJORS or CUDA not in machine.onnxruntime.providers:
        installed = bool(machine.onnxruntime.version or machine.onnxruntime.providers)
        why = "the installed ONNX Runtime needs none" if installed else "without ONNX Runtime nothing here needs them"
        yield ok("CUDA libraries", why)
        return
    there: list[str] = []
    absent: list[str] = []
    for name, library in LIBRARIES.items():
        file, package = library.file(cuda, windows), library.package_for(cuda)
        fitting = [one for one in machine.cuda_libraries if one.file == file and one.package in ("", package)]
        if fitting:
            one = next((one for one in fitting if one.package), fitting[0])
            there.append(f"{name} {one.version or '(version unknown)'}" + ("" if one.package else " of the system"))
        else:
            absent.append(f"{name} ({package} brings {file})")
    text = ", ".join(there) or "none"
    if absent and usable_gpus(machine):
        yield missing("CUDA libraries", f"for CUDA {cuda} there is no {', no '.join(absent)}", choose(machine).line)
    else:
        yield ok("CUDA libraries", f"for CUDA {cuda}: {text}" + ("; without a GPU none is needed" if absent else ""))


def cudnn(machine: Machine) -> Iterator[Finding]:
    """A cuDNN that is too new for old GPUs, and two of them."""
    installed = dict(machine.packages)
    both = [name for name in ("nvidia-cudnn-cu12", "nvidia-cudnn-cu13") if name in installed]
    choice = choose(machine)
    if len(both) > 1:
        mend = f"{uninstall(machine, both)}\n{choice.line}"
        yield warn("cuDNN", f"{' and '.join(both)} overwrite each other", mend)
    old = [gpu for gpu in usable_gpus(machine) if gpu.capability < 75]
    cuda = cuda_major(machine)
    if not old or cuda is None:
        return
    fitting = ("", f"nvidia-cudnn-cu{cuda}")
    versions = [one.version for one in machine.cuda_libraries if one.name == "cudnn" and one.package in fitting]
    if new := [version for version in versions if _numbers(version)[:2] > LAST_CUDNN]:
        text = f"{new[0]} has no code for {old[0].name}: the last that has is 9.10.2.21"
        yield missing("cuDNN", text, choice.line)


def vulkan(machine: Machine) -> Iterator[Finding]:
    """Vulkan's loader, through which WebGPU reaches GPUs on Linux."""
    found = machine.vulkan
    if machine.system.name != "Linux":
        interface = "D3D12" if machine.system.name == "Windows" else "Metal"
        yield ok("Vulkan", f"not needed: WebGPU uses {interface} here")
    elif not found.library:
        text = f"its library is broken: {found.problem}" if found.problem else "there is no loader (libvulkan.so.1)"
        needed = choose_extra(machine)[0] == "webgpu" or PLUGIN in dict(machine.packages) or bool(other_gpu(machine))
        remedy = "install it (Debian and Ubuntu: apt-get install libvulkan1; Fedora: dnf install vulkan-loader)"
        if needed or found.problem:
            yield missing("Vulkan", f"{text}, and WebGPU needs it", remedy)
        else:
            yield ok("Vulkan", f"{text}; only WebGPU would need it")
    elif found.problem:
        yield warn("Vulkan", f"{found.library} cannot be used: {found.problem}", "install the GPU's newest driver")
    else:
        devices = ", ".join(f"{one.name} ({one.kind})" for one in found.devices)
        yield ok("Vulkan", f"{found.library}: {devices or 'no device'}")


def webgpu(machine: Machine) -> Iterator[Finding]:
    """ONNX Runtime's WebGPU plugin."""
    version = dict(machine.packages).get(PLUGIN)
    chosen, line = choose_extra(machine)[0], choose(machine).line
    if version is None:
        if chosen == "webgpu":
            yield missing("WebGPU", f"{PLUGIN} is not installed", line)
        else:
            yield ok("WebGPU", "no plugin is installed, and none is needed")
    elif GPU_WHEEL in wheels(machine):
        text = f"{PLUGIN} {version} is for the package onnxruntime, and onnxruntime-gpu is installed"
        yield warn("WebGPU", text, f"keep provider cuda, or make another environment for {PLUGIN}")
    elif machine.onnxruntime.version and _numbers(machine.onnxruntime.version)[:3] < OLDEST_FOR_PLUGIN:
        needed = ".".join(map(str, OLDEST_FOR_PLUGIN))
        text = f"{PLUGIN} {version} needs ONNX Runtime {needed}; this is {machine.onnxruntime.version}"
        yield missing("WebGPU", text, line)
    elif not reaches_webgpu(machine):
        yield warn("WebGPU", f"{PLUGIN} {version} finds no GPU", "install the GPU's driver, with Vulkan on Linux")
    else:
        yield ok("WebGPU", f"{PLUGIN} {version}")


def reaches_webgpu(machine: Machine) -> bool:
    """Whether the plugin is installed, and a GPU is there that it should reach."""
    if machine.system.name == "Linux":
        there = any(one.kind not in ("CPU", "other") for one in machine.vulkan.devices)
    else:
        there = bool(machine.adapters or machine.driver.gpus)
    return there and PLUGIN in dict(machine.packages) and GPU_WHEEL not in wheels(machine)


def complete_gpus(machine: Machine) -> list[Gpu]:
    """Return the GPUs that have a driver, kernels and code of the installed ONNX Runtime."""
    cuda = cuda_major(machine)
    if cuda not in MAJORS or cuda > (machine.driver.cuda or (0, 0))[0]:
        return []
    kernels = machine.kernels
    found = [gpu for gpu in usable_gpus(machine) if runs(cuda, gpu.capability)]
    return [gpu for gpu in found if (file := target(machine, gpu)) and (not kernels or file.name in kernels)]


def cuda_major(machine: Machine) -> int | None:
    """Return the version of CUDA that the installed onnxruntime-gpu is for; None without it."""
    if CUDA not in machine.onnxruntime.providers:
        return None
    if told := re.match(r"\d+", machine.onnxruntime.cuda):
        return int(told[0])
    version = _numbers(machine.onnxruntime.version)[:2]
    return 13 if version >= (1, 27) else 12 if version >= (1, 19) else 11


def _dotted(gpu: Gpu) -> str:
    return f"{gpu.capability // 10}.{gpu.capability % 10}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))
