"""Schedules in a form that tests can look at."""

from __future__ import annotations

from smalti.families.absorbing.schedule import Schedule


def calls_of(schedule: Schedule, sample: int) -> list[tuple[int, tuple[int, ...]]]:
    """(step, positions) of each call of one sample."""
    rows = zip(schedule.steps[sample], schedule.positions[sample])
    return [(int(step), tuple(int(p) for p in positions if p >= 0)) for step, positions in rows if step >= 0]
