"""Signals that end a training: kept until a step is whole, and obeyed by all processes after the same one."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import torch
from accelerate import Accelerator
from torch import distributed

from smalti.system.platform import ending_signals
from smalti_train.runs.machines import PATIENCE


class Interrupts:
    """Context in which Ctrl-C and SIGTERM are noted; a second one ends what is done at once, as outside.

    Where several processes train, whichever of them gets the signal, all see it after the same step. They agree over a
    group of their own, on the CPU, so that no GPU has to be waited for. On leaving, the handlers of before are back.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.number: int = 0
        """The signal that this process got; 0 for none."""
        self._aside = False
        self._before: dict[int, Any] = {}
        self._wakeup = -1
        self._group: Any = None
        if accelerator.num_processes > 1:
            self._group = distributed.new_group(backend="gloo", timeout=PATIENCE)  # pyright: ignore[reportUnknownMemberType] - torch gives none

    def __enter__(self) -> Interrupts:
        with contextlib.suppress(ValueError):  # in a thread, which gets no signals
            self._wakeup = signal.set_wakeup_fd(-1)  # of the command line, which would end this in the middle of a step
            for number in (signal.SIGINT, *ending_signals()):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._group = None
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._wakeup != -1:
            signal.set_wakeup_fd(self._wakeup)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # a closed stream; one that was just printing
            print("stopping after this step, with a checkpoint; again: at once", file=sys.stderr, flush=True)
        if self._aside:
            raise KeyboardInterrupt

    def aside(self, work: Callable[[], None]) -> None:
        """Do ``work`` that changes nothing in the training; a signal ends it at once, an earlier one leaves it out."""
        if self.number:
            return
        self._aside = True
        try:
            work()
        except KeyboardInterrupt:
            if not self.number:  # raised by somebody else
                raise
        finally:
            self._aside = False

    def agreed(self) -> bool:
        """Whether a signal came to any of the processes. Every process calls it after every step."""
        if self._group is None:
            return self.number > 0
        told = torch.tensor([self.number])
        distributed.all_reduce(told, distributed.ReduceOp.MAX, self._group)  # pyright: ignore[reportUnknownMemberType] - torch gives none
        return bool(told)

    def obey(self) -> None:
        """End as the signal would have ended this process at first; a process that got none is interrupted too."""
        if self.number:
            signal.raise_signal(self.number)
        raise KeyboardInterrupt
