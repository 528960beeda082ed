"""All backends, by their names as a ``provider``."""

from __future__ import annotations

from smalti.backends.base import Backend
from smalti.backends.onnxruntime_cpu import OnnxRuntimeCpu
from smalti.backends.onnxruntime_cuda import OnnxRuntimeCuda
from smalti.backends.onnxruntime_webgpu import OnnxRuntimeWebGpu
from smalti.errors import ProviderUnavailable, UsageError
from smalti_kernels.platform import usable_cores

LATER = ("tensorrt", "rtx")


def resolve_provider(requested: str, threads: int | None = None) -> tuple[Backend, str]:
    """Return the backend for a request, with ``threads`` cores (all by default), and the reason.

    Raises UsageError when the name is unknown, ProviderUnavailable when the provider cannot run.
    """
    if requested not in ("auto", "cpu", "cuda", "webgpu", *LATER):
        raise UsageError(f"provider {requested!r}: allowed are auto, cpu, cuda and webgpu")
    if requested in LATER:
        raise ProviderUnavailable(
            f"provider {requested} is not in this version of smalti; use cpu, cuda, webgpu or auto"
        )
    if requested == "cuda":
        return OnnxRuntimeCuda(), "cuda was asked for"
    if requested == "webgpu":
        return OnnxRuntimeWebGpu(threads or 1), "webgpu was asked for"
    backend = OnnxRuntimeCpu(threads or usable_cores())
    if requested == "cpu":
        return backend, "cpu was asked for"
    return backend, "this version takes a GPU only where it is asked for"
