"""A draw that was asked for, whoever asked: done as a whole, or watched step by step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from smalti.drawing.generator import Generator
from smalti.drawing.result import Result, Step
from smalti.families.base import Settings
from smalti.families.settings import Options, resolve

Method = Literal["generate", "inpaint", "outpaint", "vary"]
LEAST_S: Final = 1 / 40
"""Seconds from one preview to the next: eyes and connections gain nothing by more."""


@dataclass(frozen=True)
class Call:
    """A call of a generator: its method, its options, and what belongs to this method alone."""

    method: Method
    options: Options
    count: int | None = None
    seed: int = 0
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])
    """Such as ``image``, ``mask`` and ``strength``."""

    def settings(self, generator: Generator) -> Settings:
        """Check the options of a draw from nothing, and return its settings. Raises as generate does."""
        return resolve(generator.manifest, self.count, self.seed, self.options, limits=generator.limits)

    def checked(self, generator: Generator) -> Call:
        """Return this call once its options are known to be allowed; pictures are checked where they are read.

        Raises UsageError and OutOfMemory.
        """
        asked: Any = dict(self.options)
        if self.method != "generate":  # the picture says how large
            asked.pop("size", None)
        resolve(generator.manifest, self.count, self.seed, asked, limits=generator.limits)
        return self

    def whole(
        self, generator: Generator, gone: threading.Event, on_step: Callable[[Step], object] | None = None
    ) -> Result:
        """Make the call. It ends once ``gone`` is set."""
        method: Any = getattr(generator, self.method)
        watched: dict[str, Any] = {"cancel": gone, "on_step": on_step}
        return method(**self.arguments, count=self.count, seed=self.seed, **watched, **self.options)

    def followed(
        self, generator: Generator, gone: threading.Event, tell: Callable[[Step], object], most: int | None = None
    ) -> Result:
        """Make the call, and tell steps whose previews somebody sees: not more than 40 a second.

        With ``most``, so many are spread evenly over the run, fewer where it has fewer steps. The last step is not
        told, for it is the result.
        """
        return self.whole(generator, gone, watching(tell, most))


def watching(tell: Callable[[Step], object], most: int | None = None) -> Callable[[Step], None]:
    """Return what is called with every step, and tells those that somebody sees: see :meth:`Call.followed`."""
    last = 0.0
    told = -1

    def watch(step: Step) -> None:
        nonlocal last, told
        place = step.index if most is None else (step.index + 1) * (most + 1) // step.total - 1
        now = time.perf_counter()
        if step.index + 1 == step.total or place <= told or (most is None and now - last < LEAST_S):
            return
        last, told = now, place
        tell(step)

    return watch
