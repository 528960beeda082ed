"""Windows played on another system: its errors for open files, its limit for paths, its name."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from smalti.system import platform

SHARING = 32
PREFIX = "\\\\?\\"
MAX_PATH, MAX_FOLDER = 260, 248
"""Characters that are too many for a file, and for a folder that is made."""
CALLS = ("stat", "lstat", "mkdir", "rename", "replace", "unlink", "remove", "rmdir", "open", "scandir", "listdir")


def on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `smalti.system.platform`, and nothing else, believe that this is Windows."""
    monkeypatch.setattr(platform, "sys", SimpleNamespace(platform="win32"))


def held(number: int = SHARING) -> PermissionError:
    """The error of Windows for a file that another program has open."""
    error = PermissionError(errno.EACCES, "The process cannot access the file because it is being used")
    error.winerror = number
    return error


def busy(call: Callable[..., Any], times: int, number: int = SHARING) -> Callable[..., Any]:
    """A function that is refused so many times before it is done; its ``tried`` counts."""

    def tried(*arguments: Any, **named: Any) -> Any:
        tried.count += 1
        if tried.count <= times:
            raise held(number)
        return call(*arguments, **named)

    tried.count = 0
    return tried


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(platform, "time", self)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def limit_paths(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Refuse long paths without the prefix; ``folder`` takes the link that plays the prefix."""
    on_windows(monkeypatch)
    roots = folder / PREFIX
    roots.symlink_to("/")
    monkeypatch.setattr(platform, "extended", lambda full: full if PREFIX in full else f"{roots}{full}")
    for owner, name in [(os, name) for name in CALLS] + [(io, "open"), (builtins, "open")]:
        limit = MAX_FOLDER if name == "mkdir" else MAX_PATH
        monkeypatch.setattr(owner, name, _limited(getattr(owner, name), limit))


def _limited(call: Callable[..., Any], limit: int) -> Callable[..., Any]:
    def limited(*arguments: Any, **named: Any) -> Any:
        for path in arguments[:2]:
            text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
            if len(text) >= limit and PREFIX not in text:
                raise FileNotFoundError(errno.ENOENT, "The system cannot find the path specified", text)
        return call(*arguments, **named)

    return limited
