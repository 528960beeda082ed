"""End a process soon after it was told to, also in the middle of a native call.

Python runs its handlers of signals between two of its own instructions, and a call of ONNX Runtime may take minutes.
The signal's number comes through a socket at once, to a thread of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Collection, Generator

from smalti.system.files import remove_partial

GRACE = 1.5
"""Seconds in which a process may end by itself, as it does outside of native calls."""


@contextlib.contextmanager
def ending_soon(numbers: Collection[int], code: int, say: Callable[[], object]) -> Generator[None, None, None]:
    """Inside, end the process with ``code`` where one of these signals has not ended what is inside after a while.

    What is being written is then removed, and ``say`` is called. Handlers of the signals must be set, since a signal
    without one ends the process anyhow. In another thread than the main one, which gets no signals, nothing is watched.
    """
    near, far = socket.socketpair()
    far.setblocking(False)  # what signal.set_wakeup_fd wants
    left = threading.Event()
    try:
        before = signal.set_wakeup_fd(far.fileno(), warn_on_full_buffer=False)
    except ValueError:
        near.close()
        far.close()
        yield
        return
    watcher = threading.Thread(target=_watch, args=(near, left, frozenset(numbers), code, say), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(before)
        far.close()  # which ends the watcher


def _watch(
    near: socket.socket, left: threading.Event, numbers: frozenset[int], code: int, say: Callable[[], object]
) -> None:
    with near, contextlib.suppress(OSError):
        while told := near.recv(64):
            if numbers.intersection(told) and not left.wait(GRACE):
                remove_partial()
                with contextlib.suppress(OSError, ValueError):
                    say()
                os._exit(code)
