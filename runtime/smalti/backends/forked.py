"""What a forked child does about its parent's sessions and locks: it leaves the one alone, and takes new ones.

ONNX Runtime's threads do not exist in a child: a session of the parent would wait for them for ever, or crash when it
is freed. Locks that another thread held at that moment stay held in the child.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol
from weakref import WeakSet

from smalti.errors import ProviderUnavailable

FORKED: Final = (
    "this is a child of the process that loaded the bundle, and what lies on a device does not survive os.fork(). Load "
    'the bundle here, or start processes by multiprocessing.get_context("spawn")'
)


class Locking(Protocol):
    """An object with a lock that nobody else has."""

    _lock: Any


class Reopening:
    """A session of ONNX Runtime, which a forked child opens anew when it first asks for it."""

    def __init__(self, session: Any, reopen: Callable[[], Any] | None) -> None:
        """Without ``reopen`` a child is refused, since its session would need a device."""
        self._session, self._reopen = session, reopen
        _SESSIONS.add(self)

    def __getattr__(self, name: str) -> Any:
        """Return what the session has of that name. Raises ProviderUnavailable in a child, where a device is needed."""
        if self._session is None:
            if self._reopen is None:
                raise ProviderUnavailable(FORKED)
            with _reopening:
                if self._session is None:
                    self._session = self._reopen()
        return getattr(self._session, name)

    def leave(self) -> None:
        """Forget the parent's session, without freeing it."""
        if self._session is not None:
            # One reference too many, so that it is not freed even when Python ends: that would wait for its threads.
            with contextlib.suppress(AttributeError):  # Pythons without this interface do not count references
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
            self._session = None


_SESSIONS: WeakSet[Reopening] = WeakSet()
_LOCKED: WeakSet[Any] = WeakSet()
_reopening: Any = threading.RLock()
opening: Any = threading.RLock()
"""Held while ONNX Runtime makes a session on the CPU, since it has locks of its own: no process is forked meanwhile."""


def renewed_after_fork(holder: Locking) -> None:
    """Give ``holder`` a new lock in every forked child."""
    _LOCKED.add(holder)


def _in_child() -> None:
    global _reopening, opening
    _reopening, opening = threading.RLock(), threading.RLock()
    for session in list(_SESSIONS):
        session.leave()
    for holder in list(_LOCKED):
        holder._lock = threading.Lock()


def _before() -> None:
    opening.acquire()


def _in_parent() -> None:
    opening.release()


if register := getattr(os, "register_at_fork", None):  # Windows forks nothing
    register(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
