"""What differs between operating systems: the driver's library, cores of a process."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

DRIVER_LIBRARIES: Final = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so")
"""Names of NVIDIA's driver library on this system, first choice first."""


def load_library(name: str) -> ctypes.CDLL:
    """Load a library by its name, from where the system keeps drivers, or by its path. Raises OSError with the reason.

    Windows looks beside Python and in its own folder, System32, but neither in the working directory nor in PATH.
    """
    if sys.platform != "win32":
        return ctypes.CDLL(name)
    try:
        return ctypes.WinDLL(name)  # the driver's functions are __stdcall there, which differs in 32 bits only
    except FileNotFoundError:  # whose text advises to write programs in another way
        raise OSError(f"{name} is missing, or a library that it needs") from None


def usable_cores() -> int:
    """Cores that this process may run on."""
    allowed = getattr(os, "sched_getaffinity", None)  # Windows and macOS have none
    return len(allowed(0)) if allowed else os.cpu_count() or 1
