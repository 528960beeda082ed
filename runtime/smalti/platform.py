"""What differs between operating systems, in one place; the driver's library is in ``smalti_kernels.platform``."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path

AT_FDCWD = -100
"""Constant of Linux: paths are relative to the working directory of the process."""
EXCHANGE = 2
"""RENAME_EXCHANGE of Linux and RENAME_SWAP of macOS: swap two paths in one step."""


def exchanged(first: Path, second: Path) -> bool:
    """Swap two folders in one step; return False where the system or the file system cannot, as on Windows."""
    paths = os.fsencode(first), os.fsencode(second)
    with contextlib.suppress(AttributeError, OSError):  # no C library, or one without the call
        if sys.platform == "darwin":
            return ctypes.CDLL(None).renamex_np(*paths, EXCHANGE) == 0
        if sys.platform == "linux":
            return ctypes.CDLL(None).renameat2(AT_FDCWD, paths[0], AT_FDCWD, paths[1], EXCHANGE) == 0
    return False
