"""NVIDIA's driver in this process, once another process has seen that it starts: a crash would take all with it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import time
from pathlib import Path
from typing import Final

import msgspec

from smalti.system.files import write_whole
from smalti.system.platform import cache_folder, system_name
from smalti.verification.doctor.children import Child
from smalti.version import __version__
from smalti_kernels import KernelError
from smalti_kernels.impl.cuda.driver import Driver, driver
from smalti_kernels.platform import DRIVER_LIBRARIES, load_library

STARTS, FAILS = 30 * 86400.0, 3600.0
"""Seconds for which it is believed that a driver starts, and that it does not."""
MAPS: Final = Path("/proc/self/maps")


class Seen(msgspec.Struct, frozen=True):
    """What another process saw."""

    problem: str
    """Why the driver must not be started; empty where it starts."""
    made: float


def safe_driver() -> tuple[Driver | None, str]:
    """Return NVIDIA's driver, or None and why there is none that can be used, in short."""
    if problem := driver_crash():
        return None, problem
    try:
        return driver(), ""
    except KernelError as error:
        return None, re.sub(r" \([^()]*\)$", "", error.reason)  # which libraries were looked for


def driver_crash() -> str:
    """Return why the driver must not be started in this process; empty where it may, or where there is none."""
    library = _library()
    return "" if library is None else _crash(library, os.environ.get("CUDA_VISIBLE_DEVICES", ""))


@functools.cache
def _library() -> str | None:
    """Load the driver's library, which starts nothing. Return its file with size and date; empty if that is unknown."""
    for name in DRIVER_LIBRARIES:
        try:
            load_library(name)
        except OSError:
            continue
        with contextlib.suppress(OSError):
            for line in MAPS.read_text("utf-8", errors="replace").splitlines():
                path = Path(line.rpartition(" ")[2])
                if path.name.startswith(name.partition(".")[0]):
                    found = path.stat()
                    return f"{path} {found.st_size} {found.st_mtime_ns}"
        return ""
    return None


@functools.cache
def _crash(library: str, visible: str) -> str:
    key = hashlib.sha256("\n".join((__version__, system_name(), library, visible)).encode()).hexdigest()
    file = cache_folder() / "trials" / f"driver-{key[:24]}.json"
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        seen = msgspec.json.decode(file.read_bytes(), type=Seen)
        if library and 0 <= time.time() - seen.made < (FAILS if seen.problem else STARTS):
            return seen.problem
    child = Child("driver", *DRIVER_LIBRARIES)
    problem = f"the NVIDIA driver cannot be used: {child.answer()['problem']}" if child.failed() else ""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, msgspec.json.encode(Seen(problem, time.time())))
    return problem
