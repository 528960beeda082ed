"""Verdicts that are kept in the user's cache, so that each is given once; without a cache, each is given again."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import msgspec

from smalti.system.files import write_whole
from smalti.system.platform import cache_folder

HOUR = 3600.0
WAIT = 600.0
"""Seconds to wait for another process that makes a trial."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What was found once, and is believed for a while."""

    made: float = 0.0
    """When, in seconds since 1970."""
    hours: float = 0.0
    """How long it is believed."""


Kept = TypeVar("Kept", bound=Verdict)


def kept(key: str, kind: type[Kept]) -> Kept | None:
    """Return a verdict of this key that is still believed; None if there is none."""
    try:
        found = msgspec.json.decode(_file(key).read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None
    return found if 0 <= time.time() - found.made < found.hours * HOUR else None


def keep(key: str, verdict: Verdict) -> None:
    """Keep a verdict. The first 32 characters of a key tell it from others."""
    with contextlib.suppress(OSError):
        file = _file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, msgspec.json.encode(verdict))


def key_of(*parts: object) -> str:
    """Return the key of what a verdict depends on."""
    return hashlib.sha256("\n".join(map(str, parts)).encode(errors="surrogateescape")).hexdigest()


@contextlib.contextmanager
def alone() -> Generator[None, None, None]:
    """Let one process at a time make trials: two would try the same, and slow each other down.

    Without filelock, or where no lock can be made, all go at once.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):  # filelock's Timeout is an OSError
            import filelock

            file = cache_folder() / "locks/trials.lock"
            file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(filelock.FileLock(file, timeout=WAIT))
        yield


def _file(key: str) -> Path:
    return cache_folder() / "trials" / f"{key[:32]}.json"
