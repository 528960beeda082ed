"""What of smalti runs on a GPU, by its compute capability alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from smalti.bundle.engines import Runtime
from smalti.bundle.manifest import Precision
from smalti.errors import UsageError
from smalti.verification.doctor.engine_findings import OLDEST_TRT, RTX
from smalti.verification.doctor.install import runs
from smalti.verification.engines.cards import GPUS, target_named, unknown
from smalti_kernels.errors import DamagedKernel
from smalti_kernels.impl.cuda.prebuilt import read_manifest
from smalti_kernels.impl.cuda.targets import target_for

NEWEST_CUDA: Final = (13, 0)
"""CUDA version of the driver that a GPU is asked about with, if nothing else is known."""


@dataclass(frozen=True)
class Support:
    """Whether something runs on a GPU."""

    name: str
    """kernels, or a provider."""
    works: bool
    text: str
    """What runs, or why nothing does."""


def check_target(text: str) -> str:
    """Return the target that a text names, if it can be asked about. Raises UsageError for others, listing those."""
    if (target := target_named(text)) not in GPUS:
        raise UsageError(f"--for {unknown(text)}")
    return target


def capability_of(target: str) -> int:
    """Return the compute capability of a target as one number: 75 for sm_75."""
    return int(target.removeprefix("sm_"))


def engine_precisions(runtime: Runtime, target: str) -> tuple[Precision, ...]:
    """Return the precisions of the engines that a runtime has for a GPU; none where it does not run there."""
    capability = capability_of(target)
    if runtime == "trt":
        return ("fp16", "fp32") if capability >= OLDEST_TRT else ()
    if capability not in RTX:
        return ()
    return ("fp16",) if capability == 75 else ("fp16", "fp32")


def supports(target: str, cuda: tuple[int, int] | None = None) -> list[Support]:
    """Return what runs on a GPU of a target, with a driver for a version of CUDA; the newest where it is not known."""
    return [
        _kernels(target, cuda or NEWEST_CUDA),
        _cuda(target, cuda or NEWEST_CUDA),
        *(_engines(runtime, target) for runtime in ("rtx", "trt")),
        Support("webgpu", True, "with extra webgpu, where the system has Direct3D 12 or Vulkan for the GPU"),
        Support("cpu", True, "with extra cpu, without the GPU"),
    ]


def _kernels(target: str, cuda: tuple[int, int]) -> Support:
    found = target_for(capability_of(target), cuda)
    if found is None:
        return Support("kernels", False, "none of the prebuilt kernels runs there, so tokens are drawn on the CPU")
    try:
        there = any(name == found.name for name, _ in read_manifest().entries)
    except DamagedKernel as error:
        return Support("kernels", False, str(error))
    if not there:
        return Support("kernels", False, f"{found.name} is missing from this installation; install smalti again")
    compiled = ", which the driver compiles when it is first used" if found.ptx else ""
    return Support("kernels", True, f"the prebuilt {found.name}{compiled}")


def _cuda(target: str, cuda: tuple[int, int]) -> Support:
    capability = capability_of(target)
    if target_for(capability, cuda) is None:
        return Support("cuda", False, "smalti has no kernels for it")
    extras = [f"cu{version}" for version in (13, 12) if (version, 0) <= cuda and runs(version, capability)]
    if not extras:
        return Support("cuda", False, "ONNX Runtime has no code for it")
    return Support("cuda", True, f"with extra {' or '.join(extras)}")


def _engines(runtime: Runtime, target: str) -> Support:
    found = engine_precisions(runtime, target)
    if not found:
        name = "TensorRT-RTX" if runtime == "rtx" else "TensorRT"
        return Support(runtime, False, f"{name} does not run there")
    if runtime == "trt":
        return Support("trt", True, f"engines in {' and '.join(found)}, which TensorRT builds on that GPU itself")
    only = "; TensorRT-RTX has no fp32 matrix product for Turing" if len(found) == 1 else ""
    unnamed = "; NVIDIA's lists of hardware for TensorRT-RTX do not name A100" if target == "sm_80" else ""
    return Support("rtx", True, f"engines in {' and '.join(found)}, built anywhere{only}{unnamed}")
