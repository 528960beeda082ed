"""Batches in processes of their own: their files, their workers, and ways to end them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from smalti.batch import job

ONE = job.Running(actors=1)


def files(folder: Path) -> dict[str, bytes]:
    """The files of rows of a batch, by name."""
    return {path.name: path.read_bytes() for path in folder.glob("part-*")}


def ended(process: subprocess.Popen[str], seconds: float = 60) -> tuple[int, str]:
    """Wait for a process; its exit code, and what it said on stderr."""
    _, said = process.communicate(timeout=seconds)
    return process.returncode, said


def wait_for(true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def children(parent: int, named: bytes) -> list[int]:
    """Processes that another one started, whose command line has these words."""
    found: list[int] = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            own, line = status.read_text("utf-8").rpartition(")")[2].split(), (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(own[1]) == parent and named in line:
            found.append(int(status.parent.name))
    return found


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """A file system of ``size`` bytes at ``folder``; False where this user may mount none."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
