"""Put a finished folder where another one stands, so that whoever looks sees the old one or the new one, whole."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
from pathlib import Path

AT_FDCWD = -100
"""Of Linux: paths are relative to the process's own folder."""
EXCHANGE = 2
"""RENAME_EXCHANGE of Linux and RENAME_SWAP of macOS: two paths change places in one step."""


def replace_folder(new: Path, target: Path) -> None:
    """Rename the folder ``new`` to ``target``, and remove the folder that stood there; OSError when it cannot be done.

    Where the system can exchange two folders in one step (Linux, macOS), ``target`` is there at every moment. Elsewhere
    the old one is renamed first, and back again if the new one cannot take its place.
    """
    if not target.exists():
        new.rename(target)
    elif _exchanged(new, target):
        shutil.rmtree(new, ignore_errors=True)
    else:
        old = new.with_name(f"{new.name}.old")
        target.rename(old)
        try:
            new.rename(target)
        except BaseException:  # an interrupt too
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _exchanged(first: Path, second: Path) -> bool:
    """Let two folders change places in one step; False where the system or the file system cannot."""
    paths = os.fsencode(first), os.fsencode(second)
    with contextlib.suppress(AttributeError, OSError):  # a C library without the call, or none to be found
        if sys.platform == "darwin":
            return ctypes.CDLL(None).renamex_np(*paths, EXCHANGE) == 0
        if sys.platform == "linux":
            return ctypes.CDLL(None).renameat2(AT_FDCWD, paths[0], AT_FDCWD, paths[1], EXCHANGE) == 0
    return False
