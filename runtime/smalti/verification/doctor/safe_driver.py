"""NVIDIA's driver in this process, once another process has seen that it starts: a crash would take all with it."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from pathlib import Path
from typing import Final

from smalti.system.platform import system_name
from smalti.system.verdicts import Verdict, keep, kept, key_of
from smalti.verification.doctor.children import Child, can_start
from smalti.version import __version__
from smalti_kernels import KernelError
from smalti_kernels.impl.cuda.driver import Driver, driver
from smalti_kernels.platform import DRIVER_LIBRARIES, VISIBLE, load_library

STARTS, FAILS = 24.0 * 30, 1 / 6
"""Hours for which it is believed that a driver starts, and that it does not."""
LONGEST: Final = 60.0
"""Seconds that a driver may take to wake all GPUs."""
MAPS, BOOT = Path("/proc/self/maps"), Path("/proc/sys/kernel/random/boot_id")
_starts: set[str] = set()
"""Drivers that this process knows to start."""


class Seen(Verdict, frozen=True, kw_only=True):
    """What another process saw."""

    problem: str
    """Why the driver must not be started; empty where it starts."""


def safe_driver() -> tuple[Driver | None, str]:
    """Return NVIDIA's driver, or None and why there is none that can be used, in short."""
    if problem := driver_crash():
        return None, problem
    try:
        return driver(), ""
    except KernelError as error:
        return None, re.sub(r" \([^()]*\)$", "", error.reason)  # which libraries were looked for


def driver_crash() -> str:
    """Return why the driver must not be started in this process; empty where it may, or where there is none.

    What another process saw is remembered for the driver's file, where the system tells which that is, as Linux does;
    a crash for ten minutes, and no longer than the machine runs.
    """
    if not can_start() or (library := _library()) is None:
        return ""
    key = f"driver-{key_of(__version__, system_name(), library, os.environ.get(VISIBLE, ''), _boot())}"
    if key in _starts:
        return ""
    if library and (seen := kept(key, Seen)) is not None:
        ago = f" (seen {(time.time() - seen.made) / 60:.0f} minutes ago; it is asked again after {FAILS * 60:.0f})"
    else:
        seen, ago = _asked(key), ""
    if seen.problem:
        return seen.problem + ago
    _starts.add(key)
    return ""


def _asked(key: str) -> Seen:
    child = Child("driver", *DRIVER_LIBRARIES, seconds=LONGEST)
    problem = f"the NVIDIA driver cannot be used: {child.answer()['problem']}" if child.failed() else ""
    seen = Seen(problem=problem, made=time.time(), hours=FAILS if problem else STARTS)
    keep(key, seen)
    return seen


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
                if path.name.startswith(f"{name.partition('.')[0]}."):
                    found = path.stat()
                    return f"{path} {found.st_size} {found.st_mtime_ns}"
        return ""
    return None


def _boot() -> str:
    try:
        return BOOT.read_text("utf-8")
    except OSError:
        return ""
