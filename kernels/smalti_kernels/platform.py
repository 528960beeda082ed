"""What differs between operating systems: the driver's library, cores and memory of a process."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

DRIVER_LIBRARIES: Final = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so")
"""Names of NVIDIA's driver library on this system, first choice first."""
MANAGEMENT_LIBRARY: Final = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
"""Name of NVIDIA's management library, which comes with the driver."""
VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
"""Environment variable: the GPUs that CUDA shows, and their order."""
THREADS_VARIABLE: Final = "SMALTI_THREADS"
"""Environment variable: cores to use."""
CGROUPS: Final = Path("/sys/fs/cgroup")
OWN_CGROUPS: Final = Path("/proc/self/cgroup")
MEMORY_FILES: Final = ("memory.max", "memory.limit_in_bytes")
"""Of version 2 and 1 of control groups."""
ASSUMED_MEMORY: Final = 2**32
"""Bytes of a machine that does not say."""


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
    """Cores that this process may keep busy; at most ``$SMALTI_THREADS`` where that is a whole number above 0."""
    asked = os.environ.get(THREADS_VARIABLE, "")
    return min(allowed_cores(), int(asked) if asked.isdecimal() and int(asked) else sys.maxsize)


def allowed_cores() -> int:
    """Cores that the system gives this process: by number, by affinity, and by the quota of its control groups.

    Half a core counts as one.
    """
    allowed = getattr(os, "sched_getaffinity", None)  # Windows and macOS have none
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def allowed_memory() -> int:
    """Bytes of memory that this machine has, or that the control groups of this process allow."""
    limit = memory_limit()
    there = _machine_memory()
    return there if limit is None else min(there, limit)


@cache  # asked at every draw, and a container keeps its quota
def cpu_quota(mounted: Path = CGROUPS, own: Path = OWN_CGROUPS) -> float | None:
    """Cores that control groups, of version 1 or 2, let this process use; None where they set no limit."""
    found: list[float] = []
    for group in _groups("cpu", mounted, own):
        quota, _, period = _text(group / "cpu.max").partition(" ")  # version 2
        if not quota:
            quota, period = (_text(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):  # "max" and -1: no limit
            found.append(int(quota) / int(period))
    return min(found, default=None)


@cache
def memory_limit(mounted: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int | None:
    """Bytes that control groups, of version 1 or 2, let this process have; None where they set no limit."""
    files = [group / name for group in _groups("memory", mounted, own) for name in MEMORY_FILES]
    return min((int(text) for file in files if (text := _text(file)).isdecimal() and int(text)), default=None)


def _groups(controller: str, mounted: Path, own: Path) -> Iterator[Path]:
    """Folders of the control groups that this process is in, innermost first; some may not exist.

    A container often sees its own group as the root, whatever the path that is written down.
    """
    for line in _text(own).splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" or controller in names.split(","):
            roots = (mounted,) if number == "0" else (mounted / controller, mounted / names)
            for root in roots:
                inner = root / path.lstrip("/")
                yield from (inner, *(above for above in inner.parents if above.is_relative_to(root)))
    yield from (mounted, mounted / controller)


def _text(file: Path) -> str:
    """What a small file says; empty where there is none."""
    try:
        return file.read_text("ascii", "replace").strip()
    except OSError:
        return ""


def _machine_memory() -> int:
    if sys.platform == "win32":
        status = (ctypes.c_ulonglong * 8)(64)  # MEMORYSTATUSEX begins with its own size, and has the total second
        found = int(status[1]) if ctypes.WinDLL("kernel32").GlobalMemoryStatusEx(status) else 0
    else:
        try:
            found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError):
            found = 0
    return found if found > 0 else ASSUMED_MEMORY
