"""What differs between operating systems: names of the driver's library, cores of a process."""

from __future__ import annotations

import os
import sys
from typing import Final

DRIVER_LIBRARIES: Final = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so")
"""Names of NVIDIA's driver library on this system, first choice first."""


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
