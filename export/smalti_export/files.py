"""Replace a folder by a finished one, so that readers see either the old folder or the new one, whole."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
from pathlib import Path

AT_FDCWD = -100
"""Constant of Linux: paths are relative to the working directory of the process."""
EXCHANGE = 2
"""RENAME_EXCHANGE of Linux and RENAME_SWAP of macOS: swap two paths in one step."""


def replace_folder(new: Path, target: Path) -> None:
    """Rename the folder ``new`` to ``target`` and remove the folder that stood there.

    On Linux and macOS the two folders are swapped in one step, so ``target`` exists at every moment. Where that is not
    possible, the old folder is renamed first, and renamed back if the new one cannot take its place.

    Raises OSError when renaming fails.
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
        except BaseException:  # including an interrupt
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _exchanged(first: Path, second: Path) -> bool:
    """Swap two folders in one step; return False where the system or the file system cannot."""
    paths = os.fsencode(first), os.fsencode(second)
    with contextlib.suppress(AttributeError, OSError):  # no C library, or one without the call
        if sys.platform == "darwin":
            return ctypes.CDLL(None).renamex_np(*paths, EXCHANGE) == 0
        if sys.platform == "linux":
            return ctypes.CDLL(None).renameat2(AT_FDCWD, paths[0], AT_FDCWD, paths[1], EXCHANGE) == 0
    return False
