"""Build engines in a process of its own: it can be watched and cancelled, and another provider draws meanwhile."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from smalti.backends.tensorrt.backend import PREFERRED, TensorRt
from smalti.backends.tensorrt.choice import NAMES
from smalti.bundle.engines import Runtime
from smalti.bundle.manifest import Precision, Role
from smalti.bundle.reader import Bundle, open_bundle
from smalti.errors import EngineError, UsageError
from smalti.families.checks import shown
from smalti.loading.trial_process import environment, python_module
from smalti.system.platform import end_gently, own_group
from smalti.verification.engines.cards import target_named, unknown

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
        bundle: str | Path | Bundle | None = None,
        runtime: Runtime = "trt",
        precision: Precision = "fp16",
        components: Sequence[Role] = (),
        on_progress: OnProgress | None = None,
        targets: Sequence[str] = (),
    ) -> None:
        """Start building ``components``, by default all that come in ``precision``, of a bundle as in ``smalti.load``.

        ``on_progress`` is called in another thread. ``targets`` are the GPUs of engines of TensorRT-RTX, such as
        ``sm_86``; by default those of ``smalti engine build``.

        Raises UsageError for a runtime, precision, component or target that there is not, BundleError when the bundle
        is missing or damaged; EngineError when no process can be started, as in a program that is frozen into one file:
        build the engines there before it is frozen.
        """
        opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        _check(opened, runtime, precision, components, on_progress, targets)
        self.progress: BuildProgress | None = None
        """The newest; None before the first."""
        if getattr(sys, "frozen", False):
            raise EngineError("a frozen program cannot build engines; run smalti engine build before it is frozen")
        words = ["engine", "build", str(opened.path.absolute()), "--runtime", runtime, "--precision", precision]
        words += [word for role in components for word in ("--component", role)]
        words += [word for target in targets for word in ("--target", target)]
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
            elif not told.component:  # a line for people
                _log.info("%s", told.phase)
            else:
                self.progress = told
                if on_progress and not self._raised:
                    try:
                        on_progress(told)
                    except BaseException as error:  # raised by wait; the process must be read on until it has ended
                        self._raised, self._cancelled = error, True
                        end_gently(self._process)


def _check(
    bundle: Bundle, runtime: Any, precision: Any, components: Any, on_progress: OnProgress | None, targets: Any
) -> None:
    if not isinstance(runtime, str) or runtime not in NAMES:
        raise UsageError(f"runtime {shown(runtime)}: allowed are {' and '.join(NAMES)}")
    if not isinstance(precision, str) or precision not in PREFERRED:
        raise UsageError(f"precision {shown(precision)}: engines come in {' and '.join(PREFERRED)}")
    there = [role for role in bundle.manifest.components if precision in bundle.precisions(role)]
    is_list = isinstance(components, list | tuple)
    asked: list[Any] = [*components] if is_list else [components]
    if wrong := [one for one in asked if not is_list or one not in there]:
        told = f"a list is needed, of {', '.join(there) or 'none'} in {precision}"
        raise UsageError(f"components {shown(wrong[0])}: {told}")
    if not isinstance(targets, list | tuple) or (targets and runtime != "rtx"):
        told = "TensorRT builds for the GPU at hand" if runtime != "rtx" else "a list is needed, such as ['sm_86']"
        raise UsageError(f"targets {shown(targets)}: {told}")
    named: list[Any] = [*targets]
    if wrong := [one for one in named if not isinstance(one, str) or not target_named(one)]:
        raise UsageError(f"targets {unknown(wrong[0]) if isinstance(wrong[0], str) else shown(wrong[0])}")
    if on_progress is not None and not callable(on_progress):
        raise UsageError(f"on_progress {on_progress!r}: a function that takes the progress is needed")


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
