"""What TensorRT-RTX compiles for a GPU, kept on disk, so that later processes start at once.

TensorRT-RTX compiles an engine's kernels when a context is made. Its runtime cache holds them, and refuses content that
another version, GPU or driver made. A file is keyed by all of these and by the engine, and names them in its first
line. A process that dies while it uses a file for the first time leaves a mark; the next one then goes without that
file and makes a new one.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import logging
import threading
from pathlib import Path
from typing import Any, Final

import msgspec

from smalti.errors import OutputError
from smalti.system.files import write_whole
from smalti.system.platform import cache_folder

_log = logging.getLogger(__name__)
LARGEST: Final = 2**30
"""Bytes of a file that are read."""
SUFFIX: Final = ".cache"
LONGEST_LINE: Final = 4096
"""Bytes of its first line."""


class MadeFor(msgspec.Struct, frozen=True, kw_only=True):
    """All that decides what is compiled."""

    system: str
    version: str
    """Version of TensorRT-RTX."""
    device: str
    target: str
    driver: str
    """Version of NVIDIA's driver; empty where it could not be read."""
    cuda: str
    engine: str
    """sha256 of the engine."""

    def line(self) -> bytes:
        """Return the first line of a file."""
        return msgspec.json.encode(self) + b"\n"


def compiled_folder() -> Path:
    """Return the folder of these files; it may not exist."""
    return cache_folder() / "compiled"


def made_for(file: Path) -> MadeFor | None:
    """Return what a file was made for; None where its first line does not tell. Raises OSError."""
    with file.open("rb") as opened, contextlib.suppress(msgspec.MsgspecError):
        return msgspec.json.decode(opened.readline(LONGEST_LINE), type=MadeFor)
    return None


class CompiledKernels:
    """The runtime cache of one engine, and its file."""

    def __init__(self, made_for: MadeFor) -> None:
        """Take what decides about all that is compiled."""
        self._line = made_for.line()
        self.file = compiled_folder() / f"{hashlib.sha256(self._line).hexdigest()[:32]}{SUFFIX}"
        self._cache: Any = None
        self._saved = b""
        self._trial: Any = None
        self._lock = threading.Lock()

    def attach(self, config: Any) -> None:
        """Give a runtime configuration the cache, with what the file has."""
        with self._lock:
            if self._cache is None:
                self._cache = config.create_runtime_cache()
                self._load()
            if not config.set_runtime_cache(self._cache):
                _log.warning("compiled kernels are not kept: TensorRT-RTX takes no cache for them")

    def worked(self) -> None:
        """Keep what was compiled; call it after a run that ended well. A file that cannot be written is only logged."""
        with self._lock:
            if self._cache is None:
                return
            content = bytes(self._cache.serialize() or b"")
            if content and content != self._saved:
                try:
                    self.file.parent.mkdir(parents=True, exist_ok=True)
                    write_whole(self.file, self._line + content)
                    self._saved = content
                except (OutputError, OSError) as error:
                    _log.warning("compiled kernels are not kept: %s", error)
            self._end_trial()

    @property
    def _mark(self) -> Path:
        return self.file.with_suffix(".trying")

    def _load(self) -> None:
        content = self._content()
        if not content:
            return
        if not self._begin_trial():
            return
        if self._cache.deserialize(content):
            self._saved = content
        else:
            _log.info("%s was compiled for something else, and is made again", self.file)

    def _content(self) -> bytes:
        with contextlib.suppress(OSError):
            if self.file.stat().st_size <= LARGEST:
                whole = self.file.read_bytes()
                return whole.removeprefix(self._line) if whole.startswith(self._line) else b""
        return b""

    def _begin_trial(self) -> bool:
        """Mark the file as being tried, under a lock that ends with the process. Return False if it killed another."""
        try:
            import filelock

            lock = filelock.FileLock(self.file.with_suffix(".lock"), thread_local=False)
            lock.acquire(timeout=0)
        except (ImportError, OSError):  # filelock.Timeout is an OSError: another process is trying it now
            return True
        if self._mark.exists():
            _log.warning("a process ended while it used %s, which is made again", self.file)
            with contextlib.suppress(OSError):
                self.file.unlink()
            self._trial = lock
            self._end_trial()
            return False
        with contextlib.suppress(OSError):
            self._mark.touch()
        self._trial = lock
        atexit.register(self._end_trial)  # a process that ends well without a run leaves no mark
        return True

    def _end_trial(self) -> None:
        if self._trial is not None:
            with contextlib.suppress(OSError):
                self._mark.unlink(missing_ok=True)
            self._trial.release()
            self._trial = None
            atexit.unregister(self._end_trial)
