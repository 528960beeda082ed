"""Build engines in a process of its own: it can be watched and cancelled, and another provider draws meanwhile."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from smalti.backends.tensorrt.backend import TensorRt
from smalti.bundle.engines import Runtime
from smalti.bundle.manifest import Precision, Role
from smalti.bundle.reader import Bundle
from smalti.errors import EngineError
from smalti.loading.trial_process import environment, python_module
from smalti.platform import end_gently, own_group

_log = logging.getLogger(__name__)
LINES: Final = 20
"""Lines of the process that are kept for an error's message."""
GRACE: Final = 10.0
"""Seconds that a cancelled process has to end by itself."""


class BuildProgress(NamedTuple):
    """How far a build is."""

    component: str
    phase: str
    """What the builder does now, in its own words."""
    share: float
    """Of this component: 0 .. 1."""


OnProgress: TypeAlias = Callable[[BuildProgress], object]


class EngineBuild:
    """A process that builds engines into the user's cache.

    ::

        build = EngineBuild(bundle, "trt")
        while not build.done:
            ...  # draw on another provider
        build.wait()
    """

    def __init__(
        self,
        bundle: Bundle,
        runtime: Runtime = "trt",
        precision: Precision = "fp16",
        components: Sequence[Role] = (),
        on_progress: OnProgress | None = None,
    ) -> None:
        """Start building ``components``, by default all that come in ``precision``.

        ``on_progress`` is called in another thread. Raises EngineError when no process can be started, as in a program
        that is frozen into one file: build the engines there before it is frozen.
        """
        self.progress: BuildProgress | None = None
        """The newest; None before the first."""
        if getattr(sys, "frozen", False):
            raise EngineError("a frozen program cannot build engines; run smalti engine build before it is frozen")
        words = ["engine", "build", str(bundle.path.absolute()), "--runtime", runtime, "--precision", precision]
        words += [word for role in components for word in ("--component", role)]
        try:
            self._process = subprocess.Popen(
                [*python_module("smalti.cli"), *words, "--progress", "json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=environment(),
                **own_group(),
            )
        except OSError as error:
            raise EngineError(f"engines cannot be built: no process can be started: {error}") from error
        self._cancelled = False
        self._raised: BaseException | None = None
        self._said: deque[str] = deque(maxlen=LINES)
        self._reader = threading.Thread(target=self._read, args=(on_progress,), daemon=True)
        self._reader.start()

    @property
    def done(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def cancel(self) -> None:
        """End the process. Engines that it has finished stay."""
        self._cancelled = True
        end_gently(self._process)
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def wait(self, cancel: threading.Event | None = None) -> None:
        """Wait for the end. Raises EngineError when the build failed or was cancelled; ``cancel`` cancels it when set.

        An exception in this thread, such as an interrupt, cancels it too. So does one of ``on_progress``, which is
        raised here.
        """
        try:
            while True:
                try:
                    code = self._process.wait(0.1 if cancel else None)
                    break
                except subprocess.TimeoutExpired:
                    if cancel and cancel.is_set():
                        self.cancel()
        except BaseException:
            self.cancel()
            raise
        self._reader.join(GRACE)
        if self._raised:
            raise self._raised
        if self._cancelled:
            raise EngineError("building engines was cancelled; those that were finished are kept")
        if code:
            said = " ".join(line.removeprefix("smalti: ") for line in self._said)
            raise EngineError(f"engines cannot be built: {said or f'the process ended with {code}'}")

    def _read(self, on_progress: OnProgress | None) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if (told := _progress(line)) is None:
                if line.strip():
                    self._said.append(line.strip())
            elif told.component:  # a line about none is for people
                self.progress = told
                if on_progress and not self._raised:
                    try:
                        on_progress(told)
                    except BaseException as error:  # raised by wait; the process must be read on until it has ended
                        self._raised, self._cancelled = error, True
                        end_gently(self._process)


def _progress(line: str) -> BuildProgress | None:
    """Read a line of ``--progress json``; None if it is none."""
    try:
        told: Any = json.loads(line)
        return BuildProgress(str(told["component"]), str(told["phase"]), float(told["share"]))
    except (ValueError, KeyError, TypeError):
        return None


def build_missing(
    backend: TensorRt,
    bundle: Bundle,
    precision: str,
    on_progress: OnProgress | None = None,
    cancel: threading.Event | None = None,
) -> None:
    """Build the engines that a bundle lacks for a device, and wait for them; each is built once and then kept.

    Raises EngineError when that fails or is cancelled, UsageError for a precision that no engine has.
    """
    for wanted, roles in backend.missing(bundle, precision).items():
        _log.warning("building %s engines for %s: this takes minutes, once", ", ".join(roles), backend.device)
        EngineBuild(bundle, backend.runtime_kind, wanted, roles, on_progress).wait(cancel)
