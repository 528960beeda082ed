"""Progress of a training on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from smalti_train.data.progress import open_bar


class Reporter:
    """Progress of a run on stderr: a bar on a terminal, a line every ``every`` seconds elsewhere.

    The run has done ``step`` of ``steps`` steps of ``batch`` images. Only the ``main`` process writes.
    """

    def __init__(self, title: str, step: int, steps: int, batch: int, main: bool, every: float = 15.0) -> None:
        self.title, self.steps, self.batch, self.main, self.every = title, steps, batch, main, every
        self.first, self.started, self.spoke = step, time.monotonic(), 0.0
        self.bar = open_bar() if main else None
        if self.bar is not None:
            self.bar.start()
            self.task = self.bar.add_task(title, total=steps, completed=step, figures="")

    def __call__(self, step: int, figures: Mapping[str, float]) -> None:
        """Report that ``step`` is done, with its figures."""
        rate = (step - self.first) * self.batch / max(1e-9, time.monotonic() - self.started)
        text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items()) + f"  {rate:.1f} images/s"
        if self.bar is not None:
            self.bar.update(self.task, completed=step, figures=text)
        elif self.main and (time.monotonic() - self.spoke > self.every or step == self.steps):
            self.spoke = time.monotonic()
            left = (self.steps - step) * self.batch / max(1e-9, rate)
            print(f"{self.title} {step}/{self.steps}  {text}  {left / 60:.1f} min left", file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self.bar is not None:
            self.bar.console.print(line, highlight=False)
        elif self.main:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Restore the terminal."""
        if self.bar is not None:
            self.bar.stop()
