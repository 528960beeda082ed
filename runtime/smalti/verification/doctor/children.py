"""Start :mod:`smalti.verification.doctor.probe` in processes of their own, and wait for the answers."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from smalti.verification.doctor import probe

SECONDS: Final = 20.0
"""Time for all probes: a driver may take a while to wake many GPUs."""


def can_start() -> bool:
    """Return whether another Python can be started; a frozen program has none, and an embedded one may have none."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


class Child:
    """A probe that runs in a process of its own."""

    def __init__(self, name: str, *arguments: str, seconds: float | None = None) -> None:
        """Start it, and give it ``seconds``, by default those of all probes.

        Where no Python can be started, as in a frozen program, which would start itself, it runs here instead.
        """
        self.words = (name, *arguments)
        self._answer: dict[str, Any] | None = None
        self._failed = False
        self._seconds = SECONDS if seconds is None else seconds
        self._until = time.monotonic() + self._seconds
        # The option leaves this folder out of the places that modules are imported from.
        command = [sys.executable, "-P", str(Path(probe.__file__)), *self.words]
        self._process = None
        if not can_start():
            return
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
            )

    def answer(self) -> dict[str, Any]:
        """Wait for the answer; a crash or a hang is its ``problem``."""
        if self._answer is None:
            self._answer = self._awaited()
        return self._answer

    def failed(self) -> bool:
        """Wait for the answer, and return whether the process crashed or hung."""
        self.answer()
        return self._failed

    def _awaited(self) -> dict[str, Any]:
        if self._process is None:
            return probe.answer(*self.words)
        with self._process as process:
            try:
                said, errors = process.communicate(timeout=max(self._until - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                self._failed = True
                return {"problem": f"it did not answer within {self._seconds:.0f} s"}
        with contextlib.suppress(ValueError):  # it did not come so far
            if process.returncode == 0:
                return json.loads(said.decode(errors="replace").strip().rpartition("\n")[2])
        self._failed = True
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        return {"problem": f"it crashes with code {process.returncode}" + (f" ({last})" if last else "")}
