"""What differs between operating systems, and between ways to install and start smalti, in one place.

The driver's library is in ``smalti_kernels.platform``.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import json
import os
import platform
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

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
    if named := _folder_variable("SMALTI_CACHE_DIR"):
        return named
    try:
        if sys.platform == "win32":
            local = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
            return Path(local, "smalti", "smalti", "Cache")
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "smalti"
        return Path(_folder_variable("XDG_CACHE_HOME") or Path.home() / ".cache", "smalti")
    except RuntimeError as error:  # a user without an entry, as in some containers
        raise OutputError(f"there is no folder for caches: {error}. Set SMALTI_CACHE_DIR") from error


def pictures_folder() -> Path:
    """Return the folder where the user's own pictures lie. Raises OutputError when the user has no home folder."""
    try:
        named = None if sys.platform in ("win32", "darwin") else _folder_variable("XDG_PICTURES_DIR")
        return named or Path.home() / "Pictures"
    except RuntimeError as error:
        raise OutputError(f"there is no folder for pictures: {error}. Name one with --gallery") from error


def _folder_variable(name: str) -> Path | None:
    """Return the folder that a variable names. Files of settings, unlike shells, leave ``~`` and ``$HOME`` in it."""
    named = os.environ.get(name, "").strip()
    return at_home(Path(os.path.expandvars(named))) if named else None


def at_home(path: Path) -> Path:
    """Return ``path`` with a home folder in place of ``~`` or ``~user`` at its begin, where no shell did that.

    Where the user is unknown, it is a name like any other; so is every ``~user`` on Windows, which would guess.
    """
    first = path.parts[0] if path.parts else ""
    named = first == "~" or (first.startswith("~") and sys.platform != "win32")
    return Path(os.path.expanduser(path)) if named else path


def system_name() -> str:
    """Return operating system and processor, such as ``linux-x86_64`` or ``windows-x86_64``."""
    machine = platform.machine().lower()
    return f"{platform.system().lower()}-{'x86_64' if machine == 'amd64' else machine}"


def peak_memory() -> int | None:
    """Return the most bytes of memory that this process ever held; None where the system does not say."""
    with contextlib.suppress(OSError, AttributeError, ImportError, ValueError, IndexError):
        if sys.platform == "win32":
            # PROCESS_MEMORY_COUNTERS: two numbers of 32 bits (the first is its own size), then eight of a word's size.
            counters = (ctypes.c_size_t * 10)()
            size = 8 + 8 * ctypes.sizeof(ctypes.c_size_t)
            ctypes.cast(counters, ctypes.POINTER(ctypes.c_uint32))[0] = size
            peak = 8 // ctypes.sizeof(ctypes.c_size_t)
            kernel = ctypes.WinDLL("kernel32")
            kernel.GetCurrentProcess.restype = ctypes.c_void_p
            kernel.K32GetProcessMemoryInfo.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32]
            told = kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.addressof(counters), size)
            return int(counters[peak]) if told else None
        if sys.platform == "linux":
            # getrusage would also count the program that started this one.
            status = Path("/proc/self/status").read_text("ascii", "replace")
            return 1024 * int(status.partition("VmHWM:")[2].split()[0])
        usage: Any = importlib.import_module("resource")  # which Windows lacks; macOS counts in bytes
        return int(usage.getrusage(usage.RUSAGE_SELF).ru_maxrss)
    return None


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


def with_mode_of(old: Path, new: Path) -> None:
    """Let the same people read and write ``new`` as ``old``, where that exists. Windows lets a folder say who may.

    Raises OSError.
    """
    if sys.platform != "win32" and old.exists():
        new.chmod(stat.S_IMODE(old.stat().st_mode))


def reachable(path: Path, room: int = ROOM) -> Path:
    """Return ``path`` as the system's calls take it: :func:`at_home`, and not too long for Windows.

    Names of ``room`` characters in it are not too long either. Other paths are returned as they are.
    """
    path = at_home(path)
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


class Installation(NamedTuple):
    """Where the package smalti was installed from."""

    source: str
    """A folder, or the address of a file or a repository; empty for a package index, or where nobody knows."""
    editable: bool
    """Whether the code of that folder itself is run."""


@functools.cache
def installation() -> Installation:
    """Return where smalti was installed from, as the installer noted it. Nothing is raised."""
    from importlib import metadata  # which takes a while, and no draw needs it
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    try:
        noted: Any = json.loads(metadata.distribution("smalti").read_text("direct_url.json") or "{}")
        address, folder = str(noted.get("url", "")), noted.get("dir_info")
    except (metadata.PackageNotFoundError, OSError, ValueError, AttributeError):
        return Installation("", False)
    if not isinstance(folder, dict) or not address.startswith("file:"):
        return Installation(address, False)
    return Installation(url2pathname(urlsplit(address).path), bool(noted["dir_info"].get("editable")))


def requirement(extras: str, where: Installation) -> list[str]:
    """Return the words for pip that name smalti with some extras, from where it was installed before."""
    if not where.source:
        return [f"smalti[{extras}]"]
    if "://" in where.source:
        return [f"smalti[{extras}] @ {where.source}"]
    return [*(["-e"] if where.editable else []), f"{where.source}[{extras}]"]


def install_hint(extras: str, *options: str) -> str:
    """Return what installs extras of smalti, such as ``train`` or ``cli,rtx``, where this program runs.

    ``options`` are words for pip that come first. A frozen program has no pip: whoever builds it adds the extras.
    """
    if getattr(sys, "frozen", False):
        return f'build this program again where "smalti[{extras}]" is installed'
    where = installation()
    if where.source and Path(where.source) == Path.cwd():
        where = where._replace(source=".")
    *words, named = requirement(extras, where)
    plain = sys.platform == "win32" or not re.search(r'["$`\\!]', named)  # double quotes keep all the rest
    return " ".join(["pip", "install", *options, *words, f'"{named}"' if plain else quoted(named)])


def command_line() -> str:
    """Return how this program is started again, as hints name it: ``smalti``, wherever that is what works."""
    if getattr(sys, "frozen", False):
        return quoted(Path(sys.executable).name)
    started = Path(sys.argv[0] if sys.argv else "")
    if started.name == "__main__.py" and started.parent.name == "cli":
        return "python -m smalti.cli"
    if started.stem == "smalti" and started.parent.name and shutil.which("smalti") is None:
        return quoted(str(started))  # the script of an environment that is not active
    return "smalti"
