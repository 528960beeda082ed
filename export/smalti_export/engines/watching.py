"""A build that is watched: it says how far it is, and it can be cancelled.

A builder asks its monitor after every step, and stops when the monitor says no. It works in a thread of its own, since
Python looks at signals in the main thread alone, and only between two lines of Python.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

Made = TypeVar("Made")
PATIENCE = 0.2
"""Seconds between two looks at signals, for systems on which waiting for a thread cannot be interrupted."""


@dataclass(frozen=True)
class Watch:
    """Who is told how far a build is, and asked whether it goes on; both are called from the builder's thread."""

    tell: Callable[[str, float], object] = lambda phase, share: None
    """Called with the phase, in the builder's own words, and the share of the work that is done, 0 .. 1."""
    go_on: Callable[[], bool] = lambda: True
    """Called after each step. Once it returned False, it must not return True again."""


@dataclass
class _Phase:
    name: str
    steps: int
    done: int = 0


class Monitor:
    """Turns a builder's phases, which lie within each other, into one share; and cancels."""

    def __init__(self, watch: Watch) -> None:
        """Begin with nothing done."""
        self.error: BaseException | None = None
        """What the one who watches raised; it cancels the build."""
        self._watch = watch
        self._cancelled = False
        self._phases: list[_Phase] = []
        self._done = 0.0
        self._lock = threading.Lock()  # builders may have several threads
        self._adapter: Any = None

    @property
    def cancelled(self) -> bool:
        """Whether the build was told to end."""
        return self._cancelled

    def cancel(self) -> None:
        """Let the build end at its next step."""
        self._cancelled = True

    def start(self, name: str, steps: int) -> None:
        """Begin a phase, within the last one that has not ended."""
        with self._lock:
            self._phases.append(_Phase(name, max(1, steps)))
        self._tell()

    def step(self, name: str, step: int) -> bool:
        """End a step, which counts from 0, of a phase. Return whether to go on."""
        with self._lock:
            if (phase := self._last(name)) is not None:
                phase.done = min(step + 1, phase.steps)
        self._tell()
        return not self._cancelled

    def finish(self, name: str) -> None:
        """End a phase."""
        with self._lock:
            if (phase := self._last(name)) is not None:
                self._phases.remove(phase)

    def attach(self, trt: Any, config: Any) -> None:
        """Set this as the monitor of a builder's configuration, where the module has monitors."""
        base = getattr(trt, "IProgressMonitor", None)
        if base is None:
            return
        outer = self

        class Adapter(base):
            """Passes on what the builder says; nothing may be raised into it."""

            def __init__(self) -> None:
                base.__init__(self)

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                outer.start(phase_name, num_steps)

            def step_complete(self, phase_name: str, step: int) -> bool:
                return outer.step(phase_name, step)

            def phase_finish(self, phase_name: str) -> None:
                outer.finish(phase_name)

        self._adapter = Adapter()  # the configuration may not keep it alive
        config.progress_monitor = self._adapter

    def _tell(self) -> None:
        with self._lock:
            self._done = max(self._done, self._share())
            name, done = (self._phases[-1].name if self._phases else ""), self._done
        try:
            self._watch.tell(name, done)
            if not self._watch.go_on():
                self._cancelled = True
        except BaseException as error:
            self.error = self.error or error
            self._cancelled = True

    def _last(self, name: str) -> _Phase | None:
        return next((phase for phase in reversed(self._phases) if phase.name == name), None)

    def _share(self) -> float:
        share = 0.0
        for phase in reversed(self._phases):
            share = min(1.0, (phase.done + share) / phase.steps)
        return share


def watched(watch: Watch, work: Callable[[Monitor], Made]) -> Made:
    """Do a builder's work in a thread, and return what it made; an interrupt cancels it and is then raised.

    A second interrupt does not wait for the builder's next step.
    """
    monitor, made, failed, ended = Monitor(watch), list[Made](), list[BaseException](), threading.Event()

    def run() -> None:
        try:
            made.append(work(monitor))
        except BaseException as error:
            failed.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, name="smalti-builder", daemon=True).start()
    try:
        _wait(ended)
    except BaseException:  # such as Ctrl-C, or SIGTERM as the command line handles it
        monitor.cancel()
        _wait(ended)
        raise
    if monitor.error is not None:
        raise monitor.error
    if failed:
        raise failed[0]
    return made[0]


def _wait(ended: threading.Event) -> None:
    # Not by joining the thread: in Python 3.11, one whose join was interrupted is taken for dead.
    while not ended.wait(PATIENCE):
        pass
