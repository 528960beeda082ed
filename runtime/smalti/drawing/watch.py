"""Who watches a call: an event that cancels it, and a function that is told each step."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeAlias, TypeVar

from smalti.drawing.result import Step
from smalti.errors import Cancelled, UsageError

Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")
OnStep: TypeAlias = Callable[[Step], object]


@dataclass(frozen=True)
class Watch:
    """What a call does between two pieces of work."""

    cancel: threading.Event | None = None
    on_step: OnStep | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for what cannot be asked or told."""
        if self.cancel is not None and not callable(getattr(self.cancel, "is_set", None)):
            raise UsageError(f"cancel {self.cancel!r}: an event is needed, such as threading.Event()")
        if self.on_step is not None and not callable(self.on_step):
            raise UsageError(f"on_step {self.on_step!r}: a function that takes a step is needed")

    def check(self) -> None:
        """Raise Cancelled once the event is set."""
        if self.cancel is not None and self.cancel.is_set():
            raise Cancelled("the call was cancelled; nothing of it is kept")

    def guarded(self, work: Callable[Asked, Answer]) -> Callable[Asked, Answer]:
        """Return ``work`` that is not begun once the event is set."""
        if self.cancel is None:
            return work

        def checked(*arguments: Asked.args, **named: Asked.kwargs) -> Answer:
            self.check()
            return work(*arguments, **named)

        return checked


UNWATCHED: Any = Watch()
