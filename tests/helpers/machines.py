"""Machines by their facts alone, for tests of ``smalti doctor``."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

from smalti.verification.doctor.facts import (
    Adapter,
    CudaLibrary,
    Driver,
    Gpu,
    Installed,
    Machine,
    OnnxRuntime,
    Processor,
    Python,
    System,
)
from smalti.verification.doctor.libraries import LIBRARIES
from smalti_kernels.impl.cuda.targets import TARGETS

_PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = tuple(_PROJECT["optional-dependencies"])

GTX_1080 = Gpu("NVIDIA GeForce GTX 1080 Ti", 61, 11 * 2**30)
RTX_3060 = Gpu("NVIDIA GeForce RTX 3060", 86, 12 * 2**30)
RTX_5090 = Gpu("NVIDIA GeForce RTX 5090", 120, 32 * 2**30)
V100 = Gpu("Tesla V100", 70, 16 * 2**30)
NVIDIA_CARD = Adapter("NVIDIA", "PCI device 0x2504")
AMD_CARD = Adapter("AMD", "PCI device 0x73bf")
CPU_PROVIDERS = ("AzureExecutionProvider", "CPUExecutionProvider")
GPU_PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")


def machine(system: str = "Linux") -> Machine:
    """A machine without a GPU, on which all is well."""
    windows = system == "Windows"
    here = System(system, "1", "AMD64" if windows else "x86_64", *(("", "") if windows else ("glibc", "2.36")), "posix")
    return Machine(
        python=Python((3, 12, 1), 64, "/usr/bin/python", "python", pip=True),
        system=replace(here, shell="powershell" if windows else "posix"),
        smalti=Installed("0.1.0", ">=3.11", EXTRAS, "", editable=False),
        processor=Processor("A processor", 8, ("AVX2", "AVX-512 VNNI")),
        kernels=tuple(target.name for target in TARGETS),
        packages=(("onnxruntime", "1.31.1"),),
        onnxruntime=OnnxRuntime("1.31.1", providers=CPU_PROVIDERS),
        bundles=("avatars",),
    )


def with_driver(found: Machine, *gpus: Gpu, cuda: tuple[int, int] = (13, 0), version: str = "580.95.05") -> Machine:
    """The same machine with GPUs and a driver."""
    library = "nvcuda.dll" if found.system.name == "Windows" else "libcuda.so.1"
    return replace(found, adapters=(NVIDIA_CARD,) * len(gpus), driver=Driver(library, "", version, cuda, gpus))


def cuda_libraries(cuda: int, windows: bool = False, cudnn: str = "9.14") -> tuple[CudaLibrary, ...]:
    """All libraries of a version of CUDA, as pip installs them."""
    return tuple(
        CudaLibrary(
            name,
            one.file(cuda, windows),
            cudnn if name == "cudnn" else f"{cuda}.0",
            one.package_for(cuda),
            f"/site/{name}",
        )
        for name, one in LIBRARIES.items()
    )


def onnxruntime_gpu(found: Machine, version: str, cudnn: str = "9.14") -> Machine:
    """The same machine with onnxruntime-gpu in place of onnxruntime, and all libraries that it needs."""
    cuda = 13 if version >= "1.27" else 12
    return replace(
        found,
        packages=(("onnxruntime-gpu", version),),
        onnxruntime=OnnxRuntime(version, cuda=f"{cuda}.0", providers=GPU_PROVIDERS),
        cuda_libraries=cuda_libraries(cuda, found.system.name == "Windows", cudnn),
    )


def _without_cudnn(found: Machine) -> Machine:
    return replace(found, cuda_libraries=tuple(one for one in found.cuda_libraries if one.name != "cudnn"))


_RTX_30 = onnxruntime_gpu(with_driver(machine(), RTX_3060), "1.31.1")
MACHINES: dict[str, Machine] = {
    "no GPU": machine(),
    "RTX 30": _RTX_30,
    "both wheels": replace(_RTX_30, packages=(("onnxruntime", "1.31.1"), ("onnxruntime-gpu", "1.31.1"))),
    "no cuDNN": _without_cudnn(_RTX_30),
    "Pascal with CUDA 13": onnxruntime_gpu(with_driver(machine(), GTX_1080), "1.31.1"),
    "no Vulkan loader": replace(machine(), adapters=(AMD_CARD,)),
    "two GPUs": onnxruntime_gpu(with_driver(machine(), GTX_1080, RTX_3060), "1.31.1"),
    "old driver": with_driver(machine(), RTX_3060, cuda=(11, 4), version="470.256.02"),
    "Windows": replace(
        onnxruntime_gpu(with_driver(machine("Windows"), RTX_3060), "1.31.1"),
        cuda_libraries=(),
    ),
    "no ONNX Runtime": replace(
        machine(),
        packages=(),
        onnxruntime=OnnxRuntime(problem="ModuleNotFoundError: No module named 'onnxruntime'"),
    ),
    "broken driver": replace(machine(), driver=Driver(problem="it crashes with code -11")),
}
"""Machines by what is special about them."""
