"""Draws of equal settings as one batch. A token does not depend on the batch that it is drawn in."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from smalti.drawing.generator import Generator
from smalti.drawing.result import Result
from smalti.families.base import Settings


class AllGone(threading.Event):
    """An event that is set once all of several are: a batch is of use while one of its clients waits."""

    def __init__(self, events: Sequence[threading.Event]) -> None:
        """Take the events of all."""
        super().__init__()
        self.events = tuple(events)

    def is_set(self) -> bool:
        """Return whether all are set."""
        return all(event.is_set() for event in self.events)


def alike(one: Settings, other: Settings) -> bool:
    """Return whether two draws differ in their seeds and labels alone."""
    return replace(one, seeds=(), labels=()) == replace(other, seeds=(), labels=())


def draw_together(generator: Generator, draws: Sequence[Settings], gone: Sequence[threading.Event]) -> list[Result]:
    """Draw several at once; return the result of each.

    ``draws`` are alike. The draw ends once all events of ``gone`` are set. Raises what generate raises.
    """
    seeds = [seed for settings in draws for seed in settings.seeds]
    labels = [label for settings in draws for label in settings.labels]
    options: dict[str, Any] = {name: value for name, value in draws[0].options.items() if value is not None}
    result = generator.generate(seeds=seeds, label=labels, cancel=AllGone(gone), **options)
    found: list[Result] = []
    first = 0
    for settings in draws:
        part = slice(first, first + len(settings.seeds))
        found.append(
            replace(
                result,
                images=result.images[part],
                tokens=result.tokens[part],
                settings=replace(
                    result.settings, seeds=result.settings.seeds[part], labels=result.settings.labels[part]
                ),
            )
        )
        first = part.stop
    return found
