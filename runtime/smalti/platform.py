"""What differs between operating systems, in one place; the driver's library is in ``smalti_kernels.platform``."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from smalti.errors import OutputError

Done = TypeVar("Done")

AT_FDCWD = -100
"""Constant of Linux: paths are relative to the working directory of the process."""
EXCHANGE = 2
"""RENAME_EXCHANGE of Linux and RENAME_SWAP of macOS: swap two paths in one step."""
LONGEST: Final = 247
"""Characters (of UTF-16) that the path of a folder may have on Windows; a file's may have 12 more."""
ROOM: Final = 100
"""Characters that are kept free for the names of what lies in a folder."""
HELD: Final = (5, 32, 33, 145)
"""Errors of Windows while another program, often a virus scanner, has a file open: access denied, sharing violation,
lock violation, folder not empty."""
PATIENCE, PAUSE = 1.0, 0.02
"""Seconds to wait for that program, and between two tries."""
_DEVICES: Final = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3]) *(\.|$)", re.IGNORECASE
)
"""What Windows takes for a device, whatever follows the first dot."""
_SIGNS: Final = r'[<>:"/\\|?*\x00-\x1f]'
"""What the name of a file cannot have on Windows."""


def exchanged(first: Path, second: Path) -> bool:
    """Swap two folders in one step; return False where the system or the file system cannot, as on Windows."""
    paths = os.fsencode(first), os.fsencode(second)
    with contextlib.suppress(AttributeError, OSError):  # no C library, or one without the call
        if sys.platform == "darwin":
            return ctypes.CDLL(None).renamex_np(*paths, EXCHANGE) == 0
        if sys.platform == "linux":
            return ctypes.CDLL(None).renameat2(AT_FDCWD, paths[0], AT_FDCWD, paths[1], EXCHANGE) == 0
    return False


def cache_folder() -> Path:
    """Return the folder of smalti's caches: ``$SMALTI_CACHE_DIR``, or one in the user's own cache.

    Raises OutputError when the user has no home folder, and the variable is not set.
    """
    if named := os.environ.get("SMALTI_CACHE_DIR"):
        return Path(named)
    try:
        if sys.platform == "win32":
            local = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
            return Path(local, "smalti", "smalti", "Cache")
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "smalti"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "smalti")
    except RuntimeError as error:  # a user without an entry, as in some containers
        raise OutputError(f"there is no folder for caches: {error}. Set SMALTI_CACHE_DIR") from error


def system_name() -> str:
    """Return operating system and processor, such as ``linux-x86_64`` or ``windows-x86_64``."""
    machine = platform.machine().lower()
    return f"{platform.system().lower()}-{'x86_64' if machine == 'amd64' else machine}"


def own_group() -> dict[str, Any]:
    """Return arguments of ``subprocess.Popen`` for a process that :func:`end_gently` can end; it opens no window."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {}


def end_gently(process: subprocess.Popen[Any]) -> None:
    """Ask a process to end, so that it can clean up: by SIGTERM, or by Ctrl+Break on Windows."""
    if sys.platform == "win32":
        process.send_signal(signal.CTRL_BREAK_EVENT)
    else:
        process.terminate()


def patiently(action: Callable[[], Done]) -> Done:
    """Do what Windows refuses while another program has the file open: try again for a second, then raise OSError."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return action()
        except OSError as error:
            # Only Windows has this number; its plain "permission denied" stands for all of these.
            if getattr(error, "winerror", None) not in HELD or time.monotonic() >= until:
                raise
        time.sleep(PAUSE)


def reachable(path: Path, room: int = ROOM) -> Path:
    """Return ``path`` in a form that is not too long for Windows, names of ``room`` characters in it included.

    Short paths, and all paths on other systems, are returned as they are.
    """
    if sys.platform != "win32":
        return path
    full = os.path.abspath(path)
    return Path(extended(full)) if len(full.encode("utf-16-le", "surrogatepass")) // 2 + room > LONGEST else path


def extended(full: str) -> str:
    r"""Return an absolute path of Windows with the prefix that lifts its limit, as ``\\?\C:\folder``."""
    if full.startswith(("\\\\?\\", "\\\\.\\")):
        return full
    return f"\\\\?\\UNC{full[1:]}" if full.startswith("\\\\") else f"\\\\?\\{full}"


def is_portable(name: str) -> bool:
    """Whether every system takes ``name`` for a file or a folder: Windows refuses some signs, ends and names."""
    return not (_DEVICES.match(name) or re.search(_SIGNS, name) or name.endswith((".", " ")))


def refused(path: Path) -> str:
    """Say why this system takes no file at ``path``, where writing would tell too late or not at all; else empty."""
    if sys.platform != "win32":
        return ""
    if path.name not in ("", "..") and not is_portable(path.name):
        return "Windows takes no file of this name"
    # A folder's mark says something else there.
    return "it is read-only" if path.is_file() and not os.access(path, os.W_OK) else ""


def quoted(word: str) -> str:
    """Return a path as the shell of this system takes it. On Windows none has a double quote in it."""
    return f'"{word}"' if sys.platform == "win32" else shlex.quote(word)


def ending_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that ask a process to end; Windows sends SIGBREAK, also when its console is closed."""
    return tuple(signal.Signals[name] for name in ("SIGTERM", "SIGBREAK") if name in signal.Signals.__members__)
