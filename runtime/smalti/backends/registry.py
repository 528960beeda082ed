"""All backends, by their names as a ``provider``."""

from __future__ import annotations

from typing import Final

from smalti.backends.base import Backend
from smalti.backends.onnxruntime_cpu import OnnxRuntimeCpu
from smalti.backends.onnxruntime_cuda import OnnxRuntimeCuda
from smalti.backends.onnxruntime_webgpu import OnnxRuntimeWebGpu
from smalti.backends.tensorrt.backend import open_engines
from smalti.errors import UsageError
from smalti_kernels.platform import usable_cores

AUTO: Final = "auto"
PROVIDERS: Final = ("cpu", "cuda", "rtx", "trt", "webgpu")
ON_NVIDIA: Final = ("cuda", "rtx", "trt")
"""Those that need NVIDIA's driver."""


def check_provider(requested: str) -> None:
    """Raise UsageError for a name that is no provider's."""
    if requested not in (AUTO, *PROVIDERS):
        raise UsageError(f"provider {requested!r}: allowed are {AUTO}, {', '.join(PROVIDERS[:-1])} and {PROVIDERS[-1]}")


def open_backend(provider: str, threads: int | None = None) -> Backend:
    """Return the backend of a provider, with ``threads`` cores (all by default).

    Raises UsageError when the name is not in :data:`PROVIDERS`, ProviderUnavailable when it cannot run here.
    """
    check_provider(provider)
    if provider == "cuda":
        return OnnxRuntimeCuda()
    if provider == "rtx" or provider == "trt":
        return open_engines(provider)
    if provider == "webgpu":
        return OnnxRuntimeWebGpu(threads or 1)
    return OnnxRuntimeCpu(threads or usable_cores())
