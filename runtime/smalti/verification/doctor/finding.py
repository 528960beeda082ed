"""One line of what the doctor says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "missing"]


@dataclass(frozen=True)
class Finding:
    """A part of the machine, and what is to be said of it."""

    topic: str
    verdict: Verdict
    text: str
    remedy: str = ""
    """What to do, in one or more lines; empty only for ok."""


def ok(topic: str, text: str) -> Finding:
    """Say that a part is as it should be, or that nothing here needs it."""
    return Finding(topic, "ok", text)


def warn(topic: str, text: str, remedy: str) -> Finding:
    """Say that a part works, but not well."""
    return Finding(topic, "warn", text, remedy)


def missing(topic: str, text: str, remedy: str) -> Finding:
    """Say that a part is absent or unusable."""
    return Finding(topic, "missing", text, remedy)
