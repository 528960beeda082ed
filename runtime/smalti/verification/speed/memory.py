"""The most memory that draws took, on the host and on a device."""

from __future__ import annotations

import contextlib
import ctypes
from dataclasses import dataclass

from smalti.backends.base import Backend
from smalti.backends.device.backend import DeviceBackend
from smalti.errors import KernelError
from smalti.system.platform import peak_memory
from smalti_kernels.platform import DRIVER_LIBRARIES, load_library


@dataclass(frozen=True)
class Memory:
    """Bytes of memory; None where nobody tells."""

    host: int | None
    """The most that this process ever held, with the interpreter, its libraries and the bundle."""
    device: int | None
    """What is in use on the GPU after the draws, by this and by all other programs. ONNX Runtime and smalti keep what
    they allocate, so this is the most that the draws needed."""


def memory(backend: Backend) -> Memory:
    """Return what the system and the driver say of memory now."""
    return Memory(peak_memory(), device_memory(backend))


def device_memory(backend: Backend) -> int | None:
    """Return bytes in use on a backend's GPU; None for backends without NVIDIA's driver."""
    if not isinstance(backend, DeviceBackend):
        return None
    for name in DRIVER_LIBRARIES:
        with contextlib.suppress(OSError, AttributeError, KernelError):
            ask = load_library(name).cuMemGetInfo_v2
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            with backend.place.entered():
                if ask(ctypes.byref(free), ctypes.byref(total)) == 0:
                    return total.value - free.value
    return None
